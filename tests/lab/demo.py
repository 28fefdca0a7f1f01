"""The demo (`sudo make demo`): a client under the example policy, in the lab.

It starts the lab, puts one client under guard with `fqdnwall run`, lets it do its errands while
`fqdnwall monitor` tells what happens, and ends with expectation against outcome. Exit status 0 when
all is as expected and nothing was left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from fqdnwall.api.client import AgentClient
from tests.lab.board import Board, Step
from tests.lab.expectations import LABELS, POLICY, POLICY_OPTIONS, Errand, errands, happened
from tests.lab.guard import FQDNWALL, GuardFailed, Session
from tests.lab.lab import Lab, LabError
from tests.lab.leftovers import Machine, Pins, left_by_guard

DRAWN_EVERY_SECONDS = 0.2
EVENTS_WITHIN_SECONDS = 0.3
"""How long the events of an errand may take to come."""
LOOK_SECONDS = 0.7
"""On a terminal, how long a person gets to see what one errand changed."""


class Demo:
    """One showing, to `console`."""

    def __init__(self, console: Console, lab: Lab) -> None:
        self._console = console
        self._lab = lab
        self._errands = errands(lab)
        self.board = Board(len(self._errands))
        self.left: list[str] = []
        self._live: Live | None = None

    async def show(self) -> None:
        """All errands, one after the other. Raises GuardFailed."""
        before = Machine.seen_by(self._lab)
        with Session(self._lab, POLICY_OPTIONS) as session:
            self._introduce(session)
            with self._monitor(session) as monitor:
                pins = Pins.of(await self._until_subscribed(session))
                if self._console.is_terminal:
                    with Live(console=self._console, auto_refresh=False) as live:
                        self._live = live
                        await self._run(session, monitor)
                else:
                    await self._run(session, monitor)
                monitor.terminate()
            await trio.to_thread.run_sync(session.close)
        self.left = await trio.to_thread.run_sync(left_by_guard, self._lab, before, pins)

    def _introduce(self, session: Session) -> None:
        options = " ".join(f"--label {label}" for label in LABELS)
        command = f"fqdnwall run --policy {_short(POLICY)} {options} … -- CLIENT"
        after = f"{session.ready_after_seconds:.1f} s"
        self._console.print(f"  a client is under guard after {after}:")
        self._console.print(f"  [bold]{command}[/]\n", soft_wrap=True)

    def _monitor(self, session: Session) -> subprocess.Popen[str]:
        command = [str(FQDNWALL), "monitor", "--socket", str(session.socket), "-o", "json"]
        return self._lab.host.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    async def _until_subscribed(self, session: Session) -> str:
        """No event of the first errand may be missed. Returns the guard's instance."""
        client = AgentClient(session.socket)
        with trio.fail_after(10):
            while True:
                status = await trio.to_thread.run_sync(client.status)
                if status.events.subscribers:
                    return status.instance
                await trio.sleep(0.02)

    async def _run(self, session: Session, monitor: subprocess.Popen[str]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_events, monitor)
            nursery.start_soon(self._draw)
            for errand in self._errands:
                await self._do(errand, session)
            self.board.begin(None)
            await trio.sleep(DRAWN_EVERY_SECONDS)
            nursery.cancel_scope.cancel()

    async def _do(self, errand: Errand, session: Session) -> None:
        self.board.begin(errand)
        if self._live is None:
            self._console.print(f"  {errand.title}")
        outcome = await trio.to_thread.run_sync(session.do, errand.command)
        step = Step(errand, happened(errand, outcome), outcome.seconds)
        await trio.sleep(EVENTS_WITHIN_SECONDS if self._live is None else LOOK_SECONDS)
        self.board.done(step)
        if self._live is None:
            self._console.print(_plain(step))
        if not step.as_expected:
            printed = f"{' '.join(errand.command)}\n{outcome.out}{outcome.err}"
            self._console.print(Text(f"  not as expected: {printed}", style="red"))

    async def _read_events(self, monitor: subprocess.Popen[str]) -> None:
        assert monitor.stdout is not None
        buffer = b""
        async with trio.lowlevel.FdStream(os.dup(monitor.stdout.fileno())) as stream:
            async for chunk in stream:
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    shown = self.board.event(json.loads(line), time.monotonic())
                    if shown is not None and self._live is None:
                        self._console.print(Text("      ").append_text(shown))

    async def _draw(self) -> None:
        while self._live is not None:
            self._live.update(self.board.render(time.monotonic()), refresh=True)
            await trio.sleep(DRAWN_EVERY_SECONDS)


def _plain(step: Step) -> str:
    mark = "[green]✓[/]" if step.as_expected else "[bold red]✗[/]"
    return (
        f"    {mark} {step.outcome.value}, as expected"
        if step.as_expected
        else f"    {mark} {step.outcome.value}"
    )


def _short(path: Path) -> str:
    return os.path.relpath(path, Path(__file__).resolve().parents[2])


def _try_it(console: Console) -> None:
    if not any(line.split()[1] == "00000000" for line in _routes()):
        return
    console.print(
        "This machine has a way out. Try a real name:\n"
        f"  sudo {_short(FQDNWALL)} run --allow deb.debian.org -- curl -sI https://deb.debian.org/\n"
        "and one that is not allowed:\n"
        f"  sudo {_short(FQDNWALL)} run --allow deb.debian.org -- curl -sI https://www.kernel.org/",
        soft_wrap=True,
    )


def _routes() -> list[str]:
    return Path("/proc/net/route").read_text().splitlines()[1:]


def main() -> int:
    """Shows it; returns the exit status."""
    console = Console(highlight=False)
    started = time.monotonic()
    console.print("[bold]fqdnwall demo[/]")
    try:
        with Lab() as lab:
            up = time.monotonic() - started
            console.print(f"  a small internet of resolvers and web servers is up after {up:.1f} s")
            demo = Demo(console, lab)
            trio.run(demo.show)
    except (LabError, GuardFailed) as error:
        console.print(Text(str(error), style="red"))
        return 1
    console.print(demo.board.table())
    left = demo.left
    for thing in left:
        console.print(Text(f"  {thing}", style="red"))
    surprises = sum(not step.as_expected for step in demo.board.steps)
    seconds = time.monotonic() - started
    verdict = (
        f"[bold red]{surprises} not as expected[/]" if surprises else "[green]all as expected[/]"
    )
    clean = "something was left behind" if left else "nothing left behind"
    console.print(f"{verdict}, {clean}, {seconds:.0f} s\n")
    if not surprises:
        _try_it(console)
    return 1 if surprises or left else 0


if __name__ == "__main__":
    sys.exit(main())
