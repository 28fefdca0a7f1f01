"""What a Pass for networks and an Accept for names cannot say together, in the kernel's form.

An address outside has several identities in the kernel: its prefix's, and those of the names that
were learned for it. Each has its own table and the best answer counts, which is what their rules
say together as long as a name only ever adds to what its prefix is told. One thing breaks that. A
Pass that the prefix meets skips the rest of its tier, an Accept for the name there included, and
brings in the lower tiers, what these say of the name included: the name's table, which shows the
Accept alone, can give neither. All else is exact: names that are accepted before the Pass, and
names in the lower tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from policies.applied import level_in_tier
from policies.errors import PolicyError
from policies.identity import Direction
from policies.model import Action, CidrPeer, FqdnPeer, Policy, Rule, Tier


def names_behind_passes(policies: Iterable[Policy]) -> tuple[PolicyError, ...]:
    """Every rule of the Admin tier that accepts names after another passed networks on."""
    policies = tuple(policies)
    first = _first_pass(policies)
    return tuple(
        PolicyError(
            policy.source,
            rule.line,
            f"{rule.path}.to",
            f"domainNames after {first[1]}, which passes networks on, is not enforced here;"
            " accept the names before that",
        )
        for policy, rule in _admin_rules(policies)
        if first is not None and _is_behind(policy, rule, first[0])
    )


def without_names_behind_passes(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """The policies without those rules: no flow is let through that was not before."""
    policies = tuple(policies)
    first = _first_pass(policies)
    if first is None:
        return policies
    return tuple(_without(policy, first[0]) for policy in policies)


def _first_pass(policies: Iterable[Policy]) -> tuple[int, str] | None:
    """(level, title) of the first rule that passes networks."""
    found = [
        (level_in_tier(policy, rule), f"{policy.title} {rule.path}")
        for policy, rule in _admin_rules(policies)
        if rule.action is Action.PASS and _has_peer(rule, CidrPeer)
    ]
    return min(found, default=None)


def _admin_rules(policies: Iterable[Policy]) -> Iterator[tuple[Policy, Rule]]:
    for policy in policies:
        if policy.tier is Tier.ADMIN:
            for rule in policy.rules:
                if rule.direction is Direction.EGRESS:
                    yield policy, rule


def _is_behind(policy: Policy, rule: Rule, first: int) -> bool:
    accepts = rule.action is Action.ALLOW and _has_peer(rule, FqdnPeer)
    return accepts and level_in_tier(policy, rule) > first


def _has_peer(rule: Rule, kind: type[CidrPeer] | type[FqdnPeer]) -> bool:
    return any(isinstance(peer, kind) for peer in rule.peers or ())


def _without(policy: Policy, first: int) -> Policy:
    if policy.tier is not Tier.ADMIN:
        return policy
    behind = [rule for _, rule in _admin_rules([policy]) if _is_behind(policy, rule, first)]
    if not behind:
        return policy
    specs = [
        replace(spec, rules=tuple(rule for rule in spec.rules if rule not in behind))
        for spec in policy.specs
    ]
    return replace(policy, specs=tuple(specs))
