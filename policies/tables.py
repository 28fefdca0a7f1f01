"""The tables of one direction of one subject, kept right while identities come and go.

Identities that the same rules select form a class and share one table, so a table is built once for
each class, also across subjects, as long as rules keep their ids. What rules say to *every* peer
becomes identity 0's table; an identity's own table holds only what differs from that.

Invariant: the tables are a function of the rules and of the identities that are in, and of nothing
that happened before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from policies.applied import Applied, DirectionRules, is_everyone, level_of
from policies.decide import Order, Table, Term, build_table, terms_of
from policies.identity import ANY_IDENTITY, Direction, Identity, Protocol
from policies.model import Action, EntityPeer, Peer, Policy, Rule, Tier
from policies.options import NamedPorts, Options, Subject
from policies.peerindex import PeerIndex

_LOCALHOST_RULE = Rule("", 0, Direction.INGRESS, Action.ALLOW, None, None)
_NO_POLICY = Policy("", "", "", "", 0, Tier.NORMAL, ())
_NO_TABLE: Table = {}


class TableCache:
    """Tables by the rules that make them, for all subjects to whom they apply.

    ``order`` ranks rule ids as build_table() wants it.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._tables: dict[object, Table] = {}
        self._terms: dict[tuple[int, int], list[Term]] = {}

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, key: object, make: Callable[[], Table]) -> Table:
        """The table of ``key``, made when there is none."""
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = make()
        return table

    def terms(self, applied: Applied, level: int) -> list[Term]:
        """The terms of a rule at a level, but for those of ports that go by name."""
        key = (applied.rule_id, level)
        terms = self._terms.get(key)
        if terms is None:
            terms = self._terms[key] = terms_of(applied.rule, applied.rule_id, level, None)
        return terms

    def keep_only(self, tables: Iterable[Table]) -> None:
        """Forget the tables that are not among these."""
        self._terms.clear()
        kept = {id(table) for table in tables}
        self._tables = {key: t for key, t in self._tables.items() if id(t) in kept}


class DirectionTables:
    """``tables`` maps an identity to its table; identity 0 is in it, empty tables are not."""

    def __init__(
        self,
        direction: Direction,
        found: DirectionRules,
        subject: Subject,
        index: PeerIndex,
        options: Options,
        cache: TableCache,
    ) -> None:
        self.rules = found
        self._cache = cache
        self._named_ports = options.named_ports
        own_ports = _own_ports(subject) if direction is Direction.INGRESS else None
        self._everyone, self._some = _split(found, own_ports, cache)
        if direction is Direction.INGRESS and options.allow_localhost:
            level = found.levels.number[(Tier.NORMAL, 0)]
            localhost = Applied(_NO_POLICY, _LOCALHOST_RULE, 0, (EntityPeer("host"),))
            self._some.append((localhost, terms_of(_LOCALHOST_RULE, 0, level, None)))
        # On egress, ports that go by name mean each peer's own number for it.
        self._naming = [a for a in found.applied if own_ports is None and _has_names(a.rule)]
        self._by_peer: dict[Peer, list[int]] = {}
        for number, (applied, _) in enumerate(self._some):
            for peer in applied.peers or ():
                self._by_peer.setdefault(peer, []).append(number)
        ports = subject.named_ports if own_ports is not None else ()
        everyone = tuple(dict.fromkeys(term.rule_id for term in self._everyone))
        # The rules of identity 0's table, and all else on which tables depend beside own rules.
        self._common = (found.levels.key, everyone, ports)
        self._classes: dict[tuple[tuple[int, ...], tuple[Term, ...]], Table] = {}
        self.wildcard: Table = cache.get(
            self._common, lambda: build_table(self._everyone, found.levels, {}, cache.order)
        )
        self.tables: dict[Identity, Table] = {}
        if self.wildcard:
            self.tables[ANY_IDENTITY] = self.wildcard
        self._fill(index)

    @property
    def peers(self) -> Iterable[Peer]:
        """The peers that the rules name."""
        return self._by_peer

    def in_use(self) -> Iterable[Table]:
        """All tables that this holds on to."""
        return (self.wildcard, *self._classes.values())

    def add(self, identity: Identity, chosen: Iterable[Peer]) -> Table:
        """Take in an identity that these peers select (others are ignored); returns its table."""
        numbers: set[int] = set()
        for peer in chosen:
            numbers.update(self._by_peer.get(peer, ()))
        return self._put(identity, tuple(sorted(numbers)))

    def remove(self, identity: Identity) -> Table:
        """Let an identity go; returns the table that it had."""
        return self.tables.pop(identity, _NO_TABLE)

    def _fill(self, index: PeerIndex) -> None:
        classes: dict[Identity, list[int]] = {}
        for number, (applied, _) in enumerate(self._some):
            for identity in _selected(applied, index):
                classes.setdefault(identity, []).append(number)
        if self._naming:
            for identity in self._named_ports:
                if identity in index.labels:
                    classes.setdefault(identity, [])
        for identity, numbers in classes.items():
            self._put(identity, tuple(numbers))

    def _put(self, identity: Identity, numbers: tuple[int, ...]) -> Table:
        named = self._named(identity, numbers) if self._naming else ()
        table = self._classes.get((numbers, named))
        if table is None:
            if not numbers and not named:
                return _NO_TABLE
            rules = tuple(self._some[number][0].rule_id for number in numbers)
            key = (self._common, rules, named)
            table = self._cache.get(key, lambda: self._build(numbers, named))
            self._classes[numbers, named] = table
        if table:
            self.tables[identity] = table
        return table

    def _build(self, numbers: tuple[int, ...], named: tuple[Term, ...]) -> Table:
        own = [term for number in numbers for term in self._some[number][1]]
        terms = [*self._everyone, *own, *named]
        return build_table(terms, self.rules.levels, self.wildcard, self._cache.order)

    def _named(self, identity: Identity, numbers: tuple[int, ...]) -> tuple[Term, ...]:
        ports = self._named_ports.get(identity)
        if not ports:
            return ()
        mine = {self._some[number][0].rule_id for number in numbers}
        return tuple(
            term
            for a in self._naming
            if is_everyone(a.peers) or a.rule_id in mine
            for term in terms_of(a.rule, a.rule_id, self.rules.levels.number[level_of(a)], ports)
        )


def _split(
    found: DirectionRules, own_ports: NamedPorts | None, cache: TableCache
) -> tuple[list[Term], list[tuple[Applied, list[Term]]]]:
    """The terms for every peer, and those of rules that name their peers."""
    everyone: list[Term] = []
    some: list[tuple[Applied, list[Term]]] = []
    for applied in found.applied:
        level = found.levels.number[level_of(applied)]
        terms = cache.terms(applied, level)
        if own_ports and _has_names(applied.rule):
            terms = terms + terms_of(applied.rule, applied.rule_id, level, own_ports)
        if is_everyone(applied.peers):
            everyone += terms
        else:
            some.append((applied, terms))
    return everyone, some


def _selected(applied: Applied, index: PeerIndex) -> set[Identity]:
    peers = applied.peers or ()
    if len(peers) == 1:
        return index.selected(peers[0])
    return set().union(*map(index.selected, peers))


def _has_names(rule: Rule) -> bool:
    return any(spec.name for port_rule in rule.ports or () for spec in port_rule.ports)


def _own_ports(subject: Subject) -> Mapping[tuple[str, Protocol], frozenset[int]]:
    found: dict[tuple[str, Protocol], frozenset[int]] = {}
    for name, port, protocol in subject.named_ports:
        key = (name.lower(), protocol)
        found[key] = found.get(key, frozenset()) | {port}
    return found
