"""The report says what happened, in words, and its size has a bound whatever happens."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from dnsproxy.model import Judged, Judgement, Question, Transport
from fqdnwall.agent import reporting
from fqdnwall.agent.kerneldns import KernelDns
from fqdnwall.agent.reporting import Collector
from fqdnwall.api.models import Direction
from fqdnwall.api.report import QueryOutcome
from fqdnwall.datapath.layouts import (
    CtFlag,
    CtKey,
    CtValue,
    DnsPath,
    DropReason,
    Event,
    EventType,
    address_bytes,
)
from tests.agent.world import POLICIES, RESOLVER, World


@pytest.fixture
def collector(world: World) -> Collector:
    world.set_resolvers([RESOLVER])
    world.set_policies(POLICIES[:1])
    world.add(1)
    return Collector(world.firewall)


def drop(
    remote: str, port: int = 443, reason: int = DropReason.POLICY_DENIED, audited: int = 0
) -> Event:
    return replace(
        Event.unpack(bytes(Event.size())),
        time=5_000_000_000,
        remote=address_bytes(remote),
        local=address_bytes("172.16.0.1"),
        endpoint=1,
        remote_port=port,
        type=EventType.DROP,
        reason=reason,
        direction=1,
        protocol=6,
        audited=audited,
    )


def answer(name: str, *addresses: str, path: DnsPath = DnsPath.ANSWERED) -> KernelDns:
    return KernelDns(
        at=5.0,
        path=path,
        endpoint=1,
        scope=1,
        client=("172.16.0.1", 4000),
        server=(str(RESOLVER), 53),
        qname=name,
        qtype=1,
        rcode=0,
        identity=0,
        rule=0,
        addresses=tuple(ip_address(a) for a in addresses),
        ttl=60,
        latency_seconds=0.001,
    )


def test_packets_of_one_destination_are_one_line(collector: Collector) -> None:
    for _ in range(3):
        collector.kernel(drop("198.51.100.7"))
    collector.kernel(drop("198.51.100.7", port=80))
    collector.kernel(drop("198.51.100.7", audited=1))
    most, other = collector.drops(1, audited=False)
    assert (most.address, most.port, most.packets) == ("198.51.100.7", 443, 3)
    assert (most.reason, most.direction) == ("Policy denied", Direction.EGRESS)
    assert other.port == 80
    assert len(collector.drops(1, audited=True)) == 1


def test_a_drop_carries_the_names_that_the_address_was_learned_under(collector: Collector) -> None:
    collector.kernel_dns(answer("a.com", "198.51.100.7"))
    collector.kernel_dns(answer("b.com", "198.51.100.7"))
    collector.kernel(drop("198.51.100.7"))
    assert collector.drops(1, audited=False)[0].names == ("a.com", "b.com")


def test_what_the_kernel_settled_counts_once(collector: Collector) -> None:
    collector.kernel_dns(answer("a.com", "198.51.100.7"))
    collector.kernel_dns(answer("a.com", "198.51.100.7"))
    collector.kernel_dns(answer("big.com", path=DnsPath.TRUNCATED))
    collector.kernel_dns(answer("no.com", path=DnsPath.REFUSED))
    found = {(q.name, q.outcome, q.count) for q in collector.queries()}
    assert found == {("a.com", QueryOutcome.ALLOWED, 2), ("no.com", QueryOutcome.REFUSED, 1)}


def test_a_refusal_of_the_proxys_is_a_query(collector: Collector) -> None:
    question = Question(1, (str(RESOLVER), 53), Transport.TCP, "no.com", 28)
    collector.dns(Judged(question, ("172.16.0.1", 4000), Judgement(False)), 5.0)
    (query,) = collector.queries()
    assert (query.name, query.qtype, query.outcome) == ("no.com", "AAAA", QueryOutcome.REFUSED)


def test_connections_are_counted_by_destination_and_refused_flows_are_none(
    collector: Collector,
) -> None:
    zeros = CtValue.unpack(bytes(CtValue.size()))

    def flow(port: int, remote: str, flags: int = 0, endpoint: int = 1) -> tuple[CtKey, CtValue]:
        value = replace(zeros, tx_packets=2, rx_packets=1, tx_bytes=9, flags=flags)
        local = address_bytes("172.16.0.1")
        return CtKey(local, address_bytes(remote), port, 443, endpoint, 6, 0, 0), value

    found = collector.connections(
        1,
        [
            flow(1000, "198.51.100.7"),
            flow(1001, "198.51.100.7"),
            flow(1002, "198.51.100.7", CtFlag.DENIED),
            flow(1003, "198.51.100.7", CtFlag.AUDITED),
            flow(1004, "198.51.100.7", endpoint=2),
        ],
    )
    (one,) = found
    assert (one.connections, one.packets, one.bytes, one.port) == (2, 6, 18, 443)


def test_every_list_is_bounded_and_what_is_beyond_is_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_DISTINCT", 5)
    monkeypatch.setattr(reporting, "MAX_ADDRESSES", 7)
    for number in range(20):
        collector.kernel(drop(f"198.51.100.{number}"))
        collector.kernel_dns(answer(f"n{number}.com", f"10.0.0.{number}", f"10.0.1.{number}"))
    assert len(collector.drops(1, audited=False)) == 5
    assert len(collector.queries()) == 5
    assert len(collector.names(1)) == 5
    assert sum(len(name.addresses) for name in collector.names(1)) == 7
    assert collector.omitted == {"drops": 15, "queries": 15, "names": 15, "addresses": 3}
    collector.kernel(drop("198.51.100.0"))
    assert max(d.packets for d in collector.drops(1, audited=False)) == 2
