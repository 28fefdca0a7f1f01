"""The policy maps of many subjects, kept right through every change at the cost of the change.

Subjects that the same specs select share one PolicySet. A new identity is asked once of the
selectors that could know it, and then costs each set that uses one of those a table that is mostly
shared already. A changed policy costs the sets of the subjects that it selects, or did.

Invariant: whatever the order of changes, a set's content equals resolve() of today's policies,
identities and options (the property test goes from any state to any state).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from policies.applied import DirectionRules, collect, spec_selects, subject_labels
from policies.decide import Table
from policies.entries import Resolved
from policies.identity import Direction, Identity
from policies.labels import Labels
from policies.model import Peer, Policy, PolicyKey, Rule, Spec
from policies.options import NamedPorts, Options, Subject
from policies.peerindex import PeerIndex
from policies.resolve import assemble, tables_of
from policies.tables import DirectionTables, TableCache


def policy_key(policy: Policy) -> PolicyKey:
    """What tells policies apart; a second one with the same key takes the first one's place."""
    return policy.key


@dataclass(frozen=True, slots=True)
class Change:
    """An identity's table in one set and direction changed. An empty ``table``: no entries."""

    policy_set: PolicySet
    direction: Direction
    identity: Identity
    table: Table


class PolicySet:
    """The policy that one or more subjects share."""

    def __init__(
        self,
        chosen: tuple[tuple[Policy, Spec], ...],
        labels: Labels,
        subject: Subject,
        index: PeerIndex,
        options: Options,
        numbers: Mapping[int, int],
        cache: TableCache,
    ) -> None:
        self.chosen = chosen
        self.directions: tuple[DirectionRules, DirectionRules] = collect(
            chosen, labels, options, numbers
        )
        self.tables: dict[Direction, DirectionTables] = tables_of(
            self.directions, subject, index, options, cache
        )
        self.subjects: set[str] = set()
        self._resolved: Resolved | None = None

    def resolved(self) -> Resolved:
        """The entries, as resolve() gives them; made when asked for, and kept until a change."""
        if self._resolved is None:
            self._resolved = assemble(self.directions, self.tables)
        return self._resolved

    def add(self, identity: Identity, chosen: list[Peer]) -> list[Change]:
        """Take in an identity that ``chosen`` select."""
        found = []
        for direction, tables in self.tables.items():
            table = tables.add(identity, chosen)
            if table:
                found.append(Change(self, direction, identity, table))
        self._touched(found)
        return found

    def remove(self, identity: Identity) -> list[Change]:
        """Let an identity go."""
        found = [
            Change(self, direction, identity, {})
            for direction, tables in self.tables.items()
            if tables.remove(identity)
        ]
        self._touched(found)
        return found

    def _touched(self, changes: list[Change]) -> None:
        if changes:
            self._resolved = None


_SetKey: TypeAlias = tuple[tuple[tuple[PolicyKey, int], ...], object, bool]


class RuleNumbers:
    """Ids for rules that outlive changes around them, so that tables made of them stay good.

    ``numbers`` is by ``id(rule)`` of the rules in force. A rule that a changed policy says again,
    in the same place, keeps its id.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self._places: dict[int, tuple[object, ...]] = {0: ()}
        self._next = 1

    def place(self, number: int) -> tuple[object, ...]:
        """Where a rule stands among the policies: (policy, spec, rule)."""
        return self._places[number]

    def replace(self, key: PolicyKey, old: Policy | None, new: Policy | None) -> None:
        """One policy took another's place, or there was none before, or is none now."""
        kept: dict[tuple[int, int], tuple[Rule, int]] = {}
        for at, rule in _rules_of(old):
            number = self.numbers.pop(id(rule))
            if new is not None and old is not None and _alike(old, new):
                kept[at] = (rule, number)
            else:
                del self._places[number]
        for at, rule in _rules_of(new):
            said, number = kept.pop(at, (None, 0))
            if said is not None and said != rule:
                del self._places[number]
            if said != rule:
                number = self._next
                self._next += 1
            self.numbers[id(rule)] = number
            self._places[number] = (key, *at)
        for _, number in kept.values():
            del self._places[number]


def _rules_of(policy: Policy | None) -> Iterable[tuple[tuple[int, int], Rule]]:
    for number, spec in enumerate(policy.specs if policy is not None else ()):
        for at, rule in enumerate(spec.rules):
            yield (number, at), rule


def _alike(old: Policy, new: Policy) -> bool:
    """Whether the same rule means the same in both."""
    return (old.source, old.tier, old.priority) == (new.source, new.tier, new.priority)


class Resolver:
    """Feed it policies, subjects and identities in any order; ask it for policy sets."""

    def __init__(
        self, identities: Mapping[Identity, Labels] | None = None, options: Options | None = None
    ) -> None:
        self._named_ports: dict[Identity, NamedPorts] = {}
        self._options = self._with_own_ports(options or Options())
        self._index = self._new_index(identities or {})
        self._policies: dict[PolicyKey, Policy] = {}
        self._subjects: dict[str, tuple[Subject, Labels]] = {}
        self._rules = RuleNumbers()
        self._cache = TableCache(self._rules.place)
        self._clean_at = self._clean_tables_at = 1000
        self._selecting: dict[str, dict[PolicyKey, tuple[int, ...]]] = {}
        self._sets: dict[_SetKey, PolicySet] = {}
        self._key_of: dict[str, _SetKey] = {}

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Today's policies, in the order in which they are resolved."""
        return tuple(self._policies[key] for key in sorted(self._policies))

    @property
    def options(self) -> Options:
        return self._options

    @property
    def answers_kept(self) -> int:
        """For how many peers it is known whom they select; bounded by what policies use."""
        return self._index.answers

    def policy_set(self, subject: str) -> PolicySet:
        """The set of one subject, shared with all to whom the same applies."""
        return self._sets[self._key_of[subject]]

    def policy_sets(self) -> tuple[PolicySet, ...]:
        return tuple(self._sets.values())

    def set_subject(self, name: str, subject: Subject) -> PolicySet:
        """A new subject, or new labels of one."""
        labels = subject_labels(subject.labels, subject.namespace)
        self._subjects[name] = (subject, labels)
        self._selecting[name] = {}
        self._reselect(name, self._policies)
        self._place(name)
        return self.policy_set(name)

    def remove_subject(self, name: str) -> None:
        del self._subjects[name], self._selecting[name]
        self._leave(name)

    def add_identity(
        self, identity: Identity, labels: Labels, named_ports: NamedPorts | None = None
    ) -> list[Change]:
        """A new identity. Raises ValueError when it is known; identities never change labels."""
        chosen = self._index.add(identity, labels)
        if named_ports:
            self._named_ports[identity] = named_ports
        if not chosen and not named_ports:
            return []
        return [
            change
            for policy_set in self._sets.values()
            for change in policy_set.add(identity, chosen)
        ]

    def remove_identity(self, identity: Identity) -> list[Change]:
        """An identity that is no more. Raises KeyError when it was not known."""
        self._index.remove(identity)
        self._named_ports.pop(identity, None)
        return [
            change for policy_set in self._sets.values() for change in policy_set.remove(identity)
        ]

    def set_named_ports(self, identity: Identity, ports: NamedPorts) -> list[Change]:
        """The named ports of a known identity's pods changed."""
        labels = self._index.labels[identity]
        gone = self.remove_identity(identity)
        return gone + self.add_identity(identity, labels, ports)

    def update(
        self, changed: Iterable[Policy] = (), removed: Iterable[PolicyKey] = ()
    ) -> frozenset[str]:
        """New and changed policies, and those that are gone; all at once.

        Returns the subjects whose set is another one now.
        """
        new = {policy_key(policy): policy for policy in changed}
        touched = set(new)
        for key in removed:
            old = self._policies.pop(key, None)
            if old is not None:
                touched.add(key)
                self._rules.replace(key, old, None)
        for key, policy in new.items():
            self._rules.replace(key, self._policies.get(key), policy)
            self._policies[key] = policy
        affected = [name for name in self._subjects if self._reselect(name, touched)]
        # A set with a changed policy in it is another set, though its key says the same.
        for set_key in [k for k in self._sets if any(policy in touched for policy, _ in k[0])]:
            for name in self._sets.pop(set_key).subjects:
                self._key_of.pop(name, None)
        for name in affected:
            self._place(name)
        self._forget_unused()
        return frozenset(affected)

    def _reselect(self, name: str, keys: Iterable[PolicyKey]) -> bool:
        """Ask again which specs of these policies select a subject; True when any does or did."""
        labels = self._subjects[name][1]
        selecting = self._selecting[name]
        affected = False
        for key in keys:
            policy = self._policies.get(key)
            specs = policy.specs if policy is not None else ()
            numbers = tuple(n for n, spec in enumerate(specs) if spec_selects(spec, labels))
            affected = affected or bool(numbers) or key in selecting
            selecting.pop(key, None)
            if numbers:
                selecting[key] = numbers
        return affected

    def set_options(self, options: Options) -> None:
        """Services, groups, modes or the like changed: everything is resolved again."""
        self._options = self._with_own_ports(options)
        self._index = self._new_index(dict(self._index.labels))
        self._cache = TableCache(self._rules.place)
        self._sets.clear()
        self._key_of.clear()
        for name in self._subjects:
            self._place(name)

    def _with_own_ports(self, options: Options) -> Options:
        self._named_ports |= options.named_ports
        return replace(options, named_ports=self._named_ports)

    def _new_index(self, identities: Mapping[Identity, Labels]) -> PeerIndex:
        options = self._options
        return PeerIndex(identities, options.cluster_name, options.default_local_cluster)

    def _place(self, name: str) -> None:
        """Put a subject into the set that it belongs to, a new one where there is none."""
        subject, labels = self._subjects[name]
        selecting = self._selecting[name]
        chosen = tuple((key, number) for key in sorted(selecting) for number in selecting[key])
        pairs = tuple((self._policies[key], self._policies[key].specs[n]) for key, n in chosen)
        own = subject.named_ports if any(_names_ports(spec) for _, spec in pairs) else ()
        init = any(label.source == "reserved" and label.key == "init" for label in labels)
        key: _SetKey = (chosen, own, init)
        if self._key_of.get(name) == key and key in self._sets:
            return
        self._leave(name)
        if key not in self._sets:
            self._sets[key] = PolicySet(
                pairs,
                labels,
                subject,
                self._index,
                self._options,
                self._rules.numbers,
                self._cache,
            )
        self._sets[key].subjects.add(name)
        self._key_of[name] = key

    def _leave(self, name: str) -> None:
        key = self._key_of.pop(name, None)
        if key is not None and key in self._sets:
            self._sets[key].subjects.discard(name)
            if not self._sets[key].subjects:
                del self._sets[key]

    def _forget_unused(self) -> None:
        """Answers and tables are kept while in use, or else every policy ever seen would cost.

        They are looked through when they have doubled, which keeps the cost of that in proportion.
        """
        directions = [t for policy_set in self._sets.values() for t in policy_set.tables.values()]
        if self._index.answers >= self._clean_at:
            used = {peer for tables in directions for peer in tables.peers}
            self._index.keep_only(used)
            self._clean_at = 2 * len(used) + 1000
        if len(self._cache) >= self._clean_tables_at:
            self._cache.keep_only(t for tables in directions for t in tables.in_use())
            self._clean_tables_at = 2 * len(self._cache) + 1000


def _names_ports(spec: Spec) -> bool:
    return any(
        port.name
        for rule in spec.rules_of(Direction.INGRESS)
        for port_rule in rule.ports or ()
        for port in port_rule.ports
    )


__all__ = ["Change", "PolicyKey", "PolicySet", "Resolver", "policy_key"]
