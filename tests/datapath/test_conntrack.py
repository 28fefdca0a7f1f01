"""Flows: which packets belong to one, how long it lives, and what its peer may start of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fqdnwall.datapath.layouts import CtFlag, CtState, DropReason, EventType
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    INGRESS,
    OTHER4,
    SERVER4,
    SERVER6,
    SIZES,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
CLOSING = CtFlag.LOCAL_CLOSING | CtFlag.REMOTE_CLOSING


def out(flags: str, client: str = CLIENT4, server: str = SERVER4) -> bytes:
    return p.frame(client, server, p.tcp(client, server, 40000, 443, flags))


def into(flags: str, client: str = CLIENT4, server: str = SERVER4) -> bytes:
    return p.frame(server, client, p.tcp(server, client, 443, 40000, flags))


def udp_out(port: int = 53) -> bytes:
    return p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 40000, port))


def udp_into(port: int = 53) -> bytes:
    return p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, port, 40000))


@both_families
def test_a_connection_opens_runs_and_closes(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(0))
    assert bench.send(out("S", client, server)).passed
    assert bench.flow_flags() == CtFlag(0)
    assert 55 < bench.seconds_left() <= 60
    assert bench.receive(into("SA", client, server)).passed
    assert 55 < bench.seconds_left() <= 60, "until something else than a SYN is seen"
    assert bench.send(out("A", client, server)).passed
    assert bench.flow_flags() == CtFlag.SEEN_NON_SYN
    assert 7990 < bench.seconds_left() <= 8000
    assert bench.send(out("FA", client, server)).passed
    assert bench.flow_flags() == CtFlag.SEEN_NON_SYN | CtFlag.LOCAL_CLOSING
    assert bench.seconds_left() > 7990, "half-closed is still open"
    assert bench.receive(into("A", client, server)).passed
    closed = bench.receive(into("FA", client, server))
    assert closed.passed
    assert closed.event(EventType.TRACE).reason == CtState.CLOSED
    assert bench.flow_flags() == CtFlag.SEEN_NON_SYN | CLOSING
    assert 5 < bench.seconds_left() <= 10
    assert bench.send(out("A", client, server)).passed
    _, value = bench.flow()
    assert (value.tx_packets, value.rx_packets) == (4, 3)
    assert (value.tx_tcp_flags, value.rx_tcp_flags) == (0x13, 0x13)


@pytest.mark.parametrize("from_endpoint", [True, False])
def test_a_reset_closes_both_sides(bench: Bench, from_endpoint: bool) -> None:
    bench.policy(entry(0))
    bench.send(out("S"))
    bench.receive(into("SA"))
    bench.send(out("A"))
    reset = bench.send(out("R")) if from_endpoint else bench.receive(into("R"))
    assert reset.passed
    assert reset.event(EventType.TRACE).reason == CtState.CLOSED
    assert CLOSING in bench.flow_flags()
    assert 5 < bench.seconds_left() <= 10


def test_what_follows_the_end_does_not_keep_a_flow_alive(bench: Bench) -> None:
    bench.policy(entry(0))
    for frame in ("S", "A", "R"):
        bench.send(out(frame))
    _, before = bench.flow()
    assert bench.send(out("A")).passed
    assert bench.receive(into("A")).passed
    assert bench.flow()[1].expires == before.expires
    bench.policy()
    bench.age(generation=bench.generation, expires=1)
    assert bench.send(out("A")).reason is DropReason.POLICY_DENIED
    assert bench.receive(into("A")).reason is DropReason.POLICY_DENIED


def test_a_closed_connection_is_reopened_by_a_syn_that_is_judged(bench: Bench) -> None:
    bench.policy(entry(0))
    for frame in ("S", "A", "FA"):
        bench.send(out(frame))
    bench.receive(into("FA"))
    created = bench.flow()[1].created
    again = bench.send(out("S"))
    assert again.passed
    assert again.event(EventType.POLICY_VERDICT).rule == 1
    _, value = bench.flow()
    assert value.created > created
    assert CtFlag(value.flags) == CtFlag(0)
    assert value.tx_packets == 1


def test_a_repeated_syn_is_not_another_flow(bench: Bench) -> None:
    bench.policy(entry(0))
    bench.send(out("S"))
    again = bench.send(out("S"))
    assert again.passed
    assert again.events == ()
    assert bench.flow()[1].tx_packets == 2


@pytest.mark.parametrize("state", ["open", "half-closed", "closed", "opening"])
def test_a_syn_of_the_peers_own_is_judged_as_its_own_flow(bench: Bench, state: str) -> None:
    bench.policy(entry(0))
    bench.send(out("S"))
    if state != "opening":
        bench.receive(into("SA"))
        bench.send(out("A"))
    if state in ("half-closed", "closed"):
        bench.send(out("FA"))
    if state == "closed":
        bench.receive(into("FA"))
    assert bench.receive(into("S")).reason is DropReason.POLICY_DENIED


def test_the_endpoint_cannot_open_a_connection_back_along_one_from_outside(bench: Bench) -> None:
    bench.policy(entry(0, direction=INGRESS))
    assert bench.receive(into("S")).passed
    assert bench.send(out("SA")).passed
    assert bench.receive(into("A")).passed
    assert bench.send(out("S")).reason is DropReason.POLICY_DENIED
    assert bench.send(out("A")).passed


@pytest.mark.parametrize("flags", ["A", "SA", "F", "R", "P", ""])
def test_a_packet_of_no_known_connection_is_judged(bench: Bench, flags: str) -> None:
    assert bench.send(out(flags)).reason is DropReason.POLICY_DENIED
    assert bench.receive(into(flags)).reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize("change", ["source", "server", "port", "server port", "protocol"])
def test_an_answer_must_match_in_every_field(bench: Bench, change: str) -> None:
    bench.policy(entry(0))
    assert bench.send(udp_out()).passed
    server = OTHER4 if change == "server" else SERVER4
    client = "10.9.0.3" if change == "source" else CLIENT4
    ports = (54 if change == "server port" else 53, 40001 if change == "port" else 40000)
    make = p.tcp if change == "protocol" else p.udp
    answer = p.frame(server, client, make(server, client, *ports))
    assert bench.receive(answer).reason is DropReason.POLICY_DENIED
    assert bench.receive(udp_into()).passed


def test_udp_lives_a_minute_from_its_last_packet(bench: Bench) -> None:
    bench.policy(entry(0))
    bench.send(udp_out())
    assert 55 < bench.seconds_left() <= 60
    bench.age(expires=bench.flow()[1].expires - 50 * 10**9)
    assert bench.receive(udp_into()).passed
    assert 55 < bench.seconds_left() <= 60
    bench.age()
    assert bench.receive(udp_into()).reason is DropReason.POLICY_DENIED


def test_sctp_flows_have_ports(bench: Bench) -> None:
    bench.policy(entry(0, protocol=132, port=5000))
    assert bench.send(p.frame(CLIENT4, SERVER4, p.sctp(40000, 5000))).passed
    assert bench.receive(p.frame(SERVER4, CLIENT4, p.sctp(5000, 40000))).passed
    assert not bench.receive(p.frame(SERVER4, CLIENT4, p.sctp(5000, 40001))).passed


def test_flows_of_one_endpoint_are_not_anothers(bench: Bench) -> None:
    bench.policy(entry(0))
    bench.send(udp_out())
    key, value = bench.flow()
    bench.maps.conntrack.delete(key)
    bench.maps.conntrack.put(replace(key, endpoint=key.endpoint + 1), value)
    assert bench.receive(udp_into()).reason is DropReason.POLICY_DENIED


@pytest.mark.slow
def test_a_full_table_makes_room_and_stays_bounded(bench: Bench) -> None:
    bench.policy(entry(0))
    frames = [
        p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, port, 53))
        for port in range(1024, 1024 + SIZES["conntrack"] + 2000)
    ]
    assert {bench.verdict("from_endpoint", frame) for frame in frames} == {"pass"}
    assert len(bench.flows()) <= SIZES["conntrack"]
    last = p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 53, 1024 + SIZES["conntrack"] + 1999))
    assert bench.receive(last).passed
    bench.clear("conntrack")
