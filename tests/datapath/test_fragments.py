"""Fragments: a later one follows its first, and none rewrites what the first showed."""

from __future__ import annotations

import pytest

from fqdnwall.datapath.layouts import DropReason, Verdict
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    INGRESS,
    OTHER4,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
NOT_FOUND = DropReason.FRAGMENT_NOT_FOUND
LARGE = b"x" * 100


def datagram(client: str, server: str, port: int = 53) -> p.L4:
    return p.udp(client, server, 40000, port, LARGE)


@both_families
def test_a_later_fragment_is_judged_with_the_ports_of_the_first(
    bench: Bench, client: str, server: str
) -> None:
    bench.policy(entry(0, protocol=17, port=53))
    first, later = p.fragments(client, server, datagram(client, server))
    assert bench.send(first).passed
    assert bench.send(later).passed
    assert bench.flow()[1].tx_packets == 2
    first, later = p.fragments(client, server, datagram(client, server, 54), identification=8)
    assert bench.send(first).reason is DropReason.POLICY_DENIED
    assert bench.send(later).reason is DropReason.POLICY_DENIED


@both_families
def test_a_later_fragment_without_its_first_is_dropped(
    bench: Bench, client: str, server: str
) -> None:
    bench.policy(entry(0))
    first, later = p.fragments(client, server, datagram(client, server))
    assert bench.send(later).reason is NOT_FOUND
    assert bench.send(first).passed
    assert bench.send(later).passed


@both_families
def test_a_later_fragment_belongs_to_a_first_of_the_same_datagram_only(
    bench: Bench, client: str, server: str
) -> None:
    bench.policy(entry(0))
    other = OTHER4 if "." in client else "2001:db8::99"
    assert bench.send(p.fragments(client, server, datagram(client, server))[0]).passed
    for source, destination, number in [(client, server, 8), (client, other, 7)]:
        l4 = datagram(source, destination)
        later = p.fragments(source, destination, l4, identification=number)[1]
        assert bench.send(later).reason is NOT_FOUND
    backwards = p.fragments(server, client, datagram(server, client))[1]
    assert bench.receive(backwards).reason is NOT_FOUND


def test_ipv4_datagrams_of_another_protocol_are_others(bench: Bench) -> None:
    bench.policy(entry(0))
    assert bench.send(p.fragments(CLIENT4, SERVER4, datagram(CLIENT4, SERVER4))[0]).passed
    later = p.fragments(CLIENT4, SERVER4, (p.TCP, LARGE))[1]
    assert bench.send(later).reason is NOT_FOUND


@both_families
def test_an_answer_in_fragments_belongs_to_its_flow(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0))
    assert bench.send(p.frame(client, server, p.udp(client, server, 40000, 53))).passed
    for fragment in p.fragments(server, client, p.udp(server, client, 53, 40000, LARGE)):
        assert bench.receive(fragment).passed
    for fragment in p.fragments(server, client, p.udp(server, client, 53, 40001, LARGE)):
        assert bench.receive(fragment).reason is DropReason.POLICY_DENIED


@both_families
@pytest.mark.parametrize("size", [8, 16])
def test_a_first_fragment_too_small_for_its_tcp_header_is_dropped(
    bench: Bench, client: str, server: str, size: int
) -> None:
    bench.policy(entry(0))
    tcp = p.tcp(client, server, 40000, 443, payload=LARGE)
    first, later = p.fragments(client, server, tcp, first=size)
    assert bench.send(first + tcp[1][size:]).reason is DropReason.CT_INVALID_HEADER
    assert bench.send(later).reason is NOT_FOUND


@both_families
def test_a_later_fragment_does_not_reach_into_the_tcp_header(
    bench: Bench, client: str, server: str
) -> None:
    """RFC 3128: a fragment at offset 8 may rewrite the flags that were judged."""
    bench.policy(entry(0))
    tcp = p.tcp(client, server, 40000, 443, payload=LARGE)
    assert bench.send(p.fragments(client, server, tcp, first=24)[0]).passed
    for offset in (8, 16):
        overlapping = p.fragments(client, server, tcp, first=offset)[1]
        assert bench.send(overlapping).reason is DropReason.CT_INVALID_HEADER
    assert bench.send(p.fragments(client, server, tcp, first=24)[1]).passed


def test_ipv6_fragments_behind_extension_headers(bench: Bench) -> None:
    bench.policy(entry(0, protocol=17, port=53))
    protocol, octets = datagram(CLIENT6, SERVER6)

    def fragment(part: bytes, offset: int, more: bool) -> bytes:
        inner = p.fragment_header((protocol, part), 9, offset=offset, more=more)
        l4 = p.extension(p.HOP_BY_HOP, p.extension(p.DESTINATION, inner))
        return p.framed(p.ipv6(CLIENT6, SERVER6, l4))

    assert bench.send(fragment(octets[16:], 16, False)).reason is NOT_FOUND
    assert bench.send(fragment(octets[:16], 0, True)).passed
    assert bench.send(fragment(octets[16:], 16, False)).passed


@pytest.mark.parametrize(("port", "passes"), [(53, True), (54, False)])
def test_extension_headers_inside_the_fragments_hide_nothing(
    bench: Bench, port: int, passes: bool
) -> None:
    bench.policy(entry(0, protocol=17, port=53))
    whole = p.extension(p.DESTINATION, datagram(CLIENT6, SERVER6, port))
    for fragment in p.fragments(CLIENT6, SERVER6, whole, first=24):
        assert bench.send(fragment).passed is passes


def test_a_first_fragment_that_ends_in_its_extension_headers_is_dropped(bench: Bench) -> None:
    """RFC 7112: the first fragment holds the whole chain of headers."""
    bench.policy(entry(0))
    whole = p.extension(p.DESTINATION, datagram(CLIENT6, SERVER6))
    first, later = p.fragments(CLIENT6, SERVER6, whole, first=8)
    assert bench.send(first + whole[1][8:]).reason is DropReason.CT_INVALID_HEADER
    assert bench.send(later).reason is NOT_FOUND


def test_a_fragment_of_a_fragment_is_refused(bench: Bench) -> None:
    bench.policy(entry(0))
    l4 = datagram(CLIENT6, SERVER6)
    for outer in (True, False):
        inner = p.fragment_header(l4, 1, more=not outer)
        nested = p.fragment_header(inner, 2, more=outer)
        frame = p.framed(p.ipv6(CLIENT6, SERVER6, nested))
        assert bench.send(frame).reason is DropReason.INVALID_EXTENSION_HEADER


@both_families
def test_a_datagram_for_the_proxy_must_be_whole(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0, Verdict.REDIRECT, protocol=17, port=53))
    for fragment in p.fragments(client, server, datagram(client, server)):
        assert bench.send(fragment).reason is DropReason.FRAGMENT_NOT_SUPPORTED


@both_families
def test_fragments_of_an_echo_request_are_one_flow(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0, direction=INGRESS))
    kind = 128 if ":" in client else 8
    ping = p.icmp(server, client, kind, rest=b"\0\5\0\1", body=LARGE)
    for fragment in p.fragments(server, client, ping):
        assert bench.receive(fragment).passed
    assert bench.flow()[1].rx_packets == 2


def test_an_error_in_fragments_is_related_to_nothing(bench: Bench) -> None:
    bench.policy(entry(0))
    packet = p.ip(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 40000, 53, LARGE))
    assert bench.send(p.framed(packet)).passed
    error = p.icmp_error(SERVER4, CLIENT4, packet)
    for fragment in p.fragments(SERVER4, CLIENT4, error, first=64):
        assert bench.receive(fragment).reason is DropReason.POLICY_DENIED
