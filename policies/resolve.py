"""From policies to the entries of one subject's policy map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from policies.applied import (
    Applied,
    DirectionRules,
    applied_rules,
    rule_ref,
    selected_by,
)
from policies.decide import Decision, networks_in_order
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
from policies.identity import Direction, Identity
from policies.l4 import L4
from policies.labels import Labels, Network
from policies.model import Action, CidrPeer, FqdnPeer, HttpRule, Policy, PortRule
from policies.names import NameSelector
from policies.options import Options, Subject
from policies.peerindex import PeerIndex
from policies.tables import DirectionTables

__all__ = ["assemble", "names_need_prefixes", "resolve", "selected_by", "tables_of"]


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
    found = applied_rules(policies, subject, options)
    return assemble(found, tables_of(found, subject, index, options))


def tables_of(
    found: tuple[DirectionRules, DirectionRules],
    subject: Subject,
    index: PeerIndex,
    options: Options,
) -> dict[Direction, DirectionTables]:
    """The tables of the directions that are enforced."""
    return {
        direction: DirectionTables(direction, rules, subject, index, options)
        for direction, rules in zip(Direction, found, strict=True)
        if rules.enforcing
    }


def assemble(
    directions: tuple[DirectionRules, DirectionRules],
    tables: Mapping[Direction, DirectionTables],
) -> Resolved:
    """Entries, rule sets and references of a subject's rules."""
    rules: list[RuleRef] = [NO_RULE]
    for found in directions:
        numbered = {a.rule_id: rule_ref(a.policy, a.rule) for a in found.applied}
        top = max(numbered, default=0)
        rules += [numbered.get(n, NO_RULE) for n in range(len(rules), top + 1)]
    rule_sets = RuleSets(rules)
    entries = [
        rule_sets.entry(identity, direction, l4, decision)
        for direction, found in sorted(tables.items())
        for identity, table in sorted(found.tables.items())
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
