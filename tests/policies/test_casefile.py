"""Policy tests in YAML: the examples pass, and a wrong expectation says why it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.casefile import CaseFile, load_case_file, run_cases

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"


def _load(path: Path) -> CaseFile:
    return load_case_file(
        path.read_text(), path.name, lambda name: (path.parent / name).read_text()
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.test.yaml")), ids=lambda p: p.name)
def test_the_examples_hold_what_they_say(path: Path) -> None:
    file = _load(path)
    assert file.errors == (), "\n".join(map(str, file.errors))
    assert file.cases
    failed = [f"{r.case.name}: {r.problem}" for r in run_cases(file) if not r.passed]
    assert failed == []


def test_every_example_policy_has_tests() -> None:
    policies = {p.name for p in EXAMPLES.glob("*.yaml") if ".test." not in p.name}
    assert policies == {p.name.replace(".test", "") for p in EXAMPLES.glob("*.test.yaml")}


TEXT = """\
policies:
- apiVersion: cilium.io/v2
  kind: CiliumNetworkPolicy
  metadata: {name: p}
  spec:
    endpointSelector: {matchLabels: {app: a}}
    egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: "80"}]}]}]
endpoints:
  a: {labels: {app: a}}
  b: {labels: {app: b}}
cases:
"""


def _run(cases: str) -> list[str]:
    file = load_case_file(TEXT + cases, "t.yaml", lambda name: "")
    assert file.errors == ()
    return [result.problem for result in run_cases(file)]


def test_a_failed_case_shows_the_deciding_rule_or_its_absence() -> None:
    found = _run("""\
- {name: one, subject: a, egress: b, port: [80/TCP, 81/TCP], expect: deny}
- {name: two, subject: a, egress: b, port: 81/TCP, expect: allow}
- {name: three, subject: a, egress: c, port: 81/TCP, expect: allow}
- {name: four, subject: a, egress: b, port: 80/TCP, expect: allow, rule: other}
""")
    assert found[0].startswith(
        "expected deny, got allow by CiliumNetworkPolicy default/p spec.egress[0]"
    )
    assert found[1] == ""
    assert found[2] == "expected allow, got deny (default-deny)"
    assert found[3] == "there is no endpoint 'c'"
    assert "expected the rule 'other', got CiliumNetworkPolicy default/p" in found[4]


def test_advice_names_the_rule_that_nearly_allows_it() -> None:
    file = load_case_file(
        TEXT + "- {name: x, subject: a, egress: b, port: 81/TCP, expect: allow}\n",
        "t.yaml",
        lambda name: "",
    )
    (result,) = run_cases(file)
    assert result.explanation is not None
    (line,) = result.explanation.advice
    assert line.endswith("allows this peer, but not this port")


@pytest.mark.parametrize(
    ("cases", "path"),
    [
        ("- {name: x, subject: a, egress: b}", "cases[0]"),
        ("- {name: x, subject: a, expect: deny}", "cases[0]"),
        ("- {name: x, subject: a, egress: b, ingress: b, expect: deny}", "cases[0]"),
        ("- {name: x, subject: a, egress: b, port: 99999, expect: deny}", "cases[0].port"),
        ("- {name: x, subject: a, egress: b, port: x/TCP, expect: deny}", "cases[0].port"),
        ("- {name: x, subject: a, egress: 'entity:cluster', expect: deny}", "cases[0].egress"),
        ("- {name: x, subject: a, egress: b, expect: maybe}", "cases[0].expect"),
        ("- {name: x, subject: a, egress: b, expect: deny, colour: red}", "cases[0].colour"),
    ],
)
def test_a_mistake_in_the_file_is_named(cases: str, path: str) -> None:
    file = load_case_file(TEXT + cases, "t.yaml", lambda name: "")
    assert [(e.path, e.line) for e in file.errors] == [(path, 12)]


def test_a_policy_file_that_is_not_there_is_an_error_at_its_line() -> None:
    def read(name: str) -> str:
        raise FileNotFoundError(2, "No such file", name)

    file = load_case_file("policies:\n- a.yaml\ncases: []\n", "t.yaml", read)
    assert [str(e) for e in file.errors] == [
        "t.yaml:2: policies[0]: cannot read a.yaml: No such file"
    ]


def test_a_policys_mistakes_keep_their_own_file() -> None:
    file = load_case_file("policies: [a.yaml]\ncases: []\n", "t.yaml", lambda name: "kind: X\n")
    assert [(e.source, e.line) for e in file.errors] == [("a.yaml", 1)]
