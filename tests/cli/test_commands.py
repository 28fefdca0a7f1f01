"""Arguments, exit statuses, and errors that say what to do."""

from __future__ import annotations

import io
import json
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fqdnwall.api import options
from fqdnwall.api.models import EndpointSpec, FqdnSource
from fqdnwall.cli import agents
from fqdnwall.cli.main import app, main
from tests.api.fake import LiveAgent, live_agent
from tests.cli.conftest import Command, Outcome

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: one
spec:
  endpointSelector: {}
  egress:
  - toFQDNs:
    - matchName: api.example.com
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands for the agent and ``run``: records the options that they are called with."""
    called: list[Any] = []

    def record(status: int) -> Any:
        def entry(chosen: Any, *how_to_show: Any) -> int:
            called.append(chosen)
            return status

        return entry

    run = types.ModuleType("fqdnwall.run")
    run.run = record(42)  # type: ignore[attr-defined]
    agent = types.ModuleType("fqdnwall.agent")
    agent.main = record(0)  # type: ignore[attr-defined]
    agent.cleanup = record(0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fqdnwall.run", run)
    monkeypatch.setitem(sys.modules, "fqdnwall.agent", agent)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return called


def words(text: str) -> list[str]:
    return text.split()


def two_lines(outcome: Outcome) -> tuple[str, str]:
    """The what and the what to do of an error; nothing else may be written."""
    what, do = outcome.err.splitlines()
    assert outcome.out == ""
    return what.removeprefix("Error: "), do.removeprefix("Hint: ")


class TestMatch:
    def test_prints_a_line_for_each_name(self, fqdnwall: Command) -> None:
        outcome = fqdnwall("fqdn", "match", "*.example.com", "API.example.com.", "example.com")
        assert outcome == Outcome(0, "API.example.com.\tyes\nexample.com\tno\n", "")

    def test_reads_a_match_name(self, fqdnwall: Command) -> None:
        outcome = fqdnwall("fqdn", "match", "--selector", "name", "a.com", "a.com", "b.a.com")
        assert outcome.out == "a.com\tyes\nb.a.com\tno\n"

    @pytest.mark.parametrize(
        "arguments",
        [("a..b", "x"), ("", "x"), ("--selector", "name", "*.a", "x"), ("*",), ()],
    )
    def test_what_is_not_valid_is_a_usage_error(
        self, fqdnwall: Command, arguments: tuple[str, ...]
    ) -> None:
        outcome = fqdnwall("fqdn", "match", *arguments)
        assert outcome.status == 2
        assert all(two_lines(outcome))

    def test_speaks_json(self, fqdnwall: Command) -> None:
        outcome = fqdnwall("fqdn", "match", "*", "a", "-o", "json")
        assert json.loads(outcome.out) == [{"name": "a", "matches": True}]

    def test_a_name_that_begins_with_a_dash(self, fqdnwall: Command) -> None:
        assert fqdnwall("fqdn", "match", "--", "*", "-a").out == "-a\tyes\n"


class TestValidate:
    def test_valid_files_are_counted(self, fqdnwall: Command, tmp_path: Path) -> None:
        file = tmp_path / "p.yaml"
        file.write_text(f"{POLICY}---\n{POLICY.replace('name: ', 'name: another-', 1)}")
        assert fqdnwall("policy", "validate", str(file)) == Outcome(
            0, f"{file}: valid, 2 policies\n", ""
        )

    def test_every_error_of_every_file_is_told(self, fqdnwall: Command, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text(POLICY.replace("matchName: api", "matchName: 'a b' #") + "  nonsense: 1\n")
        good = tmp_path / "good.yaml"
        good.write_text(POLICY)
        outcome = fqdnwall("policy", "validate", str(bad), str(good))
        assert outcome.status == 1
        lines = outcome.out.splitlines()
        assert lines[-1] == f"{good}: valid, 1 policy"
        assert len(lines) == 3
        assert any(f"{bad}:9: spec.egress[0].toFQDNs[0].matchName" in line for line in lines)
        assert any("nonsense" in line for line in lines)

    def test_speaks_json(self, fqdnwall: Command, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text(POLICY.replace("api.example.com", "'a b'"))
        outcome = fqdnwall("policy", "validate", str(bad), "-o", "json")
        assert outcome.status == 1
        (told,) = json.loads(outcome.out)
        assert told["valid"] is False
        assert told["errors"][0]["line"] == 9
        assert told["errors"][0]["path"] == "spec.egress[0].toFQDNs[0].matchName"

    def test_reads_standard_input(self, fqdnwall: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(POLICY))
        assert fqdnwall("policy", "validate", "-").out == "-: valid, 1 policy\n"

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_a_file_that_cannot_be_read_is_a_usage_error(
        self, fqdnwall: Command, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "p.yaml"
        if content is not None:
            file.write_bytes(content)
        outcome = fqdnwall("policy", "validate", str(file))
        assert outcome.status == 2
        assert all(two_lines(outcome))

    def test_no_file_is_a_usage_error(self, fqdnwall: Command) -> None:
        assert fqdnwall("policy", "validate").status == 2


class TestRun:
    def test_everything_reaches_the_program(
        self,
        fqdnwall: Command,
        program: list[Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "p.yaml").write_text(POLICY)
        outcome = fqdnwall(
            *[
                "run",
                "--policy",
                "p.yaml",
                "--allow",
                "api.example.com:443/TCP",
                "--allow",
                "*.example.org",
            ],
            *words("--allow-cidr 10.0.0.0/8 --allow-cidr [2001:db8::/32]:443 --audit"),
            *[
                "--resolver",
                "192.0.2.53",
                "--resolver",
                "2001:db8::53",
                "-q",
                "--report",
                "out.json",
            ],
            *[
                "--label",
                "app=web",
                "--label",
                "k8s:tier=front",
                "--namespace",
                "jobs",
                "--socket",
                "s.sock",
            ],
            *words("-- curl -s --socket x --help"),
        )
        assert outcome == Outcome(42, "", "")
        (chosen,) = program
        assert chosen == options.RunOptions(
            command=("curl", "-s", "--socket", "x", "--help"),
            policies=(tmp_path / "p.yaml",),
            allow=("api.example.com:443/TCP", "*.example.org"),
            allow_cidr=("10.0.0.0/8", "[2001:db8::/32]:443"),
            audit=True,
            resolvers=tuple(map(options.parse_resolver, ("192.0.2.53", "2001:db8::53"))),
            quiet=True,
            report=tmp_path / "out.json",
            labels=(("app", "web"), ("k8s:tier", "front")),
            namespace="jobs",
            socket=tmp_path / "s.sock",
        )

    def test_the_commands_own_options_need_no_dashes(
        self, fqdnwall: Command, program: list[Any]
    ) -> None:
        assert fqdnwall("run", "--audit", "ls", "-l", "--", "-q").status == 42
        assert program[0].command == ("ls", "-l", "--", "-q")

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            ([], "Missing argument"),
            (["--allow", "a..b", "x"], "--allow a..b"),
            (["--allow", "a.com:http", "x"], "--allow a.com:http"),
            (["--allow-cidr", "10.0.0.0/33", "x"], "--allow-cidr 10.0.0.0/33"),
            (["--resolver", "dns.example", "x"], "--resolver: 'dns.example'"),
            (["--resolver", "0.0.0.0", "x"], "--resolver: '0.0.0.0'"),
            (["--label", "=v", "x"], "--label: '=v'"),
            (["--namespace", "", "x"], "--namespace is empty"),
            (["--policy", "/nowhere.yaml", "x"], "--policy: there is no file /nowhere.yaml"),
            (["--report", "/nowhere/r.json", "x"], "--report: there is no folder /nowhere"),
            (["--colour", "x"], "No such option: --colour"),
        ],
    )
    def test_wrong_arguments_are_told_before_anything_is_done(
        self, fqdnwall: Command, program: list[Any], arguments: list[str], what: str
    ) -> None:
        outcome = fqdnwall("run", *arguments)
        assert outcome.status == 2
        assert two_lines(outcome)[0].startswith(what)
        assert program == []

    @pytest.mark.parametrize(
        "arguments", [["run", "true"], ["agent", "--policy-dir", "/"], ["cleanup"]]
    )
    def test_without_root_it_says_so(
        self,
        fqdnwall: Command,
        program: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        outcome = fqdnwall(*arguments)
        assert outcome.status == 1
        what, do = two_lines(outcome)
        assert "needs root" in what
        assert f"sudo fqdnwall {arguments[0]}" in do
        assert program == []


class TestAgent:
    def test_everything_reaches_the_program(
        self, fqdnwall: Command, program: list[Any], tmp_path: Path
    ) -> None:
        config = tmp_path / "c.yaml"
        config.write_text("")
        outcome = fqdnwall(
            *f"agent --policy-dir {tmp_path} --config {config} --socket {tmp_path}/a.sock".split(),
            *words("--audit --resolver 192.0.2.53 -v"),
        )
        assert outcome.status == 0
        assert program == [
            options.AgentOptions(
                tmp_path,
                config,
                tmp_path / "a.sock",
                audit=True,
                resolvers=(options.parse_resolver("192.0.2.53"),),
                verbose=True,
            )
        ]

    def test_the_folder_must_exist(self, fqdnwall: Command, program: list[Any]) -> None:
        assert fqdnwall("agent", "--policy-dir", "/nowhere").status == 2
        assert program == []

    def test_cleanup_ends_a_live_agent_and_clears_what_is_left(
        self, fqdnwall: Command, agent: LiveAgent, program: list[Any]
    ) -> None:
        outcome = fqdnwall("cleanup", "--socket", str(agent.path))
        assert outcome == Outcome(0, "the agent was ended; nothing of it is in force\n", "")
        assert agent.backend.asked == [("shutdown", True)]
        assert program == [options.CleanupOptions(agent.path)]

    def test_cleanup_clears_what_a_dead_agent_left(
        self, fqdnwall: Command, program: list[Any], tmp_path: Path
    ) -> None:
        outcome = fqdnwall("cleanup", "--socket", str(tmp_path / "a.sock"), "-o", "json")
        assert json.loads(outcome.out) == {"agent_ended": False}
        assert program == [options.CleanupOptions(tmp_path / "a.sock")]


class TestEndpoint:
    def test_add_says_what_was_added(
        self,
        asks: Command,
        agent: LiveAgent,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        outcome = asks(
            *[
                "endpoint",
                "add",
                "--netns",
                "ns",
                "--name",
                "n",
                "--namespace",
                "jobs",
                "--label",
                "app=x",
                "--label",
                "y",
            ]
        )
        assert outcome.status == 0
        assert outcome.out.startswith("ID:                99\n")
        spec = EndpointSpec(
            netns=str(tmp_path / "ns"), name="n", namespace="jobs", labels=("app=x", "y=")
        )
        assert agent.backend.asked == [("add", spec)]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--pid", "1", "--interface", "eth0"),
            ("--pid", "0"),
            ("--pid", "1", "--label", "a b"),
            ("--interface", "x" * 16),
        ],
    )
    def test_add_of_nothing_or_of_two_things_is_a_usage_error(
        self, asks: Command, arguments: tuple[str, ...]
    ) -> None:
        outcome = asks("endpoint", "add", *arguments)
        assert outcome.status == 2
        assert all(two_lines(outcome))

    def test_what_the_agent_refuses_is_told(self, asks: Command) -> None:
        outcome = asks("endpoint", "add", "--interface", "lo")
        assert outcome.status == 1
        assert two_lines(outcome) == (
            "lo is not one side of a veth pair",
            "name the host's side",
        )

    def test_delete_is_silent_and_unknown_ids_are_told(self, asks: Command) -> None:
        assert asks("endpoint", "delete", "7") == Outcome(0, "", "")
        for command in ("get", "delete"):
            outcome = asks("endpoint", command, "7")
            assert outcome.status == 1
            assert two_lines(outcome) == (
                "there is no endpoint 7",
                "see: fqdnwall endpoint list",
            )


class TestFqdnCache:
    def test_filters_reach_the_agent(self, asks: Command, agent: LiveAgent) -> None:
        asks(*words("fqdn cache list -e 7 -p *.example.com -s kernel"))
        assert agent.backend.asked == [("cache", 7, "*.example.com", FqdnSource.KERNEL)]

    def test_clean_tells_how_many(self, asks: Command, agent: LiveAgent) -> None:
        assert asks("fqdn", "cache", "clean").out == "2 names forgotten\n"
        answered = asks("fqdn", "cache", "clean", "--matchpattern", "*.b", "-o", "json").out
        assert json.loads(answered) == {"forgotten": 2}
        assert agent.backend.asked == [("clean", None), ("clean", "*.b")]

    def test_a_wrong_pattern_is_a_usage_error(self, asks: Command, agent: LiveAgent) -> None:
        assert asks("fqdn", "cache", "clean", "-p", "a..b").status == 2
        assert asks("fqdn", "cache", "list", "-p", "a..b").status == 2
        assert agent.backend.asked == []


class TestSocket:
    def test_no_agent_says_which_socket_and_how_to_start(
        self, fqdnwall: Command, tmp_path: Path
    ) -> None:
        outcome = fqdnwall("status", "--socket", str(tmp_path / "none.sock"))
        assert outcome.status == 1
        what, do = two_lines(outcome)
        assert str(tmp_path / "none.sock") in what
        assert "fqdnwall agent --policy-dir DIR" in do

    def test_the_only_command_under_guard_is_found(
        self, fqdnwall: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.standing_in(monkeypatch, tmp_path)
        with live_agent(tmp_path / "run" / "77.sock"):
            assert fqdnwall("endpoint", "list").status == 0
            assert fqdnwall("status").out.count("Attach Mode") == 1

    def test_status_shows_all_and_other_commands_ask_which(
        self, fqdnwall: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.standing_in(monkeypatch, tmp_path)
        with (
            live_agent(tmp_path / "run" / "77.sock"),
            live_agent(tmp_path / "run" / "8.sock"),
        ):
            assert fqdnwall("status").out.count("Attach Mode") == 2
            assert len(json.loads(fqdnwall("status", "-o", "json").out)) == 2
            outcome = fqdnwall("endpoint", "list")
        assert outcome.status == 1
        assert "77.sock" in two_lines(outcome)[1]

    @staticmethod
    def standing_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """The folder stands for the system's state folder."""
        from fqdnwall.api import client, sockets

        (folder / "run").mkdir()
        default, runs = folder / "agent.sock", folder / "run"
        find, live = client.find_socket, sockets.live_sockets
        monkeypatch.setattr(client, "find_socket", lambda: find(default, runs))
        monkeypatch.setattr(sockets, "live_sockets", lambda: live(default, runs))

    def test_a_socket_for_root_says_so(
        self, fqdnwall: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(self: object, path: object) -> None:
            raise PermissionError

        monkeypatch.setattr(socket.socket, "connect", forbidden)
        outcome = fqdnwall("status", "--socket", "/run/x.sock")
        assert outcome.status == 1
        assert "sudo" in two_lines(outcome)[1]


def test_help_names_every_option_and_gives_an_example(fqdnwall: Command) -> None:
    for path in leaves():
        outcome = fqdnwall(*path, "--help")
        assert outcome.status == 0
        assert "Example" in outcome.out, path
        for line in outcome.out.splitlines():
            assert len(line) <= 80, (path, line)


def test_every_command_that_asks_the_agent_takes_a_socket(fqdnwall: Command) -> None:
    offline = {
        ("version",),
        ("completion",),
        ("fqdn", "match"),
        ("policy", "validate"),
        ("policy", "test"),
        ("policy", "verdict"),
    }
    without_output = {
        ("run",),
        ("agent",),
        ("completion",),
        ("endpoint", "delete"),
        ("policy", "verdict"),
    }
    for path in leaves():
        text = fqdnwall(*path, "--help").out
        assert ("--socket" in text) == (path not in offline), path
        if path not in without_output:
            assert "--output" in text, path


def leaves() -> list[tuple[str, ...]]:
    """The paths of all commands."""
    from typer.main import get_command

    found: list[tuple[str, ...]] = []

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            if hasattr(child, "commands"):
                walk(child, (*path, name))
            else:
                found.append((*path, name))

    walk(get_command(app), ())
    assert len(found) > 20
    return found


@pytest.mark.parametrize("group", [(), ("endpoint",), ("fqdn", "cache"), ("bpf", "ct")])
def test_a_group_alone_shows_its_help(fqdnwall: Command, group: tuple[str, ...]) -> None:
    outcome = fqdnwall(*group)
    assert outcome.status == 2
    assert outcome.err.startswith("Usage: fqdnwall")


def test_an_unknown_command_is_a_usage_error(fqdnwall: Command) -> None:
    outcome = fqdnwall("endpoint", "lst")
    assert outcome.status == 2
    assert two_lines(outcome)[1] == "see: fqdnwall endpoint --help"


def test_version(fqdnwall: Command) -> None:
    assert fqdnwall("version").out.startswith("fqdnwall ")
    assert fqdnwall("--version").out == fqdnwall("version").out
    assert set(json.loads(fqdnwall("version", "-o", "json").out)) == {"version"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(fqdnwall: Command, shell: str) -> None:
    outcome = fqdnwall("completion", shell)
    assert outcome.status == 0
    assert "_FQDNWALL_COMPLETE" in outcome.out


def test_ctrl_c_is_quiet(fqdnwall: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(socket: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(agents, "connect", interrupted)
    assert fqdnwall("endpoint", "list") == Outcome(130, "", "")


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(socket: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(agents, "connect", broken)
    with pytest.raises(ZeroDivisionError):
        main(["endpoint", "list"])
