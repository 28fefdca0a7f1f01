"""The compiled tree says of every name what the selectors say, or that they must be asked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fqdnwall.fqdn.ruleset import (
    Action,
    Answer,
    Name,
    Node,
    compile_ruleset,
    judge,
    key_octets,
    labels_of,
)
from policies import DnsRuleSet, NameSelector, RuleRef, name_selector, pattern_selector

RULE = RuleRef("p", "spec", "rule")


def rule_set(*patterns: str) -> DnsRuleSet:
    return DnsRuleSet(tuple((selector(p), RULE) for p in patterns))


def selector(text: str) -> NameSelector:
    return pattern_selector(text) if "*" in text else name_selector(text)


def walk(nodes: dict[Name, Node], name: Name) -> Answer:
    """As the kernel does: the longest suffix that has a node."""
    for at in range(len(name) + 1):
        node = nodes.get(name[at:])
        if node is not None:
            return (node.exact, node.child, node.deeper)[min(at, 2)]
    raise AssertionError("the root is always there")


def asked(patterns: list[str], qname: str) -> Action:
    return walk(compile_ruleset(rule_set(*patterns), []), labels_of(qname)).action


def test_names_and_leading_stars_need_no_asking() -> None:
    patterns = ["example.com", "*.example.com", "**.deep.org"]
    assert asked(patterns, "example.com") is Action.ALLOW
    assert asked(patterns, "www.example.com") is Action.ALLOW
    assert asked(patterns, "a.www.example.com") is Action.REFUSE
    assert asked(patterns, "deep.org") is Action.REFUSE
    assert asked(patterns, "a.b.c.deep.org") is Action.ALLOW
    assert asked(patterns, "other.net") is Action.REFUSE


def test_a_star_inside_a_label_is_asked_about_and_only_there() -> None:
    patterns = ["api-*.example.com"]
    assert asked(patterns, "api-1.example.com") is Action.ASK
    assert asked(patterns, "www.example.com") is Action.ASK
    assert asked(patterns, "a.b.example.com") is Action.REFUSE
    assert asked(patterns, "example.com") is Action.REFUSE


def test_a_name_of_its_own_wins_over_the_pattern_around_it() -> None:
    nodes = compile_ruleset(rule_set("*.example.com"), [selector("www.example.com")])
    assert walk(nodes, labels_of("www.example.com")).selectors == (selector("www.example.com"),)
    assert walk(nodes, labels_of("x.example.com")).selectors == ()


def test_a_star_alone_covers_every_name_and_the_root() -> None:
    for name in (".", "com", "a.b.c.d.example.com"):
        assert asked(["*"], name) is Action.ALLOW


def test_key_has_no_boundary_that_a_label_could_hold() -> None:
    assert key_octets(("www", "example", "com")) == b"moc\0elpmaxe\0www\0"
    assert key_octets(()) == b""


LABELS = st.sampled_from(["a", "b", "ab", "aab", "x1", "com", "org"])
NAMES = st.lists(LABELS, min_size=0, max_size=5).map(tuple)
GLOBS = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "a*b", "com", "**"])
PATTERNS = st.one_of(
    st.lists(GLOBS, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["*", "**", "**.com", "*.com", "**.a.com", "**.a*.com", "a.*.com"]),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PATTERNS, max_size=4), st.lists(PATTERNS, max_size=4), st.lists(NAMES, max_size=12))
def test_the_tree_agrees_with_the_selectors(
    allowed: list[str], learned: list[str], names: list[Name]
) -> None:
    dns, fqdns = rule_set(*allowed), [selector(p) for p in dict.fromkeys(learned)]
    nodes = compile_ruleset(dns, fqdns)
    for name in names:
        found, true = walk(nodes, name), judge(dns, fqdns, ".".join(name) or ".")
        if found.action is Action.ASK:
            continue
        assert found.action is true.action, name
        if found.action is Action.ALLOW:
            assert set(found.selectors) == set(true.selectors), name
