"""Why a flow is allowed or not, and what would have to change for the opposite.

Every rule that applies to the subject is asked by itself whether it knows the peer and the port;
the verdict comes from the entries, as in the kernel, so the explanation cannot drift from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.applied import Applied, DirectionRules, is_everyone, rule_ref
from policies.cluster import Flow
from policies.decide import terms_of
from policies.entries import RuleRef, Verdict
from policies.identity import Direction, Identity, Protocol
from policies.labels import Labels
from policies.model import Action, Tier
from policies.options import Options, Subject
from policies.peerindex import PeerIndex
from policies.world import Judgement, Reason, World


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule that applies to the subject, against one flow."""

    rule: RuleRef
    action: Action
    tier: Tier
    knows_peer: bool
    knows_port: bool
    names_ports: bool
    decided: bool = False

    @property
    def matches(self) -> bool:
        return self.knows_peer and self.knows_port


@dataclass(frozen=True, slots=True)
class Explanation:
    """``advice`` tells, a line each, which rules would have to change to turn the verdict."""

    judgement: Judgement
    peer: tuple[str, ...]
    considered: tuple[Considered, ...]
    advice: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


def explain(world: World, flow: Flow) -> Explanation:
    """Explain a flow in a cluster on paper. Raises UnknownPeer."""
    judgement = world.judge(flow)
    candidates = world.candidates(flow.peer)
    found = world.rules(flow.subject)[flow.direction]
    considered = consider(
        found,
        world.subject(flow.subject),
        {identity: world.identities[identity] for identity in candidates},
        (flow.direction, flow.protocol, flow.port),
        world.options,
        judgement.rule,
    )
    peer = tuple(describe_identity(world.identities[identity]) for identity in candidates)
    return Explanation(judgement, peer, considered, _advice(judgement, considered))


def consider(
    found: DirectionRules,
    subject: Subject,
    candidates: dict[Identity, Labels],
    what: tuple[Direction, Protocol, int],
    options: Options,
    decided: RuleRef | None,
) -> tuple[Considered, ...]:
    """Ask each rule of a direction about the identities of one peer and one port."""
    direction, protocol, port = what
    index = PeerIndex(candidates, options.cluster_name, options.default_local_cluster)
    return tuple(
        Considered(
            ref := rule_ref(applied.policy, applied.rule),
            applied.rule.action,
            applied.policy.tier,
            any(_knows_peer(applied, index, labels) for labels in candidates.values()),
            _knows_port(applied, (protocol, port), _names(direction, subject, candidates, options)),
            applied.rule.ports is not None,
            ref == decided,
        )
        for applied in found.applied
    )


def describe_identity(labels: Labels) -> str:
    """The labels of an identity that say most about it, for people."""
    shown = sorted(
        str(label) for label in labels if not label.key.startswith("io.cilium.k8s.namespace.")
    )
    return ", ".join(shown)


def _knows_peer(applied: Applied, index: PeerIndex, labels: Labels) -> bool:
    if is_everyone(applied.peers):
        return True
    return any(index.selects(peer, labels) for peer in applied.peers or ())


def _names(
    direction: Direction, subject: Subject, candidates: Iterable[Identity], options: Options
) -> dict[tuple[str, Protocol], frozenset[int]]:
    """The named ports that count: the subject's own on ingress, the peer's on egress."""
    found: dict[tuple[str, Protocol], frozenset[int]] = {}
    if direction is Direction.INGRESS:
        for name, port, protocol in subject.named_ports:
            key = (name.lower(), protocol)
            found[key] = found.get(key, frozenset()) | {port}
        return found
    for identity in candidates:
        for key, ports in options.named_ports.get(identity, {}).items():
            found[key] = found.get(key, frozenset()) | ports
    return found


def _knows_port(
    applied: Applied,
    wanted: tuple[Protocol, int],
    names: dict[tuple[str, Protocol], frozenset[int]],
) -> bool:
    terms = terms_of(applied.rule, 0, 0, None) + terms_of(applied.rule, 0, 0, names)
    return any(term.l4.has(*wanted) for term in terms)


def _advice(judgement: Judgement, considered: Sequence[Considered]) -> tuple[str, ...]:
    matching = [c for c in considered if c.matches]
    if judgement.reason is Reason.NOT_ENFORCED:
        return ("no policy is about this subject in this direction; add one to restrict it",)
    if judgement.reason is Reason.NAME_REFUSED:
        return (
            f"add the name to rules.dns of {judgement.rule}, or to another rule for this server",
        )
    if judgement.verdict is Verdict.DENY:
        denying = [c for c in matching if c.action is Action.DENY]
        if denying:
            lines = [f"every one of these denials would have to go: {c.rule}" for c in denying]
            if not any(c.matches and c.action is Action.ALLOW for c in considered):
                lines.append("and then a rule would have to allow it, which none does")
            return tuple(lines)
        return _nearest(considered)
    allowing = [c for c in matching if c.action is Action.ALLOW]
    if not allowing:
        return ("nothing denies it; a deny rule, or a policy with default deny, would",)
    lines = [f"to stop it, change {c.rule}" for c in allowing]
    return (*lines, "or add a deny rule, which beats them all")


def _nearest(considered: Sequence[Considered]) -> tuple[str, ...]:
    """For a default denial: the rules that miss by one thing."""
    lines = [
        f"{c.rule} allows this peer, but not this port"
        for c in considered
        if c.action is Action.ALLOW and c.knows_peer and not c.knows_port
    ]
    lines += [
        f"{c.rule} allows this port, but not this peer"
        for c in considered
        if c.action is Action.ALLOW and c.names_ports and c.knows_port and not c.knows_peer
    ]
    return tuple(lines) or ("no rule is near: add one for this peer and this port",)
