"""ICMP: echo belongs to who asked, and an error to the flow that it quotes."""

from __future__ import annotations

import pytest

from fqdnwall.datapath.layouts import CtState, DropReason, EventType
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

FAMILIES = [(CLIENT4, SERVER4, OTHER4), (CLIENT6, SERVER6, OTHER6)]
both_families = pytest.mark.parametrize(("client", "server", "other"), FAMILIES, ids=["v4", "v6"])


def ping(source: str, destination: str, identifier: int = 9, *, reply: bool = False) -> bytes:
    return p.frame(source, destination, p.echo(source, destination, identifier, reply=reply))


@both_families
def test_a_request_is_answered_once_it_was_let_out(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0))
    assert bench.receive(ping(server, client, reply=True)).reason is DropReason.POLICY_DENIED
    assert bench.send(ping(client, server)).passed
    assert bench.receive(ping(server, client, reply=True)).passed
    assert not bench.receive(ping(server, client, 10, reply=True)).passed
    assert not bench.receive(ping(other, client, reply=True)).passed


@both_families
def test_a_request_does_not_open_the_way_for_the_peers_with_the_same_identifier(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0))
    assert bench.send(ping(client, server)).passed
    assert bench.receive(ping(server, client)).reason is DropReason.POLICY_DENIED
    bench.reset()
    bench.policy(entry(0, direction=INGRESS))
    assert bench.receive(ping(server, client)).passed
    assert bench.send(ping(client, server, reply=True)).passed
    assert bench.send(ping(client, server)).reason is DropReason.POLICY_DENIED


@both_families
def test_a_reply_to_nothing_does_not_open_the_way_for_a_request(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0))
    assert bench.send(ping(client, server, reply=True)).passed
    assert bench.receive(ping(server, client)).reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize("identifier", [0, 1, 8, 0xFFFF])
def test_an_allowed_echo_opens_no_other_type(bench: Bench, identifier: int) -> None:
    bench.policy(entry(0, protocol=1, port=8, port_bits=16))
    assert bench.send(ping(CLIENT4, SERVER4, identifier)).passed
    for kind in (0, 3, 5, 11, 13, 14):
        message = p.icmp(CLIENT4, SERVER4, kind, rest=identifier.to_bytes(2, "big") + b"\0\1")
        assert not bench.send(p.frame(CLIENT4, SERVER4, message)).passed, kind


@pytest.mark.parametrize(
    ("source", "destination", "protocol"),
    [(CLIENT4, SERVER4, p.ICMPV6), (CLIENT6, SERVER6, p.ICMP)],
)
@pytest.mark.parametrize("kind", [8, 128, 133, 135, 143])
@pytest.mark.parametrize("hops", [1, 255])
def test_icmp_of_the_other_family_is_no_icmp(
    bench: Bench, source: str, destination: str, protocol: int, kind: int, hops: int
) -> None:
    bench.policy(entry(0))
    message = protocol, bytes([kind, 0, 0, 0]) + bytes(28)
    packet = (
        p.ipv4(source, destination, message, ttl=hops)
        if "." in source
        else p.ipv6(source, destination, message, hop_limit=hops)
    )
    assert bench.send(p.framed(packet)).reason is DropReason.INVALID_PACKET
    assert bench.flows() == []


def open_flow(bench: Bench, client: str, server: str) -> bytes:
    """A UDP flow; the packet as an error quotes it."""
    packet = p.ip(client, server, p.udp(client, server, 40000, 53))
    assert bench.send(p.framed(packet)).passed
    return packet


@both_families
@pytest.mark.parametrize("of", ["server", "router on the way"])
def test_an_error_about_a_flow_reaches_who_sent_into_it(
    bench: Bench, client: str, server: str, other: str, of: str
) -> None:
    bench.policy(entry(0))
    quoted = open_flow(bench, client, server)
    sender = server if of == "server" else other
    error = p.frame(sender, client, p.icmp_error(sender, client, quoted))
    received = bench.receive(error)
    assert received.passed
    assert received.event(EventType.TRACE).reason == CtState.RELATED
    assert len(bench.flows()) == 1, "an error opens nothing"


@both_families
def test_eight_quoted_octets_of_layer_4_are_enough(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0))
    packet = p.ip(client, server, p.tcp(client, server, 40000, 443))
    assert bench.send(p.framed(packet)).passed
    size = (40 if ":" in client else 20) + 8
    error = p.icmp_error(other, client, packet[:size])
    assert bench.receive(p.frame(other, client, error)).passed
    short = p.icmp_error(other, client, packet[: size - 1])
    assert bench.receive(p.frame(other, client, short)).reason is DropReason.POLICY_DENIED


@both_families
@pytest.mark.parametrize(
    "spoil", ["port", "server", "client", "protocol", "answer", "not ip", "later fragment"]
)
def test_an_error_about_no_flow_of_the_endpoint_is_judged_alone(
    bench: Bench, client: str, server: str, other: str, spoil: str
) -> None:
    bench.policy(entry(0))
    quoted = open_flow(bench, client, server)
    l4 = p.udp(client, server, 40000, 53)
    match spoil:
        case "port":
            quoted = p.ip(client, server, p.udp(client, server, 40001, 53))
        case "server":
            quoted = p.ip(client, other, l4)
        case "client":
            quoted = p.ip(other, server, l4)
        case "protocol":
            quoted = p.ip(client, server, p.tcp(client, server, 40000, 53))
        case "answer":
            quoted = p.ip(server, client, p.udp(server, client, 53, 40000))
        case "not ip":
            quoted = b"\xff" + quoted[1:]
        case _ if ":" in client:
            quoted = p.ipv6(client, server, p.fragment_header(l4, 1, offset=8))
        case _:
            quoted = p.ipv4(client, server, l4, offset=8)
    error = p.frame(server, client, p.icmp_error(server, client, quoted))
    assert bench.receive(error).reason is DropReason.POLICY_DENIED


@both_families
def test_the_endpoint_may_send_errors_about_what_it_received(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0, direction=INGRESS))
    packet = p.ip(server, client, p.udp(server, client, 40000, 53))
    assert bench.receive(p.framed(packet)).passed
    assert bench.send(p.frame(client, server, p.icmp_error(client, server, packet))).passed
    elsewhere = p.frame(client, other, p.icmp_error(client, other, packet))
    assert bench.send(elsewhere).reason is DropReason.POLICY_DENIED


@both_families
def test_an_error_about_a_flow_that_has_run_out_is_not_related(
    bench: Bench, client: str, server: str, other: str
) -> None:
    bench.policy(entry(0))
    quoted = open_flow(bench, client, server)
    bench.age()
    error = p.frame(server, client, p.icmp_error(server, client, quoted))
    assert bench.receive(error).reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize(("kind", "related"), [(3, 1), (11, 1), (12, 1), (4, 0), (5, 0), (17, 0)])
def test_which_types_are_errors(bench: Bench, kind: int, related: int) -> None:
    bench.policy(entry(0))
    quoted = open_flow(bench, CLIENT4, SERVER4)
    error = p.icmp_error(OTHER4, CLIENT4, quoted, kind=kind)
    assert bench.receive(p.frame(OTHER4, CLIENT4, error)).passed is bool(related)


@pytest.mark.parametrize(("kind", "related"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 0), (100, 0)])
def test_which_types_are_errors_in_ipv6(bench: Bench, kind: int, related: int) -> None:
    bench.policy(entry(0))
    quoted = open_flow(bench, CLIENT6, SERVER6)
    error = p.icmp_error(OTHER6, CLIENT6, quoted, kind=kind)
    assert bench.receive(p.frame(OTHER6, CLIENT6, error)).passed is bool(related)


def test_an_error_about_an_echo_request_is_related(bench: Bench) -> None:
    bench.policy(entry(0))
    packet = p.ip(CLIENT4, SERVER4, p.echo(CLIENT4, SERVER4, 9))
    assert bench.send(p.framed(packet)).passed
    assert bench.receive(p.frame(OTHER4, CLIENT4, p.icmp_error(OTHER4, CLIENT4, packet))).passed
    wrong = p.ip(CLIENT4, SERVER4, p.echo(CLIENT4, SERVER4, 9, reply=True))
    error = p.frame(OTHER4, CLIENT4, p.icmp_error(OTHER4, CLIENT4, wrong))
    assert not bench.receive(error).passed
