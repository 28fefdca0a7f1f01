"""Names that are accepted after networks were passed on: refused by name, and left out safely."""

from __future__ import annotations

import pytest

from policies.model import Policy
from policies.passes import names_behind_passes, without_names_behind_passes
from tests.policies.worlds import policies

PASS = "{action: Pass, to: [{networks: [192.0.2.0/24]}]}"
NAMES = "{action: Accept, to: [{domainNames: [a.io]}]}"
DENY = "{action: Deny, to: [{networks: [0.0.0.0/0]}]}"


def tier(*rules: str, name: str = "c", of: str = "Admin", priority: int = 1) -> tuple[Policy, ...]:
    return policies(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec:\n  tier: {of}\n  priority: {priority}\n"
        f"  subject: {{namespaces: {{}}}}\n  egress: [{', '.join(rules)}]\n"
    )


def test_names_after_the_pass_are_refused_with_their_place() -> None:
    (error,) = names_behind_passes(tier(PASS, DENY, NAMES))
    assert (error.source, error.path, error.line) == ("test.yaml", "spec.egress[2].to", 8)
    assert "after ClusterNetworkPolicy c spec.egress[0], which passes networks" in error.message


@pytest.mark.parametrize(
    "found",
    [
        tier(NAMES, PASS, DENY),
        tier("{action: Pass, to: [{namespaces: {}}]}", NAMES),
        tier(PASS) + tier(NAMES, name="b", of="Baseline"),
        tier(PASS, NAMES, of="Baseline"),
        tier(PASS, priority=2) + tier(NAMES, name="before", priority=1),
        tier(PASS) + tier(NAMES, name="at-the-same-place"),
    ],
)
def test_names_before_it_and_in_other_tiers_are_not(found: tuple[Policy, ...]) -> None:
    assert names_behind_passes(found) == ()
    assert without_names_behind_passes(found) == found


def test_the_order_of_policies_is_that_of_their_priorities() -> None:
    found = tier(NAMES, name="late", priority=2) + tier(PASS, priority=1)
    (error,) = names_behind_passes(found)
    assert "after ClusterNetworkPolicy c " in error.message


def test_left_out_they_take_nothing_else_along() -> None:
    (left,) = without_names_behind_passes(tier(PASS, NAMES, DENY))
    whole = tier(PASS, NAMES, DENY)[0].rules
    assert set(whole) - set(left.rules) == {
        rule for rule in whole if rule.path.endswith("[1]") and rule.ports is None
    }
