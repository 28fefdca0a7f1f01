"""From policies to the entries of one subject's policy map.

Identities that the same rules select get the same table, so a table is built once for each such
class and shared. What a direction's rules say to *every* peer becomes identity 0's table, and an
identity's own table holds only what differs from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policies.decide import Decision, Levels, Table, Term, build_table, networks_in_order, terms_of
from policies.entries import (
    NO_RULE,
    DnsRuleSet,
    Enforcing,
    Entry,
    HttpRuleSet,
    ProxyKind,
    ProxyRuleSet,
    Resolved,
    RuleRef,
)
from policies.expand import expand_peer
from policies.identity import ANY_IDENTITY, HOST, Direction, Identity, Protocol
from policies.l4 import L4
from policies.labels import (
    K8S,
    NAMESPACE_KEY,
    RESERVED,
    Label,
    Labels,
    Network,
)
from policies.model import (
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    Peer,
    Policy,
    PortRule,
    Rule,
    Spec,
    Tier,
)
from policies.names import NameSelector
from policies.options import Enforcement, NamedPorts, Options, Subject
from policies.peerindex import PeerIndex

_INIT = Label(RESERVED, "init")
_HOST_LABEL = Label(RESERVED, "host")
_LOCALHOST = RuleRef("", "", "the node may reach its own endpoints")


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
    return spec.on_nodes is (_HOST_LABEL in labels) and spec.subject.matches(labels)


def selected_by(policy: Policy, labels: Labels, namespace: str) -> bool:
    """Whether any spec of the policy selects a subject with these labels."""
    complete = subject_labels(labels, namespace)
    return any(spec_selects(spec, complete) for spec in policy.specs)


def rule_ref(policy: Policy, rule: Rule) -> RuleRef:
    """How people find a rule again."""
    where = f" ({policy.source}:{rule.line})" if rule.line else ""
    text = f"{policy.title} {rule.path}{where}"
    return RuleRef(policy.title, rule.path, text, policy.source, rule.line)


def resolve(
    policies: Iterable[Policy],
    subject: Subject,
    identities: Mapping[Identity, Labels],
    options: Options | None = None,
) -> Resolved:
    """The policy map of ``subject`` over the identities that exist.

    Entries of identity 0 hold for identities that do not exist yet as well.
    """
    options = options or Options()
    index = PeerIndex(identities, options.cluster_name, options.default_local_cluster)
    return assemble(applied_rules(policies, subject, options), subject, index, options)


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
    chosen: Sequence[tuple[Policy, Spec]], labels: Labels, options: Options
) -> tuple[DirectionRules, DirectionRules]:
    """The rules that apply in each direction (ingress, egress), ranked."""
    return (
        _collect(chosen, labels, options, Direction.INGRESS, 1),
        _collect(
            chosen,
            labels,
            options,
            Direction.EGRESS,
            1 + sum(len(spec.rules_of(Direction.INGRESS)) for _, spec in chosen),
        ),
    )


def _collect(
    chosen: Sequence[tuple[Policy, Spec]],
    labels: Labels,
    options: Options,
    direction: Direction,
    first_id: int,
) -> DirectionRules:
    rules: list[tuple[Policy, Rule]] = []
    forced = options.enforcement is Enforcement.ALWAYS or _INIT in labels
    deny = forced or any(spec.default_deny[direction] for _, spec in chosen)
    for policy, spec in chosen:
        rules += [(policy, rule) for rule in spec.rules_of(direction)]
    enforcing = options.enforcement is not Enforcement.NEVER and (forced or deny or bool(rules))
    applied = [
        Applied(policy, rule, first_id + number, _expanded(rule, options))
        for number, (policy, rule) in enumerate(rules)
    ]
    if deny:
        applied = [a for a in applied if a.policy.tier is not Tier.BASELINE]
    levels = [_level(a) for a in applied]
    passing = [_level(a) for a in applied if a.rule.action is Action.PASS]
    if direction is Direction.INGRESS and options.allow_localhost:
        levels.append((Tier.NORMAL, 0))
    return DirectionRules(tuple(applied), Levels(levels, passing, deny), enforcing)


def _level(applied: Applied) -> tuple[Tier, int]:
    policy = applied.policy
    if policy.tier is Tier.NORMAL:
        return Tier.NORMAL, 0
    return policy.tier, policy.priority * 1000 + applied.rule.order


def _expanded(rule: Rule, options: Options) -> tuple[Peer, ...] | None:
    if rule.peers is None:
        return None
    return tuple(base for peer in rule.peers for base in expand_peer(peer, options))


def assemble(
    directions: tuple[DirectionRules, DirectionRules],
    subject: Subject,
    index: PeerIndex,
    options: Options,
) -> Resolved:
    """Entries, rule sets and references of a subject's rules."""
    rules: list[RuleRef] = [NO_RULE]
    for found in directions:
        numbered = {a.rule_id: rule_ref(a.policy, a.rule) for a in found.applied}
        top = max(numbered, default=0)
        rules += [numbered.get(n, NO_RULE) for n in range(len(rules), top + 1)]
    rule_sets = RuleSets(rules)
    entries: list[Entry] = []
    for direction, found in zip(Direction, directions, strict=True):
        if not found.enforcing:
            continue
        tables = direction_tables(direction, found, subject, index, options)
        for identity, table in sorted(tables.items()):
            entries += [
                rule_sets.entry(identity, direction, l4, decision)
                for l4, decision in sorted(table.items(), key=lambda item: item[0])
            ]
    applied = [a for found in directions for a in found.applied]
    return Resolved(
        tuple(entries),
        Enforcing(directions[0].enforcing, directions[1].enforcing),
        names_in(applied),
        tuple(rule_sets.dns),
        tuple(rule_sets.http),
        tuple(rule_sets.proxies),
        *prefixes_in(applied),
        tuple(rules),
    )


def direction_tables(
    direction: Direction,
    found: DirectionRules,
    subject: Subject,
    index: PeerIndex,
    options: Options,
) -> dict[Identity, Table]:
    """Identity 0's table, and that of every identity for which something else holds."""
    own_ports = _own_ports(subject) if direction is Direction.INGRESS else None
    everyone, some = split_terms(found, own_ports)
    if direction is Direction.INGRESS and options.allow_localhost:
        localhost = Applied(_NO_POLICY, _LOCALHOST_RULE, 0, (EntityPeer("host"),))
        some.append((localhost, terms_of(_LOCALHOST_RULE, 0, _normal(found.levels), None)))
    wildcard = build_table(everyone, found.levels, {})
    tables: dict[Identity, Table] = {ANY_IDENTITY: wildcard}
    classes: dict[Identity, list[int]] = {}
    for number, (applied, terms) in enumerate(some):
        if terms:
            for identity in _peers(applied, index):
                classes.setdefault(identity, []).append(number)
    named = _named_by_identity(found, index, options) if own_ports is None else {}
    for identity in named:
        classes.setdefault(identity, [])
    shared: dict[tuple[tuple[int, ...], tuple[Term, ...]], Table] = {}
    for identity, members in classes.items():
        key = (tuple(members), named.get(identity, ()))
        if key not in shared:
            own = [term for number in members for term in some[number][1]]
            shared[key] = build_table([*everyone, *own, *key[1]], found.levels, wildcard)
        if shared[key]:
            tables[identity] = shared[key]
    return tables


def split_terms(
    found: DirectionRules, own_ports: NamedPorts | None
) -> tuple[list[Term], list[tuple[Applied, list[Term]]]]:
    """The terms for every peer, and those of rules that name their peers."""
    everyone: list[Term] = []
    some: list[tuple[Applied, list[Term]]] = []
    for applied in found.applied:
        level = found.levels.number[_level(applied)]
        terms = terms_of(applied.rule, applied.rule_id, level, None)
        if own_ports is not None:
            terms += terms_of(applied.rule, applied.rule_id, level, own_ports)
        if is_everyone(applied.peers):
            everyone += terms
        else:
            some.append((applied, terms))
    return everyone, some


def is_everyone(peers: tuple[Peer, ...] | None) -> bool:
    return peers is None or EntityPeer("all") in peers


def _normal(levels: Levels) -> int:
    return levels.number[(Tier.NORMAL, 0)]


def _peers(applied: Applied, index: PeerIndex) -> set[Identity]:
    found: set[Identity] = set()
    for peer in applied.peers or ():
        found |= index.selected(peer)
    return found


def _own_ports(subject: Subject) -> NamedPorts:
    found: dict[tuple[str, Protocol], set[int]] = {}
    for name, port, protocol in subject.named_ports:
        found.setdefault((name.lower(), protocol), set()).add(port)
    return {key: frozenset(ports) for key, ports in found.items()}


def _named_by_identity(
    found: DirectionRules, index: PeerIndex, options: Options
) -> dict[Identity, tuple[Term, ...]]:
    """Egress rules whose ports go by name mean each peer's own number for it."""
    naming = [
        a
        for a in found.applied
        if any(spec.name for port_rule in a.rule.ports or () for spec in port_rule.ports)
    ]
    if not naming:
        return {}
    terms: dict[Identity, list[Term]] = {}
    for applied in naming:
        level = found.levels.number[_level(applied)]
        chosen = None if is_everyone(applied.peers) else _peers(applied, index)
        for identity, ports in options.named_ports.items():
            if identity in index.labels and (chosen is None or identity in chosen):
                own = terms_of(applied.rule, applied.rule_id, level, ports)
                terms.setdefault(identity, []).extend(own)
    return {identity: tuple(own) for identity, own in terms.items() if own}


_LOCALHOST_RULE = Rule("", 0, Direction.INGRESS, Action.ALLOW, None, None)
_NO_POLICY = Policy("", "", "", "", 0, Tier.NORMAL, ())


def names_in(applied: Iterable[Applied]) -> tuple[NameSelector, ...]:
    """The toFQDNs selectors in policy order, each once."""
    selectors = [
        peer.selector for a in applied for peer in a.peers or () if isinstance(peer, FqdnPeer)
    ]
    return tuple(dict.fromkeys(selectors))


def prefixes_in(
    applied: Iterable[Applied],
) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
    """(prefixes that need an identity, prefixes that also count inside the cluster)."""
    cidrs = [peer for a in applied for peer in a.peers or () if isinstance(peer, CidrPeer)]
    everywhere = [prefix for peer in cidrs for prefix in (peer.cidr, *peer.excepts)]
    inside = [prefix for peer in cidrs if peer.inside for prefix in (peer.cidr, *peer.excepts)]
    return networks_in_order(everywhere), networks_in_order(inside)


def names_need_prefixes(policies: Iterable[Policy]) -> bool:
    """Whether identities of learned names must carry the prefix that the address lies in as well.

    A rule that PASSes a network to a lower tier, where names are allowed, needs both facts of an
    address in one identity: what each alone is allowed does not add up to the right answer. Without
    such a rule names need no prefix, and an identity stands for the names' selectors alone.
    """
    return any(
        rule.action is Action.PASS and any(isinstance(peer, CidrPeer) for peer in rule.peers or ())
        for policy in policies
        for rule in policy.rules
    )


class RuleSets:
    """Numbers the proxies' rule sets of one subject, equal ones once."""

    def __init__(self, rules: Sequence[RuleRef]) -> None:
        self._rules = rules
        self._numbers: dict[object, int] = {}
        self.dns: list[DnsRuleSet] = []
        self.http: list[HttpRuleSet] = []
        self.proxies: list[ProxyRuleSet] = []

    def entry(self, identity: Identity, direction: Direction, l4: L4, decision: Decision) -> Entry:
        """The kernel's entry for a decision."""
        return Entry(
            identity,
            direction,
            l4.protocol,
            l4.port,
            l4.bits,
            decision.verdict,
            decision.precedence,
            decision.proxy,
            self._number(decision),
            decision.rule_id,
        )

    def _number(self, decision: Decision) -> int:
        if decision.proxy is ProxyKind.NONE:
            return 0
        key = (decision.proxy, decision.l7)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._add(decision)
        return number

    def _add(self, decision: Decision) -> int:
        items = [(item, self._rules[rule_id]) for item, rule_id in decision.l7]
        if decision.proxy is ProxyKind.DNS:
            names = [(item, ref) for item, ref in items if isinstance(item, NameSelector)]
            self.dns.append(DnsRuleSet(tuple(names)))
            return len(self.dns)
        if decision.proxy is ProxyKind.HTTP:
            requests = [(item, ref) for item, ref in items if isinstance(item, HttpRule)]
            self.http.append(HttpRuleSet(tuple(requests)))
            return len(self.http)
        others = [(item, ref) for item, ref in items if isinstance(item, PortRule)]
        self.proxies.append(ProxyRuleSet(tuple(others)))
        return len(self.proxies)


__all__ = ["HOST", "assemble", "collect", "resolve", "selected_by"]
