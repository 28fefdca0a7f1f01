from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fqdnwall.cli.main import main
from tests.api.fake import LiveAgent, live_agent


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LiveAgent]:
    with live_agent(tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture
def fqdnwall(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""

    def command(*arguments: str) -> Outcome:
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return command


@pytest.fixture
def asks(fqdnwall: Command, agent: LiveAgent) -> Command:
    """Runs the command against the fake agent."""

    def command(*arguments: str) -> Outcome:
        return fqdnwall(*arguments, "--socket", str(agent.path))

    return command
