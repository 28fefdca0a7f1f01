"""Flows for the proxy, as far as a test run goes: assigning a socket needs a real interface."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fqdnwall.datapath.layouts import CtFlag, DropReason, EventType, Mark, Verdict
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, Bench, entry
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
DNS = entry(0, Verdict.REDIRECT, protocol=17, port=53, ruleset=3, rule=4)
DNS_TCP = entry(0, Verdict.REDIRECT, protocol=6, port=53, ruleset=3, rule=4)
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75


def query(client: str, server: str) -> bytes:
    return p.frame(client, server, p.udp(client, server, 40000, 53))


def answer(client: str, server: str) -> bytes:
    return p.frame(server, client, p.udp(server, client, 53, 40000))


@both_families
def test_without_a_proxy_its_flows_are_dropped(bench: Bench, client: str, server: str) -> None:
    bench.policy(DNS, DNS_TCP)
    assert bench.send(query(client, server)).reason is DropReason.PROXY_LOOKUP_FAILED
    bench.configure(dns_port=1)  # nobody listens there
    assert bench.send(query(client, server)).reason is DropReason.PROXY_LOOKUP_FAILED
    syn = p.frame(client, server, p.tcp(client, server, 40000, 53))
    assert bench.send(syn).reason is DropReason.PROXY_LOOKUP_FAILED


def test_a_protocol_that_the_proxy_does_not_speak_is_dropped(bench: Bench) -> None:
    bench.policy(entry(0, Verdict.REDIRECT, protocol=132, port=53))
    sent = bench.send(p.frame(CLIENT4, SERVER4, p.sctp(40000, 53)))
    assert sent.reason is DropReason.PROXY_UNKNOWN_PROTOCOL


@both_families
def test_a_packet_that_reaches_no_socket_is_counted_as_dropped_only(
    bench: Bench, client: str, server: str
) -> None:
    bench.policy(DNS)
    before = bench.maps.packet_counters()
    for _ in range(3):
        bench.send(query(client, server))
    after = bench.maps.packet_counters()

    def grown(reason: int) -> int:
        then, now = before.get((reason, True)), after.get((reason, True))
        return (now.packets if now else 0) - (then.packets if then else 0)

    assert grown(DropReason.PROXY_LOOKUP_FAILED) == 3
    assert grown(0) == 0


@both_families
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_the_answer_to_a_flow_of_the_proxys_comes_from_the_proxy_alone(
    bench: Bench, client: str, server: str, protocol: str
) -> None:
    bench.policy(DNS, DNS_TCP)
    if protocol == "udp":
        bench.send(query(client, server))
        reply = answer(client, server)
    else:
        bench.send(p.frame(client, server, p.tcp(client, server, 40000, 53)))
        reply = p.frame(server, client, p.tcp(server, client, 53, 40000, "SA"))
    assert bench.receive(reply).reason is DropReason.PROXY_SPOOFED
    assert bench.receive(reply, mark=Mark.TO_PROXY).reason is DropReason.PROXY_SPOOFED
    assert bench.receive(reply, mark=Mark.FROM_PROXY).passed
    assert bench.receive(reply, mark=Mark.FROM_PROXY | 0xFFFFF0FF).passed
    assert CtFlag.PROXY in bench.flow_flags()
    assert bench.flow()[1].ruleset == 3


def test_the_proxys_own_packets_pass_without_a_flow(bench: Bench) -> None:
    frame = answer(CLIENT4, SERVER4)
    assert bench.receive(frame, mark=Mark.FROM_PROXY).passed
    assert bench.receive(frame).reason is DropReason.POLICY_DENIED
    assert bench.flows() == []


@pytest.mark.parametrize("mark", [Mark.FROM_PROXY, Mark.TO_PROXY, 0x0300])
def test_an_endpoint_does_not_carry_a_mark_in(bench: Bench, mark: int) -> None:
    bench.policy(entry(0, protocol=17))
    sent = bench.send(query(CLIENT4, SERVER4), mark=mark | 0xABCD00FF)
    assert sent.passed
    assert sent.mark == 0xABCD00FF, "and others' bits are left alone"
    tcp = p.frame(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 1, 2))
    assert bench.send(tcp, mark=mark).reason is DropReason.POLICY_DENIED


def test_what_claims_to_be_for_the_proxys_upstream_needs_its_socket(bench: Bench) -> None:
    bench.policy(entry(0))
    spoofed = answer(CLIENT4, SERVER4)
    assert bench.send(spoofed, mark=Mark.UPSTREAM).reason is DropReason.PROXY_LOOKUP_FAILED


def test_a_flow_moves_to_the_proxy_and_away_with_policy(bench: Bench) -> None:
    bench.policy(entry(0))
    assert bench.send(query(CLIENT4, SERVER4)).passed
    bench.policy(DNS)
    assert bench.receive(answer(CLIENT4, SERVER4)).reason is DropReason.PROXY_SPOOFED
    assert bench.send(query(CLIENT4, SERVER4)).reason is DropReason.PROXY_LOOKUP_FAILED
    assert bench.flow()[1].ruleset == 3
    bench.policy(entry(0))
    assert bench.receive(answer(CLIENT4, SERVER4)).passed
    assert bench.flow()[1].ruleset == 0


def test_a_redirect_is_reported_with_its_rule(bench: Bench) -> None:
    bench.policy(DNS)
    sent = bench.send(query(CLIENT4, SERVER4))
    said = sent.event(EventType.POLICY_VERDICT)
    assert (said.reason, said.rule) == (Verdict.REDIRECT, 4)
    assert sent.event(EventType.DROP).rule == 4


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    namespace = Namespace.create("proxy", {})
    try:
        yield namespace
    finally:
        namespace.close()


def transparent(
    family: int, local: tuple[str, int], remote: tuple[str, int] | None
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    sock.bind(local)
    if remote:
        sock.connect(remote)
    return sock


@both_families
def test_an_upstreams_answer_is_turned_round_to_the_connected_socket(
    bench: Bench, namespace: Namespace, client: str, server: str
) -> None:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    other = "2001:db8:1:1::80" if ":" in client else "192.0.2.81"
    with namespace.entered():
        with namespace.netlink() as netlink:
            netlink.route("replace", dst="default", oif=1, family=family)
        with transparent(family, (client, 40000), (server, 53)):
            found = bench.receive(answer(client, server))
            stranger = bench.receive(answer(client, other))
            marked = bench.receive(answer(client, server), mark=Mark.FROM_PROXY)
        with transparent(family, (client, 40000), None):
            listening = bench.receive(answer(client, server))
    assert found.verdict == "redirect"
    assert found.mark == Mark.UPSTREAM
    assert stranger.reason is DropReason.POLICY_DENIED
    assert marked.verdict == "pass"
    assert listening.reason is DropReason.POLICY_DENIED
    assert bench.flows() == []


def test_an_answer_in_fragments_is_not_turned_round(bench: Bench, namespace: Namespace) -> None:
    with (
        namespace.entered(),
        transparent(socket.AF_INET6, (CLIENT6, 40001), (SERVER6, 53)),
    ):
        for fragment in p.fragments(
            SERVER6, CLIENT6, p.udp(SERVER6, CLIENT6, 53, 40001, b"x" * 99)
        ):
            assert bench.receive(fragment).reason is DropReason.POLICY_DENIED


def test_an_error_about_a_query_of_the_clients_reaches_it(bench: Bench) -> None:
    bench.policy(DNS, entry(0, protocol=17, port=54))
    quoted = p.ip(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 40000, 54))
    assert bench.send(p.framed(quoted)).passed
    error = p.frame(SERVER4, CLIENT4, p.icmp_error(SERVER4, CLIENT4, quoted))
    assert bench.receive(error).passed
    assert not bench.receive(p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 1, 2))).passed
