"""``policy explain``, ``test``, ``verdict``, ``suggest``: thin over ``policies``, and told well."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fqdnwall.api.codec import dumps
from tests.api import samples
from tests.cli.conftest import Command, Outcome

CASES = """\
policies: [p.yaml]
endpoints:
  app: {labels: {app: web}}
fqdns: {api.example.com: [203.0.113.7]}
cases:
- {name: api, subject: app, egress: "name:api.example.com", port: 443/TCP, expect: allow}
- {name: other, subject: app, egress: 192.0.2.200, port: 443/TCP, expect: EXPECTED}
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "p.yaml"
    file.write_text(samples.POLICY_YAML)
    return str(file)


@pytest.fixture
def explains(fqdnwall: Command, policy: str) -> Command:
    """Asks offline about a subject with app=web; the answer as JSON."""

    def ask(*arguments: str) -> Any:
        outcome = fqdnwall(
            "policy", "explain", "--policy", policy, "--label", "app=web", "-o", "json", *arguments
        )
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)

    return ask


@pytest.mark.parametrize(
    ("peer", "port", "verdict"),
    [
        ("api.example.com", "443", "allow"),
        ("API.example.com.", "443/tcp", "allow"),
        ("name:api.example.com", "443/TCP", "allow"),
        ("api.example.com", "80", "deny"),
        ("example.org", "443", "deny"),
        ("198.51.100.9", "9/UDP", "allow"),
        ("2001:db8::1", "443", "deny"),
        ("entity:host", "443", "deny"),
        ("app=db,tier=x@jobs", "443", "deny"),
    ],
)
def test_explain_offline(explains: Command, peer: str, port: str, verdict: str) -> None:
    told = explains("--to", peer, "--port", port)
    assert told["verdict"] == verdict
    assert len(told["considered"]) == 2
    assert sum(c["decided"] for c in told["considered"]) == (verdict == "allow")
    assert told["advice"]


def test_explain_of_a_direction_without_policy(explains: Command) -> None:
    told = explains("--from", "app=client")
    assert (told["verdict"], told["reason"]) == ("allow", "not-enforced")


def test_explain_for_people(fqdnwall: Command, policy: str) -> None:
    outcome = fqdnwall(
        *("policy", "explain", "--policy", policy, "--label", "app=web"),
        *("--to", "198.51.100.9"),
    )
    lines = outcome.out.splitlines()
    assert lines[0] == "the subject to 198.51.100.9: allow"
    assert lines[1].startswith("Decided by: CiliumNetworkPolicy default/allow-external-apis ")
    assert any(line.startswith("=>") and "spec.egress[1]" in line for line in lines)
    assert "To change it:" in lines


def test_explain_with_a_cluster_file(fqdnwall: Command, policy: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CASES)
    arguments = ["policy", "explain", "--policy", policy, "--cluster", str(tmp_path / "c.yaml")]
    outcome = fqdnwall(*arguments, "--subject", "app", "--to", "203.0.113.7", "-o", "json")
    assert json.loads(outcome.out)["verdict"] == "allow"
    assert fqdnwall(*arguments, "--subject", "none", "--to", "app").status == 2


@pytest.mark.parametrize(
    ("peer", "verdict"),
    [
        ("192.0.2.1", "allow"),  # learned for api.example.com
        ("cdn.example.com", "allow"),
        ("198.51.100.5", "allow"),
        ("203.0.113.1", "deny"),
        ("jobs/worker#232", "deny"),
        ("10.0.0.23", "deny"),
    ],
)
def test_explain_live(asks: Command, peer: str, verdict: str) -> None:
    outcome = asks("policy", "explain", "--endpoint", "7", "--to", peer, "-o", "json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["verdict"] == verdict


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--to", "a.b", "--from", "a.b"),
        ("--to", "a.b", "--endpoint", "1"),
        ("--to", "nonsense"),
        ("--to", "entity:nobody"),
        ("--to", "a=b,c"),
        ("--to", "node:none"),
        ("--to", "a.b", "--port", "http"),
        ("--to", "a.b", "--port", "70000"),
        ("--to", "a.b", "--port", "1/QUIC"),
    ],
)
def test_questions_without_sense_are_usage_errors(
    fqdnwall: Command, policy: str, arguments: tuple[str, ...]
) -> None:
    outcome = fqdnwall("policy", "explain", "--policy", policy, *arguments)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 2


def test_explain_of_a_policy_that_is_not_valid(fqdnwall: Command, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(samples.POLICY_YAML.replace("'*.example.com'", "'a b'"))
    outcome = fqdnwall("policy", "explain", "--policy", str(bad), "--to", "a.b")
    assert outcome.status == 1
    assert "matchPattern" in outcome.err


@pytest.mark.parametrize(("expected", "status"), [("deny", 0), ("allow", 1)])
def test_cases_are_run(
    fqdnwall: Command, policy: str, tmp_path: Path, expected: str, status: int
) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(CASES.replace("EXPECTED", expected))
    outcome = fqdnwall("policy", "test", str(file))
    assert outcome.status == status
    lines = outcome.out.splitlines()
    assert lines[-1] == f"{2 - status} passed, {status} failed"
    if status:
        assert lines[0].startswith(f"{file}:7: other: expected allow, got deny")
    (told,) = json.loads(fqdnwall("policy", "test", str(file), "-o", "json").out)
    assert [case["passed"] for case in told["cases"]] == [True, not status]


def test_a_test_file_that_is_not_valid_fails(fqdnwall: Command, tmp_path: Path) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(CASES)  # p.yaml is missing, and EXPECTED is no verdict
    outcome = fqdnwall("policy", "test", str(file))
    assert outcome.status == 1
    assert "p.yaml" in outcome.out


def test_verdicts_are_lines_of_json(
    fqdnwall: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = json.dumps(
        {
            "id": 1,
            "policies": [],
            "endpoints": {"a": {"labels": {}}},
            "flows": [
                {
                    "direction": "egress",
                    "subject": "a",
                    "peer": {"ip": "192.0.2.1"},
                    "protocol": "TCP",
                    "port": 443,
                }
            ],
        }
    )
    file = tmp_path / "batch.jsonl"
    file.write_text(f"{question}\n\nnot json\n")
    outcome = fqdnwall("policy", "verdict", "--batch", str(file))
    first, second = map(json.loads, outcome.out.splitlines())
    assert outcome.status == 0
    assert (first["id"], first["verdicts"][0]["verdict"]) == (1, "allow")
    assert second["errors"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(question))
    assert (
        fqdnwall("policy", "verdict", "--batch", "-").out.splitlines()[0]
        == outcome.out.split("\n")[0]
    )


def test_a_batch_that_cannot_be_read_is_a_usage_error(fqdnwall: Command) -> None:
    assert fqdnwall("policy", "verdict", "--batch", "/nowhere").status == 2
    assert fqdnwall("policy", "verdict").status == 2


def test_a_suggestion_from_a_report_is_a_valid_policy(fqdnwall: Command, tmp_path: Path) -> None:
    report = tmp_path / "seen.json"
    report.write_text(dumps(samples.REPORT))
    outcome = fqdnwall("policy", "suggest", str(report), "--name", "mine")
    assert outcome.status == 0
    assert "name: mine" in outcome.out
    suggested = tmp_path / "p.yaml"
    suggested.write_text(outcome.out)
    assert fqdnwall("policy", "validate", str(suggested)).status == 0
    told = json.loads(
        fqdnwall("policy", "suggest", str(report), "--name", "mine", "-o", "json").out
    )
    assert told == {"policy": outcome.out}


def test_a_suggestion_from_a_command_that_runs(asks: Command) -> None:
    assert "matchName: api.example.com" in asks("policy", "suggest").out


@pytest.mark.parametrize("content", ["[]", "{}", "nonsense", '{"subject": 1}'])
def test_what_is_no_report_is_a_usage_error(
    fqdnwall: Command, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "r.json"
    file.write_text(content)
    outcome: Outcome = fqdnwall("policy", "suggest", str(file))
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 2
