"""Explanations: the rule that decided, and what would have to change."""

from __future__ import annotations

from policies.cluster import Flow
from policies.explain import Explanation, explain
from policies.identity import Direction, Protocol
from policies.model import Policy
from policies.world import Reason, World
from tests.policies.worlds import CLUSTER, cnp, peer_of


def _explain(found: tuple[Policy, ...], peer: str, port: int = 80, query: str = "") -> Explanation:
    flow = Flow(Direction.EGRESS, "web", peer_of(peer), Protocol.TCP, port, query)
    return explain(World(CLUSTER, found), flow)


RULES = cnp("""
    egress:
    - toEndpoints: [{matchLabels: {app: db}}]
      toPorts: [{ports: [{port: "80"}]}]
    - toCIDR: [192.0.2.0/24]
    egressDeny:
    - toEndpoints: [{matchLabels: {tier: back}}]
      toPorts: [{ports: [{port: "80"}]}]
    - toEndpoints: [{matchLabels: {app: db}}]
      toPorts: [{ports: [{port: "80", endPort: 90}]}]
""")


def test_a_denial_names_every_rule_that_would_have_to_go() -> None:
    found = _explain(RULES, "db")
    assert found.verdict.value == "deny"
    assert found.judgement.rule is not None
    assert found.judgement.rule.path.startswith("spec.egressDeny")
    assert [line.split("egressDeny")[1][:3] for line in found.advice] == ["[0]", "[1]"]
    decided = [c.rule.path for c in found.considered if c.decided]
    assert decided == [found.judgement.rule.path]


def test_a_denial_that_no_rule_would_replace_by_a_permission_says_so() -> None:
    found = _explain(RULES, "db", 85)
    assert "none does" in found.advice[-1]


def test_a_default_denial_names_the_rules_that_miss_by_one_thing() -> None:
    found = _explain(RULES, "db", 443)
    assert found.judgement.reason is Reason.DEFAULT_DENY
    assert len(found.advice) == 1
    assert "spec.egress[0]" in found.advice[0]
    assert found.advice[0].endswith("allows this peer, but not this port")
    found = _explain(RULES, "other")
    assert any(line.endswith("allows this port, but not this peer") for line in found.advice)


def test_a_permission_names_the_rules_that_give_it() -> None:
    found = _explain(RULES, "192.0.2.7")
    assert found.verdict.value == "allow"
    assert "spec.egress[1]" in found.advice[0]
    assert found.peer == ("cidr:192.0.2.0/24, reserved:world, reserved:world-ipv4",)


def test_a_subject_without_policy_is_told() -> None:
    found = _explain((), "db")
    assert found.judgement.reason is Reason.NOT_ENFORCED
    assert "no policy is about this subject" in found.advice[0]


def test_a_refused_name_says_where_to_add_it() -> None:
    rules = cnp("""
        egress:
        - toPorts:
          - ports: [{port: "53", protocol: TCP}]
            rules: {dns: [{matchName: a.io}]}
    """)
    found = _explain(rules, "dns", 53, "b.io")
    assert found.judgement.reason is Reason.NAME_REFUSED
    assert "add the name to rules.dns" in found.advice[0]
    assert _explain(rules, "dns", 53, "a.io").judgement.reason is Reason.NAME_ALLOWED
