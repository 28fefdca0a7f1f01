"""Headers that lie, end early or hide what follows: never judged as something they are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fqdnwall.datapath.layouts import DropReason, EndpointFlag
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    IFINDEX,
    INGRESS,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
TCP4 = p.tcp(CLIENT4, SERVER4, 40000, 443)
TCP6 = p.tcp(CLIENT6, SERVER6, 40000, 443)
INVALID, L4_INVALID = DropReason.INVALID_PACKET, DropReason.CT_INVALID_HEADER
EXTENSION_INVALID = DropReason.INVALID_EXTENSION_HEADER
ONLY_443 = entry(0, protocol=6, port=443)


def v4(l4: p.L4 = TCP4, **fields: int | bytes) -> bytes:
    return p.framed(p.ipv4(CLIENT4, SERVER4, l4, **fields))  # type: ignore[arg-type]


def v6(l4: p.L4 = TCP6, **fields: int) -> bytes:
    return p.framed(p.ipv6(CLIENT6, SERVER6, l4, **fields))


@both_families
@pytest.mark.parametrize(
    ("number", "header"), [(0, 20), (1, 8), (2, 12), (3, 8)], ids=["tcp", "udp", "sctp", "icmp"]
)
def test_a_layer_4_header_that_is_not_whole_never_passes(
    bench: Bench, client: str, server: str, number: int, header: int
) -> None:
    bench.policy(entry(0), entry(0, direction=INGRESS))
    makers: list[Callable[[], p.L4]] = [
        lambda: p.tcp(client, server, 1, 2),
        lambda: p.udp(client, server, 1, 2),
        lambda: p.sctp(1, 2),
        lambda: p.echo(client, server, 1),
    ]
    protocol, octets = makers[number]()
    for length in range(header):
        short = p.frame(client, server, (protocol, octets[:length]))
        assert bench.send(short).reason is L4_INVALID, length
        # Octets behind the end of the datagram, as Ethernet's padding, do not complete it.
        padded = short + octets[length:] + bytes(32)
        assert bench.send(padded).reason is L4_INVALID, length
    assert bench.flows() == []
    assert bench.send(p.frame(client, server, (protocol, octets[:header]))).passed


@both_families
def test_a_frame_that_ends_early_never_passes(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0))
    whole = p.frame(client, server, p.tcp(client, server, 40000, 443, payload=b"hello"))
    header = 14 + (40 if ":" in client else 20)  # newer kernels' test runs take no less
    for length in range(header, len(whole)):
        assert not bench.send(whole[:length]).passed, length
    assert bench.flows() == []
    assert bench.send(whole).passed


@both_families
def test_padding_behind_a_whole_packet_does_no_harm(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0))
    assert bench.send(p.frame(client, server, p.udp(client, server, 1, 2)) + bytes(40)).passed


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 6},
        {"version": 0},
        {"header_words": 4},
        {"header_words": 0},
        {"header_words": 15},
        {"total_length": 0},
        {"total_length": 19},
        {"total_length": 41},
        {"total_length": 65535},
    ],
    ids=str,
)
def test_an_ipv4_header_that_lies_is_refused(bench: Bench, fields: dict[str, int]) -> None:
    bench.policy(entry(0))
    frame = p.ethernet(p.ipv4(CLIENT4, SERVER4, TCP4, **fields), p.ETH_IPV4)  # type: ignore[arg-type]
    assert bench.send(frame).reason in (INVALID, L4_INVALID)
    assert bench.flows() == []


@pytest.mark.parametrize(
    "fields",
    [{"version": 4}, {"version": 0}, {"payload_length": 0}, {"payload_length": 21}],
    ids=str,
)
def test_an_ipv6_header_that_lies_is_refused(bench: Bench, fields: dict[str, int]) -> None:
    bench.policy(entry(0))
    frame = p.ethernet(p.ipv6(CLIENT6, SERVER6, TCP6, **fields), p.ETH_IPV6)
    assert bench.send(frame).reason in (INVALID, L4_INVALID)


def test_a_tcp_header_that_claims_less_than_itself_is_refused(bench: Bench) -> None:
    bench.policy(entry(0))
    protocol, octets = TCP4
    for words in range(5):
        short = octets[:12] + bytes([words << 4]) + octets[13:]
        assert bench.send(v4((protocol, short))).reason is L4_INVALID


NOP, END = b"\x01", b"\x00"


@pytest.mark.parametrize(
    "options",
    [
        b"\x83\x07\x04\x01\x02\x03\x04",
        b"\x89\x07\x04\x01\x02\x03\x04",
        NOP * 4 + b"\x83\x07\x04\x01\x02\x03\x04",
        b"\x44\x04\x05\x00" + b"\x89\x07\x04\x01\x02\x03\x04",
        NOP * 33 + b"\x83\x07\x04\x01\x02\x03\x04",
        b"\x07\x00\x04\x01",
        b"\x07\x01\x04\x01",
    ],
    ids=["loose", "strict", "behind nops", "behind timestamp", "last", "length 0", "length 1"],
)
def test_a_source_route_and_a_broken_option_are_refused(bench: Bench, options: bytes) -> None:
    bench.policy(entry(0))
    assert bench.send(v4(options=options)).reason is INVALID


@pytest.mark.parametrize(
    "options",
    [
        b"\x94\x04\x00\x00",
        b"\x07\x07\x04\x00\x00\x00\x00",
        NOP * 40,
        END + b"\x83\x07\x04\x01\x02\x03\x04",
        b"\x44\x08\x05\x00\x83\x07\x04\x00",
    ],
    ids=["router alert", "record route", "nops", "behind the end", "inside another"],
)
def test_other_options_are_stepped_over(bench: Bench, options: bytes) -> None:
    bench.policy(ONLY_443)
    assert bench.send(v4(options=options)).passed
    wrong = p.tcp(CLIENT4, SERVER4, 40000, 80)
    assert bench.send(v4(wrong, options=options)).reason is DropReason.POLICY_DENIED


EXTENDED: dict[str, Callable[[p.L4], p.L4]] = {
    "hop by hop": lambda l4: p.extension(p.HOP_BY_HOP, l4),
    "destination": lambda l4: p.extension(p.DESTINATION, l4, words=3),
    "longest": lambda l4: p.extension(p.DESTINATION, l4, words=255),
    "authentication": p.authentication,
    "routing used up": lambda l4: p.routing(l4, segments_left=0),
    "atomic fragment": lambda l4: p.fragment_header(l4, 7),
    "several": lambda l4: p.extension(
        p.HOP_BY_HOP, p.extension(p.DESTINATION, p.routing(l4, segments_left=0))
    ),
}


@pytest.mark.parametrize("kind", EXTENDED)
def test_ipv6_extension_headers_are_stepped_over(bench: Bench, kind: str) -> None:
    bench.policy(ONLY_443)
    extend = EXTENDED[kind]
    assert bench.send(v6(extend(p.tcp(CLIENT6, SERVER6, 40000, 80)))).reason is (
        DropReason.POLICY_DENIED
    )
    assert bench.send(v6(extend(TCP6))).passed
    answer = extend(p.tcp(SERVER6, CLIENT6, 443, 40000, "SA"))
    assert bench.receive(p.framed(p.ipv6(SERVER6, CLIENT6, answer))).passed


@pytest.mark.parametrize("kind", EXTENDED)
def test_an_extension_header_that_ends_early_never_passes(bench: Bench, kind: str) -> None:
    bench.policy(entry(0))
    protocol, octets = EXTENDED[kind](TCP6)
    for length in range(0, len(octets), max(1, len(octets) // 60)):
        assert not bench.send(v6((protocol, octets[:length]))).passed, length


@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_a_routing_header_with_segments_left_is_refused(bench: Bench, kind: int) -> None:
    bench.policy(entry(0))
    assert bench.send(v6(p.routing(TCP6, segments_left=1, kind=kind))).reason is EXTENSION_INVALID


@pytest.mark.parametrize(("count", "passes"), [(1, True), (7, True), (8, True), (9, False)])
def test_too_many_extension_headers_are_refused(bench: Bench, count: int, passes: bool) -> None:
    bench.policy(entry(0))
    l4 = TCP6
    for _ in range(count):
        l4 = p.extension(p.DESTINATION, l4)
    sent = bench.send(v6(l4))
    assert sent.passed is passes
    assert sent.reason is (None if passes else EXTENSION_INVALID)


def test_a_packet_without_a_next_header_is_judged_as_protocol_59(bench: Bench) -> None:
    bench.policy(ONLY_443)
    assert bench.send(v6((p.NO_NEXT, TCP6[1]))).reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize("end", ["source", "destination"])
def test_a_mapped_address_on_the_wire_is_refused(bench: Bench, end: str) -> None:
    bench.policy(entry(0), entry(0, direction=INGRESS))
    ends = (f"::ffff:{CLIENT4}", SERVER6) if end == "source" else (CLIENT6, f"::ffff:{SERVER4}")
    packet = p.ipv6(*ends, p.tcp(*ends, 1, 2))
    assert bench.send(p.framed(packet)).reason is INVALID
    assert bench.receive(p.framed(packet)).reason is INVALID


@pytest.mark.parametrize("ethertype", [0x0000, 0x0026, 0x0600, 0x8035, 0x8847, 0x8863, 0x88CC])
def test_what_is_neither_ip_nor_arp_is_refused(bench: Bench, ethertype: int) -> None:
    bench.enforce(EndpointFlag(0))
    frame = p.ethernet(p.ipv4(CLIENT4, SERVER4, TCP4), ethertype)
    assert bench.send(frame).reason is DropReason.UNKNOWN_L3
    assert bench.receive(frame).reason is DropReason.UNKNOWN_L3


@pytest.mark.parametrize("ethertype", [0x8100, 0x88A8])
def test_a_vlan_tag_hides_nothing(bench: Bench, ethertype: int) -> None:
    bench.enforce(EndpointFlag(0))
    tagged = p.ethernet(b"\0\x05\x08\0" + p.ipv4(CLIENT4, SERVER4, TCP4), ethertype)
    assert bench.send(tagged).reason in (DropReason.UNKNOWN_L3, DropReason.VLAN_FILTERED)
    assert not bench.receive(tagged).passed


@pytest.mark.parametrize("ethertype", [p.ETH_IPV4, p.ETH_IPV6])
def test_a_packet_is_read_as_its_ethertype_says(bench: Bench, ethertype: int) -> None:
    bench.policy(entry(0))
    packet = (
        p.ipv6(CLIENT6, SERVER6, TCP6)
        if ethertype == p.ETH_IPV4
        else p.ipv4(CLIENT4, SERVER4, TCP4)
    )
    assert bench.send(p.ethernet(packet + bytes(40), ethertype)).reason is INVALID


def test_an_interface_that_no_endpoint_is_behind_is_closed(bench: Bench) -> None:
    bench.maps.endpoints.delete(IFINDEX)
    for frame in (v4(), v6(), p.arp(CLIENT4, SERVER4)):
        assert bench.send(frame).verdict == "drop"
        assert bench.receive(frame).verdict == "drop"
    counted = bench.maps.packet_counters()
    assert counted[DropReason.ENDPOINT_NOT_READY, True].packets >= 3


@both_families
def test_the_source_must_be_the_endpoints_own(bench: Bench, client: str, server: str) -> None:
    bench.enforce(EndpointFlag(0))
    for source in (server, "10.9.0.3" if "." in client else "fd09::3", "0.0.0.0"):
        if p.is_ipv6(source) == p.is_ipv6(client):
            spoofed = p.frame(source, server, p.udp(source, server, 1, 2))
            assert bench.send(spoofed).reason is DropReason.INVALID_SOURCE_IP
    assert bench.send(p.frame(client, server, p.udp(client, server, 1, 2))).passed


@both_families
def test_another_endpoints_address_is_not_its_own(bench: Bench, client: str, server: str) -> None:
    bench.enforce(EndpointFlag(0))
    other = "10.9.0.3" if "." in client else "fd09::3"
    bench.own(other, endpoint=99)
    spoofed = p.frame(other, server, p.udp(other, server, 1, 2))
    assert bench.send(spoofed).reason is DropReason.INVALID_SOURCE_IP


def test_a_source_is_checked_before_policy_and_in_audit_mode_too(bench: Bench) -> None:
    bench.enforce(EndpointFlag.AUDIT | EndpointFlag.ENFORCE_EGRESS)
    spoofed = p.frame(SERVER4, SERVER4, p.udp(SERVER4, SERVER4, 1, 2))
    assert bench.send(spoofed).reason is DropReason.INVALID_SOURCE_IP


@pytest.mark.parametrize("length_field", ["total", "payload"])
def test_a_super_packet_may_leave_its_length_zero(bench: Bench, length_field: str) -> None:
    """BIG TCP: the kernel's own segments of more than 64 KiB say 0."""
    bench.policy(entry(0))
    frame = v4(total_length=0) if length_field == "total" else v6(payload_length=0)
    assert bench.send(frame, gso_size=1000).passed
    assert not bench.send(frame).passed
