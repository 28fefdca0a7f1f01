"""DNS rules and FQDN selectors, compiled to a tree of name suffixes that the kernel walks.

A node says what holds for the name *exactly* there, for a name one label below it (*child*) and for
names further below (*deeper*), as far as these have no node of their own: the deepest node decides.
Every node is compiled by judging every selector, so there is no priority among them. Where a
selector covers some of a node's children and not others (a star inside a label), the answer is
*ask*: the proxy judges the name and adds its exact node.

Pure. Names are tuples of labels, lower case, the outermost (top level) last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from policies import DnsRuleSet, NameKind, NameSelector, RuleRef
from policies.names import label_matches

Name = tuple[str, ...]
ROOT: Name = ()


class Cover(Enum):
    """How much of a set of names a selector covers."""

    NONE = 0
    SOME = 1
    ALL = 2


class Action(Enum):
    """What happens to a query; the values are the kernel's."""

    ALLOW = 1
    REFUSE = 2
    ASK = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """For one place of a node: what to do, the rule that allows it, the selectors that match.

    ``selectors`` are those of ``toFQDNs`` that say what the answer's addresses are.
    """

    action: Action
    rule: RuleRef | None = None
    selectors: tuple[NameSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    exact: Answer
    child: Answer
    deeper: Answer


@dataclass(frozen=True, slots=True)
class Pattern:
    """A selector taken apart: its ``labels``, and whether ``**.`` stands before them (``deep``)."""

    selector: NameSelector
    labels: Name
    deep: bool
    everything: bool

    @classmethod
    def of(cls, selector: NameSelector) -> Pattern:
        if selector.is_everything:
            return cls(selector, (), False, True)
        first, _, rest = selector.text.partition(".")
        deep = selector.kind is NameKind.PATTERN and len(first) > 1 and not first.strip("*")
        labels = tuple((rest if deep and rest else selector.text).split("."))
        return cls(selector, labels, deep and bool(rest), False)

    @property
    def literal(self) -> Name:
        """The longest suffix without a star: where the pattern's node is."""
        at = len(self.labels)
        while at and "*" not in self.labels[at - 1]:
            at -= 1
        return self.labels[at:]

    def of_exactly(self, name: Name) -> bool:
        return self.selector.matches(".".join(name) or ".")

    def of_children(self, node: Name) -> Cover:
        """How much it covers of the names one label below, those with nodes of their own apart."""
        if self.everything:
            return Cover.ALL
        if not self._reaches(node):
            return Cover.NONE
        if self.deep:
            return self._compare(node) if len(self.labels) <= len(node) else Cover.NONE
        return self._compare(node) if len(self.labels) == len(node) + 1 else Cover.NONE

    def of_deeper(self, node: Name) -> Cover:
        """How much it covers of names two labels or more below."""
        if self.everything:
            return Cover.ALL
        if not self._reaches(node):
            return Cover.NONE
        cover = self._compare(node)
        if self.deep:
            return cover if len(self.labels) <= len(node) + 1 else min_cover(cover, Cover.SOME)
        if len(self.labels) < len(node) + 2:
            return Cover.NONE
        return min_cover(cover, Cover.SOME)

    def _reaches(self, node: Name) -> bool:
        """Whether names below the node that it covers have no deeper node: its own is no deeper."""
        literal = self.literal
        return len(literal) <= len(node) and node[len(node) - len(literal) :] == literal

    def _compare(self, node: Name) -> Cover:
        """Label by label from the right; a label that only the names below have is unknown."""
        cover = Cover.ALL
        for at in range(1, len(self.labels) + 1):
            glob = self.labels[-at]
            if at <= len(node):
                if not label_matches(glob, node[-at]):
                    return Cover.NONE
            elif glob.strip("*"):
                cover = Cover.SOME
        return cover


_CoverOf = Callable[[Pattern], Cover]


def min_cover(one: Cover, other: Cover) -> Cover:
    return one if one.value <= other.value else other


def compile_ruleset(dns: DnsRuleSet, fqdns: Sequence[NameSelector]) -> dict[Name, Node]:
    """Every node of the ruleset, the root always among them."""
    allowed = [(Pattern.of(selector), rule) for selector, rule in dns.allowed]
    learned = [Pattern.of(selector) for selector in fqdns]
    names = {ROOT} | {p.literal for p, _ in allowed} | {p.literal for p in learned}
    return {name: _node(name, allowed, learned) for name in names}


def node_of(name: Name, dns: DnsRuleSet, fqdns: Sequence[NameSelector]) -> Node:
    """The node of one name, whether or not the ruleset itself needs one there."""
    allowed = [(Pattern.of(selector), rule) for selector, rule in dns.allowed]
    return _node(name, allowed, [Pattern.of(selector) for selector in fqdns])


def judge(dns: DnsRuleSet, fqdns: Sequence[NameSelector], qname: str) -> Answer:
    """What holds for one name: what an exact node of it says."""
    rule = dns.decide(qname)
    if rule is None:
        return Answer(Action.REFUSE)
    return Answer(Action.ALLOW, rule, tuple(s for s in fqdns if s.matches(qname)))


def _node(
    name: Name, allowed: Sequence[tuple[Pattern, RuleRef]], learned: Sequence[Pattern]
) -> Node:
    def answer(cover: _CoverOf) -> Answer:
        return _answer(
            ((cover(p), rule) for p, rule in allowed), [(cover(p), p.selector) for p in learned]
        )

    def exactly(pattern: Pattern) -> Cover:
        return Cover.ALL if pattern.of_exactly(name) else Cover.NONE

    return Node(
        exact=answer(exactly),
        child=answer(lambda pattern: pattern.of_children(name)),
        deeper=answer(lambda pattern: pattern.of_deeper(name)),
    )


def _answer(
    allowed: Iterable[tuple[Cover, RuleRef]], learned: Sequence[tuple[Cover, NameSelector]]
) -> Answer:
    found = [(cover, rule) for cover, rule in allowed if cover is not Cover.NONE]
    if not found:
        return Answer(Action.REFUSE)
    # The first rule that covers a name is the one that is named; a rule before it that covers
    # only some of the names leaves open which that is, and no more than that.
    certain = next((rule for cover, rule in found if cover is Cover.ALL), None)
    if certain is None or any(cover is Cover.SOME for cover, _ in learned):
        return Answer(Action.ASK)
    selectors = tuple(selector for cover, selector in learned if cover is Cover.ALL)
    return Answer(Action.ALLOW, certain, selectors)


def key_octets(name: Name) -> bytes:
    """The name as the kernel's key has it: characters backwards, a zero after each label."""
    return b"".join(label.encode()[::-1] + b"\0" for label in reversed(name))


def labels_of(qname: str) -> Name:
    """``www.example.com`` or ``www.example.com.`` → labels; the root is ``()``."""
    return tuple(qname.lower().removesuffix(".").split(".")) if qname.strip(".") else ROOT
