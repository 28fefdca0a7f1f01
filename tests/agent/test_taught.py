"""What the kernel is taught of names that the proxy has judged: bounded, allowed ones apart."""

from __future__ import annotations

import pytest

from fqdnwall.agent import rulesets
from fqdnwall.agent.rulesets import NO_RULESET, RuleSets
from fqdnwall.datapath.layouts import DnsAction
from fqdnwall.endpoint.policymap import RuleBook
from fqdnwall.fqdn.ruleset import judge
from policies import DnsRuleSet, Identity, Labels, NameSelector, RuleRef, pattern_selector
from tests.agent.fakemaps import FakeTable, Journal

PATTERN = pattern_selector("api-*.example.com")
RULES = DnsRuleSet(((PATTERN, RuleRef("p", "spec", "rule")),))
SELECTORS: tuple[NameSelector, ...] = (PATTERN,)


class Taught:
    def __init__(self) -> None:
        self.journal = Journal()
        self.names = FakeTable("dns_names", self.journal)
        self.identities: dict[Labels, Identity] = {}
        self.sets = RuleSets(self.names, RuleBook(), self.identity)  # type: ignore[arg-type]
        self.number = self.sets.number(RULES, SELECTORS)

    def identity(self, labels: Labels) -> Identity:
        return self.identities.setdefault(labels, Identity(100 + len(self.identities)))

    def teach(self, name: str) -> None:
        self.sets.teach(self.number, name, judge(RULES, SELECTORS, name))

    def knows(self, name: str) -> DnsAction | None:
        octets = b"".join(label.encode()[::-1] + b"\0" for label in reversed(name.split(".")))
        for key, node in self.names.content.items():
            if key.name == octets:
                return DnsAction(node.places[0].action)
        return None


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Taught:
    monkeypatch.setattr(rulesets, "ALLOWED_TAUGHT", 3)
    monkeypatch.setattr(rulesets, "REFUSED_TAUGHT", 2)
    return Taught()


def test_a_judged_name_is_answered_by_the_kernel_from_then_on(taught: Taught) -> None:
    taught.teach("api-1.example.com")
    taught.teach("www.example.com")
    assert taught.knows("api-1.example.com") is DnsAction.ALLOW
    assert taught.knows("www.example.com") is DnsAction.REFUSE


def test_refused_names_cannot_push_out_allowed_ones(taught: Taught) -> None:
    taught.teach("api-1.example.com")
    for number in range(50):
        taught.teach(f"no{number}.example.com")
    assert taught.knows("api-1.example.com") is DnsAction.ALLOW
    assert taught.knows("no49.example.com") is DnsAction.REFUSE
    assert taught.knows("no0.example.com") is None


def test_what_is_taught_is_bounded(taught: Taught) -> None:
    before = len(taught.names.content)
    for number in range(50):
        taught.teach(f"api-{number}.example.com")
        taught.teach(f"no{number}.example.com")
    assert len(taught.names.content) == before + 3 + 2


def test_a_node_of_the_tree_itself_is_never_forgotten(taught: Taught) -> None:
    before = dict(taught.names.content)
    for number in range(20):
        taught.teach("example.com")
        taught.teach(f"no{number}.example.com")
    assert before.items() <= taught.names.content.items()


def test_names_that_no_key_holds_are_left_to_the_proxy(taught: Taught) -> None:
    before = dict(taught.names.content)
    taught.teach(".".join(["a" * 60] * 4) + ".example.com")
    taught.teach("a\\046b.example.com")
    assert taught.names.content == before


def test_a_tree_without_room_is_left_to_the_proxy_and_leaves_nothing(taught: Taught) -> None:
    before = dict(taught.names.content)
    taught.journal.fail_at = 2
    assert taught.sets.number(RULES, ()) == NO_RULESET
    assert taught.names.content == before


def test_a_tree_that_nobody_refers_to_takes_what_was_taught_along(taught: Taught) -> None:
    taught.teach("api-1.example.com")
    taught.sets.keep_only(set())
    assert taught.names.content == {}
    taught.teach("api-2.example.com")
    assert taught.names.content == {}
