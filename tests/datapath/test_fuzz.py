"""Frames that nobody meant: whatever they hold, a closed endpoint stays closed.

With default deny and no rule, only the link's own control passes: ARP and neighbour discovery in
which the endpoint speaks for itself. `may_pass` says which frames those are by a parser of its own
that is stricter than any receiver. Frames are drawn as octets, as good frames with octets changed,
and as headers put together at random.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    INGRESS,
    OTHER4,
    OTHER6,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

ETHERTYPES = [p.ETH_IPV4, p.ETH_IPV6, p.ETH_ARP, 0x8100, 0x88A8, 0x0000]
PROTOCOLS = [0, 1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 255]
V4 = [CLIENT4, SERVER4, OTHER4, "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"]
V6 = [CLIENT6, SERVER6, OTHER6, "::", "::1", "fe80::2", "ff02::1", "::ffff:10.9.0.2"]
LINK_CONTROL = {130, 131, 132, 133, 134, 135, 136, 137, 143}


def may_pass(frame: bytes) -> bool:
    """Whether the frame is ARP or the IPv6 link control that a closed endpoint may exchange."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == p.ETH_ARP:
        return frame[14:20] == b"\0\1\x08\0\6\4"
    return ethertype == p.ETH_IPV6 and icmpv6_type(frame[14:]) in LINK_CONTROL


def icmpv6_type(packet: bytes) -> int | None:
    """The type of an ICMPv6 message behind any extension headers."""
    kind, at = packet[6], 40
    while kind in (0, 43, 44, 51, 60) and len(packet) >= at + 2:
        following, words = packet[at], packet[at + 1]
        at += {44: 8, 51: (words + 2) * 4}.get(kind, (words + 1) * 8)
        kind = following
    return packet[at] if kind == p.ICMPV6 and len(packet) > at else None


def good_frames() -> list[bytes]:
    """One of every kind that the builders make."""
    out = [p.arp(CLIENT4, SERVER4), p.neighbour(CLIENT6, "ff02::1", 135, SERVER6)]
    for client, server in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]:
        quoted = p.ip(server, client, p.udp(server, client, 1, 2))
        for l4 in [
            p.tcp(client, server, 40000, 443),
            p.udp(client, server, 40000, 53),
            p.sctp(1, 2),
            p.echo(client, server, 1),
            p.icmp_error(client, server, quoted),
        ]:
            out += [p.frame(client, server, l4), *p.fragments(client, server, l4, first=8)]
    for wrap in (p.authentication, lambda l4: p.extension(p.HOP_BY_HOP, p.fragment_header(l4, 1))):
        out.append(p.frame(CLIENT6, SERVER6, wrap(p.tcp(CLIENT6, SERVER6, 1, 2))))
    options = b"\x44\x04\x05\x00\x01\x07\x03\x04"
    out.append(p.framed(p.ipv4(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 1, 2), options=options)))
    return out


def noise(draw: random.Random) -> bytes:
    body = draw.randbytes(draw.randrange(46, 200))
    return p.ethernet(body, draw.choice(ETHERTYPES))


def changed(draw: random.Random, good: list[bytes]) -> bytes:
    frame = bytearray(draw.choice(good))
    for _ in range(draw.randrange(1, 6)):
        frame[draw.randrange(12, len(frame))] = draw.choice([0, 1, 4, 6, 44, 58, 60, 135, 143, 255])
    if draw.random() < 0.3:
        del frame[draw.randrange(54, max(55, len(frame))) :]
    return bytes(frame).ljust(54, b"\0")


def assembled(draw: random.Random) -> bytes:
    l4: p.L4 = draw.choice(PROTOCOLS), draw.randbytes(draw.randrange(0, 60))
    hops = draw.choice([0, 1, 64, 255])
    if draw.random() < 0.5:
        ends = draw.choice(V4), draw.choice(V4)
        return p.framed(
            p.ipv4(
                *ends,
                l4,
                options=draw.randbytes(draw.choice([0, 0, 4, 12, 40])),
                offset=draw.choice([0, 0, 8, 1480]),
                more=draw.random() < 0.3,
                ttl=hops,
            )
        )
    for _ in range(draw.randrange(0, 5)):
        kind = draw.choice([0, 43, 44, 51, 60])
        if kind == 44:
            l4 = p.fragment_header(l4, 1, offset=draw.choice([0, 0, 8]), more=draw.random() < 0.3)
        elif kind == 51:
            l4 = p.authentication(l4)
        else:
            l4 = p.extension(kind, l4, words=draw.randrange(3), body=draw.randbytes(6))
    return p.framed(p.ipv6(draw.choice(V6), draw.choice(V6), l4, hop_limit=hops))


def frames(seed: int, count: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    good = good_frames()
    makers: list[Callable[[], bytes]] = [
        lambda: noise(draw),
        lambda: changed(draw, good),
        lambda: assembled(draw),
    ]
    for _ in range(count):
        yield draw.choice(makers)()


def attempt(bench: Bench, frame: bytes) -> tuple[str, str]:
    """The verdicts of both programs; a frame that the test run itself refuses is as dropped."""
    found = []
    for program in ("from_endpoint", "to_endpoint"):
        try:
            found.append(bench.verdict(program, frame))
        except OSError as error:
            if error.errno != errno.EINVAL:  # shorter than the IP header that it announces
                raise
            found.append("drop")
    return found[0], found[1]


def stays_closed(bench: Bench, seed: int, count: int) -> None:
    bench.configure(events_per_second=0)
    passed = 0
    for number, frame in enumerate(frames(seed, count)):
        verdicts = attempt(bench, frame)
        assert "redirect" not in verdicts, (seed, number, frame.hex())
        if "pass" in verdicts:
            passed += 1
            assert may_pass(frame), (seed, number, frame.hex())
    assert passed, "the fuzzer draws nothing that could pass: it tests too little"
    assert bench.flows() == []


def replies_only(bench: Bench, seed: int, count: int) -> None:
    """With one flow open, what passes is of that flow, an error about it, or link control."""
    bench.configure(events_per_second=0)
    bench.policy(entry(0, protocol=17, port=53))
    for client, server in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]:
        assert bench.send(p.frame(client, server, p.udp(client, server, 40000, 53))).passed
    bench.policy()
    for key, value in bench.flows():
        bench.maps.conntrack.put(key, replace(value, generation=bench.generation))
    ends = {p.packed(address) for address in (CLIENT4, CLIENT6, SERVER4, SERVER6)}
    for number, frame in enumerate(frames(seed, count)):
        if "pass" not in attempt(bench, frame) or may_pass(frame):
            continue
        source, destination = p.addresses(frame[14:])
        assert {source.packed, destination.packed} & ends, (seed, number, frame.hex())
    assert len(bench.flows()) == 2


def survives(bench: Bench, seed: int, count: int) -> None:
    """With everything allowed, no frame passes that a receiver would have to read as another."""
    bench.configure(events_per_second=0)
    bench.policy(entry(0), entry(0, direction=INGRESS))
    for number, frame in enumerate(frames(seed, count)):
        if "pass" not in attempt(bench, frame) or may_pass(frame):
            continue
        packet = frame[14:]
        if packet[0] >> 4 == 4:
            header, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
            assert 20 <= header <= total <= len(packet), (seed, number, frame.hex())
        else:
            assert packet[0] >> 4 == 6, (seed, number, frame.hex())
            length = int.from_bytes(packet[4:6], "big")
            assert 40 + length <= len(packet), (seed, number, frame.hex())


RUNS = [stays_closed, replies_only, survives]
by_claim = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)


@by_claim
def test_frames_at_random(bench: Bench, run: Callable[[Bench, int, int], None]) -> None:
    run(bench, 2024, 4000)


@pytest.mark.slow
@by_claim
@pytest.mark.parametrize("seed", range(4))
def test_many_more_frames_at_random(
    bench: Bench, run: Callable[[Bench, int, int], None], seed: int
) -> None:
    run(bench, seed, 100_000)
