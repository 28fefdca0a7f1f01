"""The trees of names in the kernel, one for each distinct set of DNS rules and FQDN selectors.

A tree is written whole under a number of its own before any policy refers to it, and removed after
the last one has stopped, so that no query is judged by a mixture. What the proxy has judged is
added as an exact node, so that the kernel answers for it from then on; names that were refused
have a bound of their own, so that they cannot push out names that are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from cachetools import LRUCache

from fqdnwall.datapath.layouts import DNS_NAME_MAX, DnsNameKey, DnsNode, DnsPlace
from fqdnwall.datapath.maps import MapFull, Table
from fqdnwall.endpoint.policymap import RuleBook
from fqdnwall.fqdn.ruleset import (
    Action,
    Answer,
    Name,
    Node,
    compile_ruleset,
    key_octets,
    labels_of,
    node_of,
)
from policies import DnsRuleSet, Identity, Labels, NameSelector, fqdn_labels

ALLOWED_TAUGHT = 16_384
REFUSED_TAUGHT = 4_096
NO_RULESET = 0
RULESET_BITS = 32

Key = tuple[DnsRuleSet, tuple[NameSelector, ...]]


@dataclass(slots=True)
class _Tree:
    number: int
    key: Key
    nodes: dict[Name, Node]
    installed: set[Name]
    identities: set[int]


class _Taught(LRUCache[tuple[int, Name], None]):
    def __init__(self, maxsize: int, evicted: Callable[[int, Name], None]) -> None:
        super().__init__(maxsize)
        self._evicted = evicted

    def popitem(self) -> tuple[tuple[int, Name], None]:
        key, _ = super().popitem()
        self._evicted(*key)
        return key, None


class RuleSets:
    """``identity_of`` gives the number of a set of FQDN labels, which policies know by then."""

    def __init__(
        self,
        names: Table[DnsNameKey, DnsNode],
        rules: RuleBook,
        identity_of: Callable[[Labels], Identity],
    ) -> None:
        self._names = names
        self._rules = rules
        self._identity_of = identity_of
        self._trees: dict[Key, _Tree] = {}
        self._by_number: dict[int, _Tree] = {}
        self._next = 1
        self._taught = {
            Action.ALLOW: _Taught(ALLOWED_TAUGHT, self._forget),
            Action.REFUSE: _Taught(REFUSED_TAUGHT, self._forget),
        }

    def start_after(self, number: int) -> None:
        """Numbers up to this one belong to an earlier agent's trees."""
        self._next = max(self._next, number + 1)

    def expected_labels(
        self, rule_sets: Iterable[DnsRuleSet], fqdns: tuple[NameSelector, ...]
    ) -> set[Labels]:
        """Labels of every identity that the trees of a policy speak of."""
        found: set[Labels] = set()
        for dns in rule_sets:
            for node in compiled(dns, fqdns).values():
                for answer in (node.exact, node.child, node.deeper):
                    if answer.selectors:
                        found.add(labels_for_answer(answer))
        return found

    def number(self, dns: DnsRuleSet, fqdns: tuple[NameSelector, ...]) -> int:
        """The number of the tree, which is in the kernel when this returns; 0 if it has no room."""
        key = (dns, fqdns)
        tree = self._trees.get(key)
        if tree is None:
            tree = _Tree(self._next, key, compiled(dns, fqdns), set(), set())
            self._next += 1
            try:
                for name, node in tree.nodes.items():
                    self._install(tree, name, node)
            except MapFull:
                self._remove(tree)
                return NO_RULESET
            self._trees[key] = tree
            self._by_number[tree.number] = tree
        return tree.number

    def teach(self, number: int, qname: str, answer: Answer) -> None:
        """Let the kernel answer for a name as the proxy has judged it."""
        tree = self._by_number.get(number)
        name = labels_of(qname)
        if tree is None or name in tree.installed or "\\" in qname:
            return
        if len(key_octets(name)) > DNS_NAME_MAX:
            return
        dns, fqdns = tree.key
        try:
            self._install(tree, name, node_of(name, dns, fqdns))
        except MapFull:
            return
        self._taught[answer.action][number, name] = None

    def keep_only(self, numbers: set[int]) -> None:
        """Remove the trees that no policy refers to any more."""
        for tree in [t for t in self._trees.values() if t.number not in numbers]:
            del self._trees[tree.key]
            del self._by_number[tree.number]
            self._remove(tree)

    def forget_strangers(self) -> None:
        """Remove the nodes of an earlier agent, when its policies are replaced."""
        for key in [key for key, _ in self._names.items() if key.ruleset not in self._by_number]:
            self._names.delete(key)

    def identities_held(self) -> set[int]:
        return {identity for tree in self._trees.values() for identity in tree.identities}

    def _install(self, tree: _Tree, name: Name, node: Node) -> None:
        octets = key_octets(name)
        if len(octets) > DNS_NAME_MAX:
            return
        places = tuple(self._place(tree, a) for a in (node.exact, node.child, node.deeper))
        self._names.put(_key(tree.number, octets), DnsNode(len(name), places))
        tree.installed.add(name)

    def _place(self, tree: _Tree, answer: Answer) -> DnsPlace:
        identity = self._identity_of(labels_for_answer(answer)) if answer.selectors else 0
        tree.identities.add(identity)
        rule = self._rules.number(answer.rule) if answer.rule else 0
        return DnsPlace(answer.action.value, identity, rule)

    def _forget(self, number: int, name: Name) -> None:
        tree = self._by_number.get(number)
        if tree is not None and name in tree.installed and name not in tree.nodes:
            tree.installed.discard(name)
            self._names.delete(_key(number, key_octets(name)))

    def _remove(self, tree: _Tree) -> None:
        for name in tree.installed:
            self._names.delete(_key(tree.number, key_octets(name)))


def _key(number: int, octets: bytes) -> DnsNameKey:
    return DnsNameKey(RULESET_BITS + 8 * len(octets), number, octets)


@lru_cache(maxsize=1024)
def compiled(dns: DnsRuleSet, fqdns: tuple[NameSelector, ...]) -> dict[Name, Node]:
    return compile_ruleset(dns, fqdns)


def labels_for_answer(answer: Answer) -> Labels:
    return fqdn_labels([selector.text for selector in answer.selectors])


def name_of_key(octets: bytes, name_size: int) -> str:
    """The text of a name as an event carries it: the key's octets, the wire's size."""
    backwards = octets[: max(0, name_size - 1)]
    labels = backwards.decode("ascii", "replace").rstrip("\0").split("\0")
    return ".".join(label[::-1] for label in reversed(labels)) or "."
