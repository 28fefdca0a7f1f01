"""DNS over TCP cut, glued and mislabelled, from either side; it is the proxy's on either path."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.datapath import messages as m
from tests.e2e.nameserver import PATIENCE_SECONDS, V4, Victim, addresses_in, rcode, socket_in

NAME, EVIL = "www.example.com", "www.example.org"
SERVFAIL, REFUSED = 2, 5


def framed(message: bytes, length: int | None = None) -> bytes:
    return (len(message) if length is None else length).to_bytes(2, "big") + message


def exactly(tcp: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        octets += (more := tcp.recv(size - len(octets)))
        if not more:
            raise EOFError
    return octets


def message_from(tcp: socket.socket) -> bytes:
    """Raises EOFError when the other side closes instead."""
    return exactly(tcp, int.from_bytes(exactly(tcp, 2), "big"))


def all_messages(tcp: socket.socket) -> Iterator[bytes]:
    """Until the other side closes."""
    with suppress(EOFError, ConnectionError):
        while True:
            yield message_from(tcp)


@contextmanager
def connection(victim: Victim) -> Iterator[socket.socket]:
    """From the container to the server, as the container sees it."""
    with socket_in(victim.box.namespace, socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.connect((V4, 53))
        yield tcp


@contextmanager
def accepted(victim: Victim) -> Iterator[socket.socket]:
    """What comes of it at the server's end."""
    upstream, _ = victim.server.tcp.accept()
    with upstream:
        upstream.settimeout(PATIENCE_SECONDS)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield upstream


def honest(victim: Victim, *queries: bytes) -> None:
    """On a connection of its own these are asked first, and an honest query; it alone arrives."""
    address, query = victim.address(), m.query(NAME, ident=victim.ident())
    with connection(victim) as tcp:
        tcp.sendall(b"".join(framed(each) for each in (*queries, query)))
        with accepted(victim) as upstream:
            asked = message_from(upstream)
            assert asked[12:] == query[12:]
            answer = m.Message(NAME).address(NAME, address).pack()
            upstream.sendall(framed(asked[:2] + answer[2:]))
            while (got := message_from(tcp))[:2] != query[:2]:
                assert rcode(got) != 0
        assert addresses_in(got) == {address}
    assert victim.opened(address) == {address}


def test_octet_by_octet_from_both_sides(victim: Victim) -> None:
    address, query = victim.address(), m.query(NAME, ident=victim.ident())
    with connection(victim) as tcp:
        for octet in framed(query):
            tcp.send(bytes([octet]))
        with accepted(victim) as upstream:
            asked = message_from(upstream)
            answer = m.Message(NAME).address(NAME, address).pack()
            for octet in framed(asked[:2] + answer[2:]):
                upstream.send(bytes([octet]))
            assert addresses_in(message_from(tcp)) == {address}
    assert victim.opened(address) == {address}


def test_a_refused_name_octet_by_octet_is_not_passed_on(victim: Victim) -> None:
    with connection(victim) as tcp:
        for octet in framed(m.query(EVIL)):
            tcp.send(bytes([octet]))
        assert rcode(message_from(tcp)) == REFUSED
    honest(victim)


def test_two_queries_in_one_segment_are_two_queries(victim: Victim) -> None:
    honest(victim, m.query(EVIL, ident=40001))


def test_a_refused_name_behind_an_allowed_one_is_not_passed_on(victim: Victim) -> None:
    first, last = (m.query(NAME, ident=victim.ident()) for _ in range(2))
    with connection(victim) as tcp:
        tcp.sendall(framed(first) + framed(m.query(EVIL, ident=40001)) + framed(last))
        with accepted(victim) as upstream:
            for query in (first, last):
                assert message_from(upstream)[12:] == query[12:]
        assert message_from(tcp)[:2] == (40001).to_bytes(2, "big")


GOOD, BAD = m.query(NAME), m.query(EVIL)
LIES = {
    "nothing": framed(b""),
    "less than a header": framed(GOOD[:11]),
    "an allowed query and a refused one": framed(GOOD + BAD),
    "a refused query and an allowed one": framed(BAD + GOOD),
    "less than the allowed query": framed(GOOD, len(GOOD) - 1) + framed(BAD),
    "a header, the refused query behind it": framed(GOOD, 12) + BAD,
    "an octet more than the allowed query": framed(GOOD, len(GOOD) + 1) + framed(BAD),
    "much more than comes": framed(GOOD, 0xFFFF) + framed(BAD),
}


@pytest.mark.parametrize("octets", LIES.values(), ids=LIES)
def test_a_length_that_lies_passes_nothing_on(victim: Victim, octets: bytes) -> None:
    with connection(victim) as tcp:
        tcp.sendall(octets)
        tcp.shutdown(socket.SHUT_WR)
        for reply in all_messages(tcp):
            assert rcode(reply) != 0
    honest(victim)


def test_zone_transfers_and_other_classes_are_not_passed_on(victim: Victim) -> None:
    queries = (m.query(NAME, 252), m.query(NAME, 251), m.query(NAME, qclass=m.CH))
    honest(victim, *queries)


def answered(victim: Victim, *answers: bytes) -> bytes:
    """What the client hears when the server sends this, each under the query's id, and closes."""
    query = m.query(NAME, ident=victim.ident())
    with connection(victim) as tcp:
        tcp.sendall(framed(query))
        with accepted(victim) as upstream:
            ident = message_from(upstream)[:2]
            upstream.sendall(b"".join(framed(ident + answer[2:]) for answer in answers))
        return message_from(tcp)


def address_answer(address: str, name: str = NAME, qtype: int = m.A) -> bytes:
    return m.Message(name, qtype).address(name, address).pack()


def test_a_server_that_answers_another_question_opens_nothing(victim: Victim) -> None:
    bad, good = victim.address(), victim.address()
    for wrong in (
        address_answer(bad, "api.example.com"),
        address_answer(bad, EVIL),
        address_answer(bad, qtype=m.AAAA),
        m.header(0, m.QR, (2, 1, 0, 0)) + address_answer(bad)[12:],
    ):
        assert addresses_in(answered(victim, wrong, address_answer(good))) <= {good}
    assert victim.opened(bad) == set()


def test_a_second_answer_opens_nothing(victim: Victim) -> None:
    good, bad = victim.address(), victim.address()
    got = answered(victim, address_answer(good), address_answer(bad))
    assert addresses_in(got) == {good}
    assert victim.opened(good, bad) == {good}


def test_an_answer_whose_length_lies_opens_nothing(victim: Victim) -> None:
    bad = victim.address()
    query = m.query(NAME, ident=victim.ident())
    for more in (-1, -5, 1, 1000):
        with connection(victim) as tcp:
            tcp.sendall(framed(query))
            with accepted(victim) as upstream:
                answer = message_from(upstream)[:2] + address_answer(bad)[2:]
                upstream.sendall(framed(answer, len(answer) + more))
            assert rcode(message_from(tcp)) == SERVFAIL
    assert victim.opened(bad) == set()


@pytest.mark.parametrize("count", [1024, 1025])
def test_more_addresses_than_the_bound_are_not_delivered(victim: Victim, count: int) -> None:
    addresses = [victim.address() for _ in range(count)]
    message = m.Message(NAME)
    for address in addresses:
        message.address(NAME, address)
    got = answered(victim, message.pack())
    some = addresses[:: count // 16]
    if count > 1024:
        assert rcode(got) == SERVFAIL
        assert victim.opened(*some) == set()
    else:
        assert addresses_in(got) == set(addresses)
        assert victim.opened(*some) == set(some)
