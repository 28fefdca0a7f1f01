"""Which rules apply to a subject, and in which order they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policies.decide import Levels
from policies.entries import RuleRef
from policies.expand import REFERENCES, expand_peer
from policies.identity import Direction
from policies.labels import K8S, NAMESPACE_KEY, RESERVED, Label, Labels
from policies.model import EntityPeer, Peer, Policy, Rule, Spec, Tier
from policies.options import Enforcement, Options, Subject

_INIT = Label(RESERVED, "init")
_HOST = Label(RESERVED, "host")


@dataclass(frozen=True, slots=True)
class Applied:
    """A rule that applies to a subject, with its place among the levels and its id."""

    policy: Policy
    rule: Rule
    rule_id: int
    peers: tuple[Peer, ...] | None


@dataclass(frozen=True, slots=True)
class DirectionRules:
    """All that is said for one direction of one subject."""

    applied: tuple[Applied, ...]
    levels: Levels
    enforcing: bool


def subject_labels(labels: Labels, namespace: str) -> Labels:
    """The labels with the namespace's name, which every pod carries."""
    if not namespace or any(label.key == NAMESPACE_KEY for label in labels):
        return labels
    if any(label.source == RESERVED for label in labels):
        return labels
    return labels | {Label(K8S, NAMESPACE_KEY, namespace)}


def spec_selects(spec: Spec, labels: Labels) -> bool:
    """Whether a spec's subject selector selects; ``labels`` are complete."""
    return spec.on_nodes is (_HOST in labels) and spec.subject.matches(labels)


def selected_by(policy: Policy, labels: Labels, namespace: str) -> bool:
    """Whether any spec of the policy selects a subject with these labels."""
    complete = subject_labels(labels, namespace)
    return any(spec_selects(spec, complete) for spec in policy.specs)


def rule_ref(policy: Policy, rule: Rule) -> RuleRef:
    """How people find a rule again."""
    where = f" ({policy.source}:{rule.line})" if rule.line else ""
    text = f"{policy.title} {rule.path}{where}"
    return RuleRef(policy.title, rule.path, text, policy.source, rule.line)


def applied_rules(
    policies: Iterable[Policy], subject: Subject, options: Options
) -> tuple[DirectionRules, DirectionRules]:
    """The rules (ingress, egress) of all specs that select the subject."""
    labels = subject_labels(subject.labels, subject.namespace)
    chosen = [
        (policy, spec) for policy in policies for spec in policy.specs if spec_selects(spec, labels)
    ]
    return collect(chosen, labels, options)


def collect(
    chosen: Sequence[tuple[Policy, Spec]],
    labels: Labels,
    options: Options,
    numbers: Mapping[int, int] | None = None,
) -> tuple[DirectionRules, DirectionRules]:
    """The rules that apply in each direction (ingress, egress), ranked.

    ``numbers`` gives the rules' ids by ``id(rule)``; without it they are numbered from 1.
    """
    if numbers is None:
        rules = [rule for way in Direction for _, spec in chosen for rule in spec.rules_of(way)]
        numbers = {id(rule): number for number, rule in enumerate(rules, 1)}
    return (
        _collect(chosen, labels, options, Direction.INGRESS, numbers),
        _collect(chosen, labels, options, Direction.EGRESS, numbers),
    )


def _collect(
    chosen: Sequence[tuple[Policy, Spec]],
    labels: Labels,
    options: Options,
    direction: Direction,
    numbers: Mapping[int, int],
) -> DirectionRules:
    rules: list[tuple[Policy, Rule]] = []
    forced = options.enforcement is Enforcement.ALWAYS or _INIT in labels
    deny = forced or any(spec.default_deny[direction] for _, spec in chosen)
    for policy, spec in chosen:
        rules += [(policy, rule) for rule in spec.rules_of(direction)]
    enforcing = options.enforcement is not Enforcement.NEVER and (forced or deny or bool(rules))
    applied = [
        Applied(policy, rule, numbers[id(rule)], _expanded(rule, options)) for policy, rule in rules
    ]
    if deny:
        applied = [a for a in applied if a.policy.tier is not Tier.BASELINE]
    levels = [level_of(a) for a in applied]
    if direction is Direction.INGRESS and options.allow_localhost:
        levels.append((Tier.NORMAL, 0))
    return DirectionRules(tuple(applied), Levels(levels, deny), enforcing)


def level_of(applied: Applied) -> tuple[Tier, int]:
    """The tier, and the place in it; namespaced policies are all at one place."""
    return applied.policy.tier, level_in_tier(applied.policy, applied.rule)


def level_in_tier(policy: Policy, rule: Rule) -> int:
    """A rule's place among the rules of its tier; the lower is asked first."""
    return 0 if policy.tier is Tier.NORMAL else policy.priority * 1000 + rule.order


def _expanded(rule: Rule, options: Options) -> tuple[Peer, ...] | None:
    if rule.peers is None:
        return None
    if not any(isinstance(peer, REFERENCES) for peer in rule.peers):
        return rule.peers
    return tuple(base for peer in rule.peers for base in expand_peer(peer, options))


def is_everyone(peers: tuple[Peer, ...] | None) -> bool:
    """Whether a rule is about every peer, those that are not known yet included."""
    return peers is None or EntityPeer("all") in peers
