"""The installed command as a process: signals, pipes, terminals, start-up."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fqdnwall.cli.output import Table, render, safe
from tests.api import samples
from tests.api.fake import FakeBackend, LiveAgent, live_agent

COMMAND = [sys.executable, "-c", "import sys; from fqdnwall.cli.main import main; sys.exit(main())"]


@contextmanager
def process(*arguments: str, **how: object) -> Iterator[subprocess.Popen[str]]:
    settings: dict[str, object] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen([*COMMAND, *arguments], **{**settings, **how}) as child:  # type: ignore[call-overload]
        try:
            yield child
        finally:
            child.kill()


def listening(child: subprocess.Popen[str]) -> None:
    """Returns when the monitor's subscription stands."""
    assert child.stderr is not None
    assert "Listening for events" in child.stderr.readline()


def test_monitor_shows_events_as_they_come_and_ends_with_the_agent(agent: LiveAgent) -> None:
    arguments = ("monitor", "--type", "drop", "--socket", str(agent.path))
    with process(*arguments) as child:
        assert child.stdout is not None
        listening(child)
        for event in samples.EVENTS:
            agent.call(agent.backend.broker.publish, event)
        assert child.stdout.readline().startswith("xx drop (Policy denied)")
        agent.stop()
        rest, err = child.communicate(timeout=10)
    assert (child.returncode, rest) == (0, "")
    assert err == "The agent ended the stream.\n"


def test_monitor_as_json_is_an_object_a_line(agent: LiveAgent) -> None:
    with process("monitor", "-o", "json", "--socket", str(agent.path)) as child:
        assert child.stdout is not None
        listening(child)
        agent.call(agent.backend.broker.publish, samples.DNS)
        assert json.loads(child.stdout.readline())["dns"]["qname"] == "api.example.com."


def test_ctrl_c_ends_a_monitor_quietly(agent: LiveAgent) -> None:
    with process("monitor", "--socket", str(agent.path)) as child:
        listening(child)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=10) == ("", "")
    assert child.returncode == 0


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    many = tuple(replace(samples.CT[0], source_port=port) for port in range(1, 5000))
    with (
        live_agent(tmp_path / "s", FakeBackend(ct=many)) as agent,
        process("bpf", "ct", "list", "--socket", str(agent.path)) as child,
    ):
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(10) == 141


def test_a_monitor_whose_reader_leaves_ends(agent: LiveAgent) -> None:
    with process("monitor", "--socket", str(agent.path)) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        listening(child)
        child.stdout.close()
        agent.call(agent.backend.broker.publish, samples.DROP)
        assert child.stderr.read() == ""
        assert child.wait(10) == 141


def in_terminal(columns: int, *arguments: str) -> str:
    """What the command writes to a terminal of so many columns."""
    outer, inner = pty.openpty()
    attributes = termios.tcgetattr(inner)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(inner, termios.TCSANOW, attributes)
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with process(*arguments, stdout=inner, env=environment) as child:
        os.close(inner)
        written = b""
        while True:
            try:
                chunk = os.read(outer, 65536)
            except OSError:  # EIO: the other side is closed
                break
            if not chunk:
                break
            written += chunk
        assert child.wait(10) == 0
    os.close(outer)
    return written.decode()


@pytest.mark.parametrize("command", ["endpoint list", "bpf policy get 7", "status"])
def test_tables_fit_a_narrow_terminal(agent: LiveAgent, command: str) -> None:
    text = in_terminal(80, *command.split(), "--socket", str(agent.path))
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    tables = [line for line in plain.splitlines() if not line.startswith(("DNS", "  /etc"))]
    assert max(map(len, tables)) <= 80
    assert "\x1b[1m" in text  # headers are bold on a terminal


def test_no_colour_when_it_is_not_a_terminal(agent: LiveAgent) -> None:
    with process("endpoint", "list", "--socket", str(agent.path)) as child:
        out, _ = child.communicate(timeout=10)
    assert "\x1b" not in out


def test_what_the_network_says_cannot_drive_the_terminal() -> None:
    assert safe("a\x1b[2Jb\rc\x9bd\u202e") == r"a\x1b[2Jb\rc\x9bd\u202e"
    assert render(Table(("A",), [("x\x1b]0;y\x07",)])) == "A\nx\\x1b]0;y\\x07\n"


def test_starting_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fqdnwall.cli.main import main; main(['--help']);"
        "heavy = {'trio', 'starlette', 'hypercorn', 'rich', 'yaml', 'bcc', 'pyroute2', 'asyncio',"
        " 'dnslib', 'kubernetes', 'http.client', 'fqdnwall.api.models'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_client_needs_neither_trio_nor_starlette() -> None:
    code = (
        "import sys; import fqdnwall.api.client, fqdnwall.api.options;"
        "heavy = {'trio', 'starlette', 'hypercorn'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bash_completes_commands() -> None:
    environment = {
        **os.environ,
        "_FQDNWALL_COMPLETE": "complete_bash",
        "COMP_WORDS": "fqdnwall fqdn ca",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, env=environment, check=False, timeout=20
    )
    assert done.stdout.split() == ["cache"], done.stderr
