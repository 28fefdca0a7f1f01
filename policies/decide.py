"""One identity's table of verdicts from the rules that apply to it.

The rules' port prefixes are nested or apart, so between one prefix and those inside it every
packet meets the same rules. Deciding once at each prefix therefore decides every packet. Levels
(tier, then priority) are asked in order; within a level deny beats redirect beats allow, and a
PASS, which is weakest, jumps to the next tier.

Invariant: a table's entry carries the precedence of the level that decided, so that the best of
several tables' answers is the answer of their rules together (but for what policies.passes tells).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from policies.entries import (
    ALLOW_LOW,
    DENY_LOW,
    PASS_LOW,
    PROXY_PRIORITY,
    ProxyKind,
    Verdict,
    precedence,
)
from policies.identity import DNS_PROTOCOLS, PORT_PROTOCOLS, PORTLESS_PROTOCOLS, Protocol
from policies.l4 import ANYTHING, L4, ancestors, port_prefixes
from policies.labels import Network
from policies.model import (
    Action,
    DnsRules,
    GenericRules,
    HttpRule,
    HttpRules,
    PortRule,
    PortSpec,
    Rule,
    Tier,
)
from policies.names import NameSelector, pattern_selector

__all__ = ["Decision", "Levels", "Term", "build_table", "terms_of"]

EVERY_NAME = pattern_selector("*")

L7Item: TypeAlias = tuple[NameSelector | HttpRule | PortRule, int]
"""What a proxy may let through, and the id of the rule that says so."""


class Term(NamedTuple):
    """One prefix of one rule: what the rule does there.

    ``ports`` is the range (protocol, first, last) that was written, of which ``l4`` is a part.
    """

    l4: L4
    low: int
    level: int
    rule_id: int
    proxy: ProxyKind = ProxyKind.NONE
    l7: tuple[NameSelector | HttpRule | PortRule, ...] = ()
    ports: tuple[int, int, int] = (0, 0, 0)


class Decision(NamedTuple):
    """The outcome at a prefix."""

    verdict: Verdict
    precedence: int
    proxy: ProxyKind
    l7: tuple[L7Item, ...]
    rule_id: int

    def same_outcome(self, other: Decision) -> bool:
        """Whether packets (and the comparison between candidates) cannot tell them apart."""
        return (
            self.precedence == other.precedence
            and self.verdict is other.verdict
            and self.proxy is other.proxy
            and self.l7 == other.l7
        )


Order: TypeAlias = Callable[[int], tuple[object, ...]]
"""Rule id -> where the rule stands among the policies."""

Table: TypeAlias = Mapping[L4, Decision]


class Levels:
    """The (tier, priority) levels of one direction, numbered in the order in which they are asked.

    A level's number serves as the kernel's 24-bit priority.
    """

    def __init__(self, levels: Iterable[tuple[Tier, int]], deny: bool) -> None:
        self.ordered = sorted(set(levels))
        self.number = {level: index for index, level in enumerate(self.ordered)}
        self.tiers = [tier for tier, _ in self.ordered]
        self.default_deny = deny
        self.key = (tuple(self.ordered), deny)

    @property
    def default(self) -> Decision:
        """What holds where no rule decides.

        The allowing default shares the last level, where any denial beats it.
        """
        end = len(self.ordered)
        if self.default_deny:
            return Decision(Verdict.DENY, precedence(end, DENY_LOW), ProxyKind.NONE, (), 0)
        last = precedence(max(end - 1, 0), ALLOW_LOW)
        return Decision(Verdict.ALLOW, last, ProxyKind.NONE, (), 0)


def terms_of(
    rule: Rule,
    rule_id: int,
    level: int,
    named: Mapping[tuple[str, Protocol], frozenset[int]] | None,
) -> list[Term]:
    """The prefixes of a rule. With ``named`` None, ports that have only a name are left out;
    otherwise the names are looked up there, and numbers are left out.
    """
    if rule.ports is None:
        return [] if named is not None else [Term(ANYTHING, _plain_low(rule), level, rule_id)]
    found = []
    for port_rule in rule.ports:
        low, proxy, l7 = _redirect(rule, port_rule)
        for spec in port_rule.ports:
            ranges = _numbers(spec) if named is None else _names(spec, named)
            found += [
                Term(l4, low, level, rule_id, proxy, l7, ports)
                for ports in ranges
                if proxy is not ProxyKind.DNS or ports[0] in DNS_PROTOCOLS
                for l4 in _prefixes(*ports)
            ]
    return found


def _plain_low(rule: Rule) -> int:
    if rule.action is Action.DENY:
        return DENY_LOW
    return ALLOW_LOW if rule.action is Action.ALLOW else PASS_LOW


def _redirect(
    rule: Rule, port_rule: PortRule
) -> tuple[int, ProxyKind, tuple[NameSelector | HttpRule | PortRule, ...]]:
    if not port_rule.redirects or rule.action is not Action.ALLOW:
        return _plain_low(rule), ProxyKind.NONE, ()
    l7 = port_rule.l7
    if isinstance(l7, DnsRules):
        return 255 - PROXY_PRIORITY[ProxyKind.DNS], ProxyKind.DNS, l7.selectors
    if isinstance(l7, HttpRules):
        return 255 - PROXY_PRIORITY[ProxyKind.HTTP], ProxyKind.HTTP, l7.rules
    kind = ProxyKind.TLS
    if isinstance(l7, GenericRules):
        kind = ProxyKind.GENERIC
    elif port_rule.listener is not None:
        kind = ProxyKind.LISTENER
        if port_rule.listener.priority:
            return 255 - port_rule.listener.priority, kind, (port_rule,)
    return 255 - PROXY_PRIORITY[kind], kind, (port_rule,)


def _protocols(protocol: Protocol) -> Sequence[Protocol]:
    return PORT_PROTOCOLS if protocol is Protocol.ANY else (protocol,)


def _numbers(spec: PortSpec) -> list[tuple[int, int, int]]:
    """The (protocol, first, last) that a numbered port means."""
    if spec.name:
        return []
    return [(protocol, spec.first, spec.last) for protocol in _protocols(spec.protocol)]


def _names(
    spec: PortSpec, named: Mapping[tuple[str, Protocol], frozenset[int]]
) -> list[tuple[int, int, int]]:
    """The (protocol, port, port) that a port's name means where it is known."""
    return [
        (protocol, port, port)
        for protocol in _protocols(spec.protocol)
        for port in sorted(named.get((spec.name, protocol), ()))
        if spec.name
    ]


def _prefixes(protocol: int, first: int, last: int) -> list[L4]:
    if protocol in PORTLESS_PROTOCOLS:
        return [L4(protocol, 0, 0)]
    return [L4(protocol, port, bits) for port, bits in port_prefixes(first, last)]


def build_table(
    terms: Iterable[Term], levels: Levels, beneath: Table, order: Order
) -> dict[L4, Decision]:
    """The least entries that, over ``beneath``, give every packet the terms' verdict.

    ``beneath`` is the table of identity 0 (empty when this is that table); ``terms`` include the
    terms that made it. ``order`` ranks rule ids: of rules that decide alike, the first is named.
    """
    at: dict[L4, list[Term]] = {}
    for term in terms:
        at.setdefault(term.l4, []).append(term)
    places = sorted(at, key=lambda l4: (l4.length, l4))
    if not levels.default_deny and ANYTHING not in at:
        places.insert(0, ANYTHING)
    table: dict[L4, Decision] = {}
    for place in places:
        above = ancestors(place)
        covering = [term for l4 in above if l4 in at for term in at[l4]]
        decision = _decide(covering, levels, order)
        current = _current(above, table, beneath)
        if current is None:
            # Nothing matches here so far, and that means a denial already.
            if decision.verdict is not Verdict.DENY or decision.rule_id:
                table[place] = decision
        elif not current.same_outcome(decision):
            table[place] = decision
    return table


def _current(above: tuple[L4, ...], table: Table, beneath: Table) -> Decision | None:
    """What the kernel finds at a place with the entries so far."""
    own = next((l4 for l4 in above if l4 in table), None)
    low = next((l4 for l4 in above if l4 in beneath), None)
    if own is None:
        return None if low is None else beneath[low]
    if low is None:
        return table[own]
    mine, theirs = table[own], beneath[low]
    if (theirs.precedence, low.length) > (mine.precedence, own.length):
        return theirs
    return mine


def _decide(covering: list[Term], levels: Levels, order: Order) -> Decision:
    """The verdict where exactly these terms match."""
    while covering:
        level = min(term.level for term in covering)
        here = [term for term in covering if term.level == level]
        low = max(term.low for term in here)
        if low != PASS_LOW:
            return _decision(here, low, precedence(level, low), order)
        covering = [term for term in covering if levels.tiers[term.level] > levels.tiers[level]]
    return levels.default


def _decision(here: list[Term], low: int, rank: int, order: Order) -> Decision:
    deciding = [term for term in here if term.low == low]
    rule_id = deciding[0].rule_id
    if len(deciding) > 1:
        rule_id = min((term.rule_id for term in deciding), key=order)
    if low == DENY_LOW:
        return Decision(Verdict.DENY, rank, ProxyKind.NONE, (), rule_id)
    if low == ALLOW_LOW:
        return Decision(Verdict.ALLOW, rank, ProxyKind.NONE, (), rule_id)
    proxy = deciding[0].proxy
    items = [(item, term.rule_id) for term in deciding for item in term.l7]
    # A plain permission of the very same ports makes the proxy let everything through.
    written = {term.ports for term in deciding}
    for term in here:
        if term.low == ALLOW_LOW and term.ports in written:
            if proxy is ProxyKind.DNS:
                items.append((EVERY_NAME, term.rule_id))
            elif proxy is ProxyKind.HTTP:
                items.append((HttpRule(), term.rule_id))
    first: dict[NameSelector | HttpRule | PortRule, int] = {}
    for item, owner in sorted(items, key=lambda pair: order(pair[1])):
        first.setdefault(item, owner)
    return Decision(Verdict.REDIRECT, rank, proxy, tuple(first.items()), rule_id)


def networks_in_order(prefixes: Iterable[Network]) -> tuple[Network, ...]:
    """Distinct prefixes, IPv4 first, by address."""
    return tuple(
        sorted(set(prefixes), key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    )
