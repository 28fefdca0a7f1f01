"""The engine and the specification agree on every flow that Hypothesis draws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from policies.batch import judge_request
from policies.clusterfile import CLUSTER_FIELDS, read_cluster
from policies.document import from_value
from policies.entries import Entry, lookup
from policies.identity import Identity
from policies.parse import parse_policy_objects
from policies.reader import Field, Problems
from policies.world import World
from tests.policies import specification
from tests.policies.drawing import PASSING, requests


def check(request: dict[str, Any]) -> None:
    answer = judge_request(request)
    assert answer["errors"] == []
    for flow, given_verdict in zip(request["flows"], answer["verdicts"], strict=True):
        expected = specification.verdict(request, flow)
        if expected == "redirect" and _keeps_to_one_rule_set(request, flow, given_verdict):
            continue
        assert given_verdict["verdict"] == expected, json.dumps(
            {"flow": flow, "got": given_verdict, "policies": request["policies"]}, indent=1
        )


def _keeps_to_one_rule_set(request: Any, flow: Any, given_verdict: Any) -> bool:
    """The limit that docs/policy-language.md states: queries to a server that is allowed by name.

    Its address has an identity for each of its names; the rule set of one of them is what counts.
    """
    named = any(flow["peer"].get("ip") in ips for ips in request["fqdns"].values())
    return named and given_verdict["reason"] == "dns-name-refused"


def superfluous(entries: tuple[Entry, ...], entry: Entry) -> bool:
    """Whether no packet (and no comparison of candidates) would miss the entry."""
    others = [other for other in entries if other is not entry]
    stranger = Identity(0x7FFFFFFF)
    who = entry.identity or stranger
    ports = {entry.port, entry.l4.last_port}
    for other in entries:
        if other.protocol == entry.protocol:
            ports |= {other.port, other.l4.last_port, other.port - 1, other.l4.last_port + 1}
    protocols = [entry.protocol] if entry.protocol else [0xFE, 1, 6, 17, 58, 132]
    for protocol in protocols:
        for port in ports if entry.protocol else {0, 1, 53, 54, 80, 81, 443, 8080}:
            if not entry.l4.has(protocol, port):
                continue
            with_it = lookup(entries, [who], entry.direction, protocol, port).entry
            without = lookup(others, [who], entry.direction, protocol, port).entry
            if without is None or with_it is None or outcome(with_it) != outcome(without):
                return False
    return True


def outcome(entry: Entry) -> tuple[object, ...]:
    return entry.verdict, entry.precedence, entry.proxy, entry.l7_index


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(0))
def test_no_entry_is_superfluous(request: dict[str, Any]) -> None:
    parsed = parse_policy_objects(request["policies"], "drawn")
    node = from_value({key: request[key] for key in CLUSTER_FIELDS})
    members = Field(node, "", Problems("drawn")).fields(CLUSTER_FIELDS)
    world = World(read_cluster(members), parsed.policies)
    for name in ("a", "c"):
        entries = world.resolved(name).entries
        left_over = [entry for entry in entries if superfluous(entries, entry)]
        assert left_over == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(50))
def test_three_thousand_flows_are_judged_as_specified(request: dict[str, Any]) -> None:
    check(request)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(25))
def test_a_hundred_thousand_flows_are_judged_as_specified(request: dict[str, Any]) -> None:
    check(request)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(25, flavour=PASSING))
def test_networks_that_are_passed_on_are_judged_as_specified(request: dict[str, Any]) -> None:
    check(request)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(25, flavour=PASSING))
def test_fifty_thousand_flows_of_networks_passed_on(request: dict[str, Any]) -> None:
    check(request)
