"""From any state to any state: whatever happened, the maps are those of a start from scratch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.cidrs import parse_cidr
from policies.identity import Identity, Protocol
from policies.incremental import Resolver, policy_key
from policies.labels import (
    NODE,
    RESERVED_LABELS,
    Label,
    Labels,
    Network,
    cidr_labels,
    fqdn_labels,
    ip_block_labels,
    pod_labels,
    reserved_labels,
)
from policies.model import Policy
from policies.options import Enforcement, Options, Service, Subject
from policies.parse import parse_policy_objects
from policies.resolve import resolve
from tests.policies.drawing import CIDRS, cilium_policy, network_policy, tiered_policy
from tests.policies.worlds import cnp

TEAMS = {"default": {"team": "x"}, "other": {"team": "y"}}


def _universe() -> dict[Identity, Labels]:
    """Every identity that may come and go."""
    prefixes: list[Network] = [parse_cidr(text) for text in CIDRS]
    pods = [
        pod_labels({"app": app, "tier": tier}, namespace, TEAMS[namespace], cluster)
        for app in "xy"
        for tier in "xy"
        for namespace, cluster in (("default", ""), ("other", ""), ("default", "far"))
    ]
    others = [
        *map(cidr_labels, prefixes),
        *map(ip_block_labels, prefixes),
        *(fqdn_labels([text]) for text in ("a.io", "*", "*.a.io", "**.a.io", "*.io", "b.io")),
        fqdn_labels(["a.io", "*.io"]),
        pod_labels({"k8s-app": "kube-dns"}, "other"),
        reserved_labels("remote-node") | {Label(NODE, "zone", "x")},
    ]
    found = dict(RESERVED_LABELS)
    found |= {Identity(1000 + n): labels for n, labels in enumerate([*pods, *others])}
    return found


UNIVERSE = _universe()
SUBJECTS = {
    "a": Subject(pod_labels({"app": "x", "tier": "x"}, "default", TEAMS["default"]), "default"),
    "a2": Subject(pod_labels({"app": "x", "tier": "x"}, "default", TEAMS["default"]), "default"),
    "b": Subject(
        pod_labels({"app": "y"}, "default", TEAMS["default"]),
        "default",
        (("http", 80, Protocol.TCP), ("dns", 53, Protocol.UDP)),
    ),
    "c": Subject(pod_labels({"app": "x"}, "other", TEAMS["other"]), "other"),
    "init": Subject(reserved_labels("init"), ""),
}
PORTS = {("http", Protocol.TCP): frozenset({80}), ("dns", Protocol.UDP): frozenset({53})}
OPTIONS = [
    Options(),
    Options(allow_localhost=True),
    Options(Enforcement.ALWAYS),
    Options(services=(Service("default", "s", selector=(("app", "x"),)),)),
]


@st.composite
def drawn_policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    kind = draw(st.sampled_from([cilium_policy, cilium_policy, network_policy, tiered_policy]))
    result = parse_policy_objects([kind(draw)], "drawn")
    assert result.errors == ()
    return result.policies


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("policy"), drawn_policies()),
        st.tuples(st.just("policy"), drawn_policies()),
        st.tuples(st.just("no policy"), st.integers(0, 9)),
        st.tuples(st.just("identity"), st.lists(st.sampled_from(sorted(UNIVERSE)), max_size=6)),
        st.tuples(st.just("subject"), st.sampled_from(sorted(SUBJECTS))),
        st.tuples(st.just("options"), st.sampled_from(OPTIONS)),
    ),
    min_size=5,
    max_size=14,
)


def _play(actions: list[tuple[str, Any]]) -> None:
    """Make the changes; after each, every set is as if made from scratch, and as was announced."""
    resolver = Resolver()
    present: dict[Identity, Labels] = {}
    subjects: dict[str, Subject] = {}
    options = Options()
    for word, what in [("identity", list(UNIVERSE)[::3]), ("subject", "a"), *actions]:
        before = {
            policy_set: {d: dict(t.tables) for d, t in policy_set.tables.items()}
            for policy_set in resolver.policy_sets()
        }
        changes = []
        if word == "policy":
            resolver.update(what)
        elif word == "no policy":
            keys = [policy_key(p) for p in resolver.policies]
            resolver.update(removed=keys[what : what + 1])
        elif word == "options":
            options = what
            resolver.set_options(options)
        elif word == "subject":
            if what in subjects:
                resolver.remove_subject(what)
                del subjects[what]
            else:
                resolver.set_subject(what, SUBJECTS[what])
                subjects[what] = SUBJECTS[what]
        else:
            for identity in what:
                if identity in present:
                    changes += resolver.remove_identity(identity)
                    del present[identity]
                else:
                    ports = PORTS if identity % 2 else None
                    changes += resolver.add_identity(identity, UNIVERSE[identity], ports)
                    present[identity] = UNIVERSE[identity]
            for change in changes:
                tables = before[change.policy_set][change.direction]
                if change.table:
                    tables[change.identity] = change.table
                else:
                    tables.pop(change.identity, None)
            for policy_set, directions in before.items():
                for direction, found in directions.items():
                    assert found == policy_set.tables[direction].tables
    named = {i: PORTS for i in present if i % 2}
    fresh = Options(
        options.enforcement,
        allow_localhost=options.allow_localhost,
        services=options.services,
        named_ports=named,
    )
    for name, subject in subjects.items():
        expected = resolve(resolver.policies, subject, present, fresh)
        assert resolver.policy_set(name).resolved() == expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(ACTIONS)
def test_any_changes_end_where_a_start_from_scratch_does(actions: list[tuple[str, Any]]) -> None:
    _play(actions)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(ACTIONS)
def test_many_more_changes_end_where_a_start_from_scratch_does(
    actions: list[tuple[str, Any]],
) -> None:
    _play(actions)


def test_subjects_to_whom_the_same_applies_share_a_set() -> None:
    resolver = Resolver(UNIVERSE)
    resolver.update(cnp("endpointSelector: {matchLabels: {app: x}}\negress: [{}]"))
    for name, subject in SUBJECTS.items():
        resolver.set_subject(name, subject)
    assert resolver.policy_set("a") is resolver.policy_set("a2")
    assert resolver.policy_set("a") is not resolver.policy_set("b")
    assert resolver.policy_set("b").resolved().entries == ()


def test_only_the_sets_that_a_policy_selects_are_made_anew() -> None:
    resolver = Resolver(UNIVERSE)
    for name, subject in SUBJECTS.items():
        resolver.set_subject(name, subject)
    resolver.update(cnp("endpointSelector: {matchLabels: {app: y}}\negress: [{}]", "y"))
    kept = resolver.policy_set("b")
    text = "endpointSelector: {matchLabels: {app: x}}\negress: [{toEntities: [world]}]"
    assert resolver.update(cnp(text, "x")) == {"a", "a2"}
    assert resolver.policy_set("b") is kept
    assert resolver.update(removed=[("CiliumNetworkPolicy", "default", "x")]) == {"a", "a2"}
    assert resolver.update(removed=[("CiliumNetworkPolicy", "default", "x")]) == frozenset()


def test_an_identity_that_no_rule_knows_changes_nothing() -> None:
    resolver = Resolver({})
    resolver.set_subject("a", SUBJECTS["a"])
    resolver.update(cnp("egress: [{toEndpoints: [{matchLabels: {app: nobody}}]}]"))
    assert resolver.add_identity(Identity(1000), UNIVERSE[Identity(1000)]) == []


@pytest.mark.slow
def test_answers_for_policies_that_are_gone_are_forgotten() -> None:
    resolver = Resolver(UNIVERSE)
    resolver.set_subject("a", SUBJECTS["a"])
    for number in range(3000):
        text = f"egress: [{{toEndpoints: [{{matchLabels: {{app: n{number}}}}}]}}]"
        resolver.update(cnp(text))
    assert resolver.answers_kept < 1200
