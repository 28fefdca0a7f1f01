"""`fqdnwall run` around a command: status, streams, environment, signals, reports, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.lab.expectations import POLICY, POLICY_OPTIONS
from tests.lab.guard import FQDNWALL, Session, run_guarded, start_guarded
from tests.lab.leftovers import Pins

ALLOW = ("--allow", "api.example.com")
QUIETLY = ("--quiet", *ALLOW)


@pytest.mark.parametrize(
    ("command", "status"),
    [(("true",), 0), (("sh", "-c", "exit 42"), 42), (("sh", "-c", "kill -TERM $$"), 128 + 15)],
)
def test_the_exit_status_is_the_commands(lab: Lab, command: tuple[str, ...], status: int) -> None:
    assert run_guarded(lab, QUIETLY, command).status == status


def test_a_command_that_does_not_exist_is_said_and_leaves_nothing(lab: Lab) -> None:
    outcome = run_guarded(lab, ALLOW, ("no-such-command-anywhere",))
    assert outcome.status == 127
    assert "no-such-command-anywhere" in outcome.err


def test_streams_environment_and_directory_pass_through(lab: Lab, tmp_path: Path) -> None:
    process = start_guarded(
        lab,
        QUIETLY,
        ("sh", "-c", 'read line; echo "$line $GREETING $(pwd)"; echo complaint >&2'),
        env={"GREETING": "hello"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        directory=tmp_path,
    )
    out, err = process.communicate("said\n", timeout=20)
    assert (out, err, process.returncode) == (f"said hello {tmp_path}\n", "complaint\n", 0)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command_and_nothing_is_left(lab: Lab, sent: signal.Signals) -> None:
    process = start_guarded(
        lab,
        QUIETLY,
        ("sh", "-c", f"trap 'echo caught; exit 7' {sent.name[3:]}; echo up; sleep 20 & wait"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(sent)
    assert process.communicate(timeout=15)[0] == "caught\n"
    assert process.returncode == 7


def test_a_policy_that_selects_nothing_is_an_error_that_names_the_labels(lab: Lab) -> None:
    outcome = run_guarded(lab, ("--policy", str(POLICY)), ("echo", "ran"))
    assert outcome.status == 1
    assert outcome.out == ""
    assert "app=backend" in outcome.err


def test_what_is_not_enforced_yet_is_an_error_that_names_the_field(
    lab: Lab, tmp_path: Path
) -> None:
    policy = tmp_path / "http.yaml"
    policy.write_text(
        """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  egress:
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET}]}
"""
    )
    outcome = run_guarded(lab, ("--policy", str(policy)), ("echo", "ran"))
    assert outcome.status == 1
    assert outcome.out == ""
    assert "spec.egress[0].toPorts[0].rules.http" in outcome.err


def test_the_report_tells_what_was_asked_learned_reached_and_dropped(
    lab: Lab, tmp_path: Path, dns_option: tuple[str, ...]
) -> None:
    report_file = tmp_path / "report.json"
    options = (*POLICY_OPTIONS, *dns_option, "--report", str(report_file))
    with Session(lab, options) as session:
        reached = ("curl", "-4sS", "--cacert", str(lab.authority), "https://api.github.com/")
        assert session.do(reached).status == 0
        assert session.do(("curl", "-4sS", "https://unlisted.example.org/")).status == 6
        assert session.do(("curl", "-m1", "https://203.0.113.90/")).status == 28
    report = json.loads(report_file.read_text())
    outcomes = {(query["name"], query["outcome"]) for query in report["queries"]}
    assert ("api.github.com", "allowed") in outcomes
    assert ("unlisted.example.org", "refused") in outcomes
    learned = {name["name"]: name["addresses"][0]["address"] for name in report["names"]}
    assert learned == {"api.github.com": "203.0.113.1"}
    connected = {(each["address"], each["port"]): each for each in report["connections"]}
    assert "spec.egress[1]" in connected["203.0.113.1", 443]["rule"]
    dropped = {(each["address"], each["port"], each["reason"]) for each in report["drops"]}
    assert ("203.0.113.90", 443, "Policy denied") in dropped
    assert report["exit_status"] == 0


def test_audit_lets_everything_pass_and_reports_what_would_be_dropped(
    lab: Lab, tmp_path: Path, dns_option: tuple[str, ...]
) -> None:
    report_file = tmp_path / "report.json"
    options = (*POLICY_OPTIONS, *dns_option, "--audit", "--report", str(report_file))
    with Session(lab, options) as session:
        for url in ("https://unlisted.example.org/", "https://203.0.113.90/"):
            assert session.do(("curl", "-4sS", "--cacert", str(lab.authority), url)).status == 0
    report = json.loads(report_file.read_text())
    assert report["audit"] is True
    assert report["drops"] == []
    assert {each["address"] for each in report["would_drop"]} == {"203.0.113.30", "203.0.113.90"}
    asked = {(query["name"], query["outcome"]) for query in report["queries"]}
    assert ("unlisted.example.org", "audited") in asked


def test_what_a_killed_guard_leaves_is_cleared_by_the_next(lab: Lab) -> None:
    session = Session(lab, ALLOW).__enter__()
    pins = Pins.of(_instance(session))
    os.kill(session.process.pid, signal.SIGKILL)
    session.close()
    assert run_guarded(lab, QUIETLY, ("true",)).status == 0
    assert not pins.exist
    assert not session.socket.exists()


def test_the_command_of_a_killed_guard_stays_fenced(lab: Lab) -> None:
    """Killing the guard opens no door: what still runs keeps what was in force, or nothing."""
    process = start_guarded(
        lab,
        QUIETLY,
        ("sh", "-c", "echo up; sleep 0.5; curl -sS -m 2 http://203.0.113.90/; echo $?"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    said = process.communicate(timeout=15)[0]
    assert "203.0.113.90 80" not in said
    run_guarded(lab, QUIETLY, ("true",))


def test_many_run_at_once_and_share_nothing(lab: Lab, dns_option: tuple[str, ...]) -> None:
    """What one looked up opens nothing for another."""
    options = (*ALLOW, *dns_option, "--allow", "www.example.com")
    sessions = [Session(lab, options) for _ in range(3)]
    try:
        for session in sessions:
            session.__enter__()
        instances = {_instance(session) for session in sessions}
        assert len(instances) == len(sessions)
        assert sessions[0].do(("curl", "-4sS", "http://api.example.com/")).status == 0
        to_the_address = ("curl", "-sS", "-m", "1", "http://203.0.113.10/")
        assert sessions[0].do(to_the_address).status == 0
        assert [session.do(to_the_address).status for session in sessions[1:]] == [28] * 2
    finally:
        for session in sessions:
            session.close()
    assert [session.exit_status for session in sessions] == [0] * len(sessions)


def test_status_says_who_settles_dns(lab: Lab, dns_by: str, dns_option: tuple[str, ...]) -> None:
    with Session(lab, (*ALLOW, *dns_option)) as session:
        assert session.do(("dig", "+short", "api.example.com")).status == 0
        assert session.do(("dig", "+short", "unlisted.example.org")).status == 0
        dns = _status(session)["proxy"]["dns"]
    assert dns["queries"] == 2
    assert dns["by_kernel"] == (2 if dns_by == "kernel" else 0)


def _instance(session: Session) -> str:
    return str(_status(session)["instance"])


def _status(session: Session) -> dict[str, Any]:
    status = subprocess.run(
        [FQDNWALL, "status", "--socket", session.socket, "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(status.stdout)
    return found
