"""`fqdnwall run` as a person runs it, in the lab: one command, or a session of several.

The product is its installed command; nothing of it is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.daemons import REPOSITORY
from tests.lab.lab import Lab

FQDNWALL = Path(sys.executable).with_name("fqdnwall")
RUN_SOCKETS = Path("/run/fqdnwall/run")
ENDS_WITHIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command returned and printed, and how long it took."""

    status: int
    out: str
    err: str
    seconds: float


class GuardFailed(Exception):
    """`fqdnwall run` ended before its command did anything; says what it printed."""


def run_guarded(
    lab: Lab, options: Sequence[str], command: Sequence[str], timeout_seconds: float = 30
) -> Outcome:
    """`fqdnwall run OPTIONS --resolver … -- COMMAND` on the lab's host, to its end."""
    started = time.monotonic()
    done = lab.host.run(
        _command_line(lab, options, command),
        resolv_conf=str(lab.resolv_conf),
        timeout_seconds=timeout_seconds,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def start_guarded(
    lab: Lab, options: Sequence[str], command: Sequence[str], **streams: Any
) -> subprocess.Popen[Any]:
    """`fqdnwall run OPTIONS --resolver … -- COMMAND` on the lab's host, with the caller's streams
    and all else that `Namespace.start` takes."""
    return lab.host.start(_command_line(lab, options, command), **streams)


def _command_line(lab: Lab, options: Sequence[str], command: Sequence[str]) -> list[str]:
    resolvers = [part for address in lab.resolvers for part in ("--resolver", address)]
    return [str(FQDNWALL), "run", *resolvers, *options, "--", *command]


class Session:
    """A guarded `visitor`: commands run one after the other under one guard.

    Use as a context manager; `exit_status` and `said` (what `fqdnwall run` printed) are there
    after it.
    """

    def __init__(self, lab: Lab, options: Sequence[str] = ()) -> None:
        self._lab = lab
        self._options = options
        self._said = lab.directory / f"guard-{time.monotonic_ns()}.log"
        self.exit_status: int | None = None

    def __enter__(self) -> Self:
        visitor = [sys.executable, str(REPOSITORY / "tests/lab/visitor.py")]
        self.command_line = _command_line(self._lab, self._options, visitor)
        with self._said.open("w") as said:
            self.process = self._lab.host.start(
                self.command_line,
                resolv_conf=str(self._lab.resolv_conf),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        self.started_at = time.monotonic()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        self.ready_after_seconds = time.monotonic() - self.started_at
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        """Where this guard's API listens."""
        return RUN_SOCKETS / f"{self.process.pid}.sock"

    @property
    def said(self) -> str:
        """What `fqdnwall run` itself printed so far."""
        return self._said.read_text()

    def do(self, command: Sequence[str]) -> Outcome:
        """Runs `command` under guard to its end. Raises GuardFailed when the guard is gone."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(list(command)) + "\n")
        self.process.stdin.flush()
        return Outcome(**self._answer())

    def close(self) -> None:
        """Ends the visitor by ending its input; kills what does not end then."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.exit_status = self.process.wait(ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_status = self.process.wait()
            raise
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise GuardFailed(f"{' '.join(self.command_line)}\n{self.said}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer
