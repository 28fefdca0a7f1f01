"""From the datapath's numbers to words that a person reads."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from fqdnwall.agent.translate import (
    kernel_event,
    names_of,
    protocol_name,
    qtype_name,
    rcode_name,
    reason_text,
    tcp_flags,
)
from fqdnwall.api.events import EventType
from fqdnwall.api.models import Direction, PolicyVerdict
from fqdnwall.datapath.layouts import DropReason, Event, Verdict, address_bytes
from fqdnwall.datapath.layouts import EventType as KernelType
from tests.agent.world import ADDRESSES, POLICIES, RESOLVER, World


def event(**given: Any) -> Event:
    drop = replace(
        Event.unpack(bytes(Event.size())),
        time=1_000_000_000,
        local=address_bytes("172.16.0.1"),
        remote=address_bytes("10.0.0.1"),
        local_port=4000,
        remote_port=443,
        endpoint=1,
        protocol=6,
        direction=1,
        from_endpoint=1,
        type=KernelType.DROP,
        reason=DropReason.POLICY_DENIED,
    )
    return replace(drop, **given)


@pytest.fixture
def guarded(world: World) -> World:
    world.set_resolvers([RESOLVER])
    world.set_policies(POLICIES[:1])
    world.add(1)
    world.learn(1, "api.example.com", ADDRESSES[0], 60)
    return world


def test_a_drop_is_told_with_both_ends_and_the_names(guarded: World) -> None:
    found = kernel_event(event(), guarded.firewall)
    assert (found.type, found.reason, found.reason_code) == (EventType.DROP, "Policy denied", 133)
    assert (found.source.address, found.source.port) == ("172.16.0.1", 4000)
    assert (found.destination.address, found.destination.port) == ("10.0.0.1", 443)
    assert found.destination.names == ("api.example.com",)
    assert (found.endpoint_name, found.direction) == ("one", Direction.EGRESS)


def test_what_comes_to_the_endpoint_has_its_ends_the_other_way_round(guarded: World) -> None:
    found = kernel_event(event(from_endpoint=0), guarded.firewall)
    assert (found.source.address, found.destination.address) == ("10.0.0.1", "172.16.0.1")


def test_a_verdict_has_its_word_and_an_audited_drop_passes(guarded: World) -> None:
    verdict = event(type=KernelType.POLICY_VERDICT, reason=Verdict.REDIRECT)
    assert kernel_event(verdict, guarded.firewall).verdict is PolicyVerdict.REDIRECT
    audited = kernel_event(event(audited=1), guarded.firewall)
    assert (audited.verdict, audited.audited) == (PolicyVerdict.AUDIT, True)


def test_icmp_has_types_and_no_ports(guarded: World) -> None:
    found = kernel_event(event(protocol=1, icmp_type=8, icmp_code=0), guarded.firewall)
    assert (found.icmp_type, found.icmp_code, found.destination.port) == (8, 0, 0)


def test_an_endpoint_that_is_gone_is_no_error(guarded: World) -> None:
    guarded.remove(1)
    assert kernel_event(event(), guarded.firewall).endpoint_name == ""


def test_an_address_taken_over_without_a_name_has_none(guarded: World) -> None:
    records = guarded.firewall.learning.cache
    assert names_of(guarded.firewall, 1, "10.0.0.1") == ("api.example.com",)
    records.forget([r.key for r in list(records.records())])
    guarded.restart()
    assert names_of(guarded.firewall, 1, "10.0.0.1") == ()
    assert guarded.maps.verdict(101, ip_address("10.0.0.1"), 6, 443, int(1e12)) == "allow"


def test_numbers_without_a_word_are_still_told() -> None:
    assert (protocol_name(6), protocol_name(250)) == ("TCP", "250")
    assert (qtype_name(28), qtype_name(4711)) == ("AAAA", "TYPE4711")
    assert (rcode_name(5), rcode_name(23)) == ("REFUSED", "RCODE23")
    assert reason_text(133) == "Policy denied"
    assert reason_text(99) == "reason 99"
    assert tcp_flags(0b10010) == "SYN, ACK"
