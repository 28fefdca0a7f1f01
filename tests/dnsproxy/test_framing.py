"""Messages on a stream: cut anywhere, many at once, and prefixes that lie."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsproxy.framing import Deframer, FramingError, frame

MESSAGES = (b"a" * 12, b"b" * 300, b"c" * 65535)


def drain(deframer: Deframer) -> list[bytes]:
    messages = []
    while (message := deframer.next_message()) is not None:
        messages.append(message)
    return messages


def test_stream_cut_at_every_octet_gives_the_same_messages() -> None:
    stream = frame(MESSAGES[0]) + frame(MESSAGES[1])
    for cut in range(len(stream) + 1):
        deframer = Deframer()
        deframer.feed(stream[:cut])
        messages = drain(deframer)
        deframer.feed(stream[cut:])
        assert messages + drain(deframer) == list(MESSAGES[:2])


def test_stream_octet_by_octet_gives_the_same_messages() -> None:
    deframer = Deframer()
    messages = []
    for octet in frame(MESSAGES[0]) + frame(MESSAGES[1]):
        deframer.feed(bytes([octet]))
        messages += drain(deframer)
    assert messages == list(MESSAGES[:2])
    assert not deframer.partial


@given(
    st.lists(st.binary(min_size=12, max_size=70), max_size=6),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_any_cuts_give_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    deframer = Deframer()
    got = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        deframer.feed(stream[start:end])
        got += drain(deframer)
    assert got == messages


def test_longest_message_fits() -> None:
    deframer = Deframer()
    deframer.feed(frame(MESSAGES[2]))
    assert drain(deframer) == [MESSAGES[2]]
    with pytest.raises(FramingError):
        frame(MESSAGES[2] + b"c")


@pytest.mark.parametrize("length", range(12))
def test_length_that_no_message_has_is_an_error(length: int) -> None:
    deframer = Deframer()
    deframer.feed(frame(MESSAGES[0]) + length.to_bytes(2, "big"))
    assert deframer.next_message() == MESSAGES[0]
    with pytest.raises(FramingError):
        deframer.next_message()


def test_length_that_promises_too_much_is_waited_for() -> None:
    deframer = Deframer()
    deframer.feed(b"\xff\xff" + b"x" * 100)
    assert deframer.next_message() is None
    assert deframer.partial
