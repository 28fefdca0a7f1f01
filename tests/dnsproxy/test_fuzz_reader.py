"""Mutated messages against two other readings: a slow one written here, and dnslib's.

The reader may refuse what another takes (being strict is its trade), but what it accepts must mean
the same to all three, and nothing but `Malformed` may come out.
"""

from __future__ import annotations

import contextlib
import os
import struct
from ipaddress import ip_address

import dnslib
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dnsproxy.reader import Malformed, read_answer, read_query
from tests.dnsproxy.messages import (
    AAAA,
    CNAME,
    HTTPS,
    QR,
    RD,
    A,
    address,
    cname,
    message,
    name,
    opt,
    pointer,
    query,
    question,
    record,
    response,
    service,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "250"))  # for a long run: 100000

QNAME = "www.example.com"
END = 12 + len(question(QNAME))

owners = st.sampled_from(
    [
        pointer(12),
        pointer(16),
        pointer(END),
        pointer(END + 12),
        b"\x03www" + pointer(16),
        name(QNAME),
        name("WWW.example.COM"),
        name("cdn.test"),
        name("evil.test"),
    ]
)
names = st.sampled_from(["cdn.test", "b.cdn.test", QNAME, "evil.test"])
addresses_4 = st.binary(min_size=4, max_size=4)
ttls = st.sampled_from([0, 1, 30, 60, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
hints = st.lists(
    st.tuples(st.sampled_from([0, 1, 4, 6, 7]), st.binary(max_size=16)), max_size=3
).map(tuple)
records = st.one_of(
    st.builds(lambda owner, rdata, ttl: record(owner, A, rdata, ttl), owners, addresses_4, ttls),
    st.builds(
        lambda owner, rdata: record(owner, AAAA, rdata), owners, st.binary(min_size=16, max_size=16)
    ),
    st.builds(cname, owners, names, ttls),
    st.builds(lambda owner, target: record(owner, CNAME, target), owners, owners),
    st.builds(lambda owner, params: service(owner, *params), owners, hints),
    st.builds(lambda owner, rdata: record(owner, 0xFF00, rdata), owners, st.binary(max_size=9)),
)
sections = st.lists(records, max_size=4).map(tuple)
responses = st.builds(
    lambda answers, authorities, additionals: message(
        7, QR | RD, (question(QNAME),), answers, authorities, additionals
    ),
    sections,
    sections,
    st.lists(st.one_of(records, st.just(opt())), max_size=3).map(tuple),
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes], start: int) -> bytes:
    """A message with a few octets changed, removed or put in, from `start` on."""
    octets = bytearray(draw(messages))
    for _ in range(draw(st.integers(0, 4))):
        if len(octets) <= start:
            break
        at = draw(st.integers(start, len(octets) - 1))
        how = draw(st.sampled_from(["set", "bit", "cut", "insert", "delete"]))
        if how == "set":
            octets[at] = draw(st.sampled_from([0, 1, 4, 12, 0x3F, 0x40, 0x80, 0xC0, 0xFF]))
        elif how == "bit":
            octets[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del octets[at:]
        elif how == "insert":
            octets[at:at] = draw(st.binary(min_size=1, max_size=3))
        else:
            del octets[at]
    return bytes(octets)


class Slow:
    """The same reading once more, by a cursor that copies names out label by label."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def take(self, at: int, count: int) -> bytes:
        if at + count > len(self.octets):
            raise Malformed("end")
        return self.octets[at : at + count]

    def name(self, at: int, pointers: bool = True, jumps: int = 0) -> tuple[tuple[bytes, ...], int]:
        if jumps > 64:
            raise Malformed("jumps")
        labels: list[bytes] = []
        (length,) = self.take(at, 1)
        here = at
        while 0 < length < 64:
            labels.append(self.take(here + 1, length).lower())
            here += 1 + length
            (length,) = self.take(here, 1)
        if length == 0:
            after = here + 1
        elif length >= 0xC0 and pointers:
            target = struct.unpack("!H", self.take(here, 2))[0] & 0x3FFF
            if not 12 <= target < at:
                raise Malformed("pointer")
            rest, _ = self.name(target, True, jumps + 1)
            labels += rest
            after = here + 2
        else:
            raise Malformed("label")
        if sum(len(label) + 1 for label in labels) + 1 > 255:
            raise Malformed("long")
        return tuple(labels), after

    def addresses(self) -> dict[str, int]:
        counts = struct.unpack("!6H", self.take(0, 12))
        expected, at = self.name(12)
        at += 4
        least = 0x7FFFFFFF
        found: dict[str, int] = {}
        broken = False
        options = 0
        for section, count in enumerate(counts[3:]):
            for _ in range(count):
                owner, at = self.name(at)
                rtype, rclass, ttl, length = struct.unpack("!HHIH", self.take(at, 10))
                at += 10
                rdata = self.take(at, length)
                ttl = 0 if ttl > 0x7FFFFFFF else ttl
                if section == 2 and rtype == 41:
                    options += 1
                    if owner or options > 1:
                        raise Malformed("OPT")
                if section == 0 and rclass == 1 and rtype in (A, AAAA, CNAME, HTTPS, 64):
                    broken = broken or owner != expected
                    if rtype == CNAME:
                        expected, after = self.name(at)
                        if after != at + length:
                            raise Malformed("CNAME")
                        least = min(least, ttl)
                    else:
                        for packed in self.packed(rtype, at, rdata):
                            text = str(ip_address(packed))
                            found[text] = min(found.get(text, least), ttl, least)
                at += length
        if at != len(self.octets):
            raise Malformed("trailing")
        return {} if broken else found

    def packed(self, rtype: int, at: int, rdata: bytes) -> list[bytes]:
        if rtype in (A, AAAA):
            if len(rdata) != (4 if rtype == A else 16):
                raise Malformed("length")
            return [rdata]
        _, here = self.name(at + 2, pointers=False)
        end = at + len(rdata)
        found, keys = [], [-1]
        while here < end:
            key, length = struct.unpack("!HH", self.take(here, 4))
            here += 4
            if here + length > end or key <= keys[-1]:
                raise Malformed("param")
            keys.append(key)
            size = {4: 4, 6: 16}.get(key)
            if size and rdata[:2] != b"\x00\x00":
                if not length or length % size:
                    raise Malformed("hint")
                value = self.octets[here : here + length]
                found += [value[i : i + size] for i in range(0, length, size)]
            here += length
        if here != end:
            raise Malformed("fill")
        return found


def fast(payload: bytes) -> dict[str, int] | None:
    try:
        return {str(address): ttl for address, ttl in read_answer(payload, END).addresses}
    except Malformed:
        return None


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(responses, END))
@example(response(QNAME, address(pointer(12), "192.0.2.1")))
def test_answers_mean_the_same_to_the_slow_reading(payload: bytes) -> None:
    assume(len(payload) >= END)
    try:
        slow: dict[str, int] | None = Slow(payload).addresses()
    except Malformed:
        slow = None
    assert fast(payload) == slow


def by_dnslib(payload: bytes) -> set[str]:
    """The addresses that dnslib shows in the answer section, wherever they belong."""
    found = set()
    for rr in dnslib.DNSRecord.parse(payload).rr:
        if rr.rclass == 1 and rr.rtype in (A, AAAA):
            found.add(str(ip_address(bytes(rr.rdata.data))))
    return found


@st.composite
def chains(draw: st.DrawFn) -> bytes:
    """A response that teaches: CNAMEs in order, then addresses at the end of the chain."""
    answers, owner = [], pointer(12)
    for number in range(draw(st.integers(0, 3))):
        answers.append(cname(owner, f"c{number}.cdn.test", draw(ttls)))
        owner = name(f"c{number}.cdn.test")
    for _ in range(draw(st.integers(1, 4))):
        answers.append(record(owner, A, draw(addresses_4), draw(ttls)))
    return response(QNAME, *answers)


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(chains(), END))
def test_no_address_is_learned_that_dnslib_does_not_show(payload: bytes) -> None:
    learned = fast(payload)
    if not learned:
        return
    try:
        shown = by_dnslib(payload)
    except dnslib.DNSError:
        return  # dnslib wants labels in UTF-8, for one
    assert set(learned) <= shown


@settings(max_examples=50, deadline=None)
@given(chains())
def test_whole_chain_is_learned_and_dnslib_agrees(payload: bytes) -> None:
    assert set(fast(payload) or ()) == by_dnslib(payload) != set()


@settings(max_examples=EXAMPLES, deadline=None)
@given(mutated(st.builds(lambda edns: query("wWw.example.com", edns=edns), st.booleans()), 0))
def test_accepted_query_asks_what_dnslib_sees(payload: bytes) -> None:
    try:
        head = read_query(payload)
    except Malformed:
        return
    try:
        seen = dnslib.DNSRecord.parse(payload)
    except dnslib.DNSError:
        return
    assert len(seen.questions) == 1
    assert (seen.header.qr, seen.header.opcode, seen.header.a) == (0, 0, 0)
    assert (seen.q.qtype, seen.q.qclass) == (head.qtype, head.qclass)
    if "\\" not in head.qname:
        assert str(seen.q.qname).lower().rstrip(".") == head.qname.rstrip(".")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 64))
def test_noise_is_malformed_or_read_and_nothing_else(payload: bytes, end: int) -> None:
    with contextlib.suppress(Malformed):
        read_query(payload)
    with contextlib.suppress(Malformed):
        read_answer(payload, end)
