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
from policies.model import CidrPeer, FqdnPeer, HttpRule, Policy, PortRule
from policies.names import NameSelector
from policies.options import Options, Subject
from policies.peerindex import PeerIndex
from policies.tables import DirectionTables, TableCache

__all__ = ["assemble", "resolve", "selected_by", "tables_of"]


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
    cache: TableCache | None = None,
) -> dict[Direction, DirectionTables]:
    """The tables of the directions that are enforced."""
    if cache is None:
        cache = TableCache(lambda rule_id: (rule_id,))
    return {
        direction: DirectionTables(direction, rules, subject, index, options, cache)
        for direction, rules in zip(Direction, found, strict=True)
        if rules.enforcing
    }


def assemble(
    directions: tuple[DirectionRules, DirectionRules],
    tables: Mapping[Direction, DirectionTables],
) -> Resolved:
    """Entries, rule sets and references of a subject's rules."""
    applied = [a for found in directions for a in found.applied]
    numbers = {0: 0} | {a.rule_id: number for number, a in enumerate(applied, 1)}
    rules = [NO_RULE, *(rule_ref(a.policy, a.rule) for a in applied)]
    rule_sets = RuleSets(rules, numbers)
    entries = [
        rule_sets.entry(identity, direction, l4, decision)
        for direction, found in sorted(tables.items())
        for identity, table in sorted(found.tables.items())
        for l4, decision in sorted(table.items(), key=lambda item: item[0])
    ]
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


class RuleSets:
    """Numbers the proxies' rule sets of one subject, equal ones once.

    ``numbers`` are the places in ``rules`` by the ids that decisions carry.
    """

    def __init__(self, rules: Sequence[RuleRef], numbers: Mapping[int, int]) -> None:
        self._rules = rules
        self._places = numbers
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
            self._places[decision.rule_id],
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
        items = [(item, self._rules[self._places[rule_id]]) for item, rule_id in decision.l7]
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
