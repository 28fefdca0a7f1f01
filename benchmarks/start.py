"""From `fqdnwall run` to the first packet under guard, step by step, and the agent's memory."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.ways import Guarded, fill, guarded
from tests.lab import Lab, world
from tests.lab.guard import run_guarded

ALLOW = ("--allow", "api.example.com", "--allow", f"**.{world.LASTING_ZONE}")


def measure(lab: Lab, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """`fqdnwall run -- true`, and a session's memory with few and with many learned addresses."""
    say("start")
    return [*_start(lab, rounds), *_memory(lab, say)]


def _start(lab: Lab, rounds: int) -> list[Row]:
    report = lab.directory / "report.json"
    whole, steps = [], []
    for _ in range(rounds):
        started = time.monotonic()
        outcome = run_guarded(lab, (*ALLOW, "--quiet", "--report", str(report)), ("true",))
        whole.append((time.monotonic() - started) * 1000)
        if outcome.status != 0:
            raise RuntimeError(outcome.err)
        steps.append(json.loads(report.read_text())["seconds"])
    rows = [Row("fqdnwall run -- true, start to exit", "ms", {"": statistics.median(whole)})]
    rows += [
        Row(f"  of it {step}", "ms", {"": statistics.median(each[step] for each in steps) * 1000})
        for step in steps[0]
    ]
    return rows


def _memory(lab: Lab, say: Callable[[str], None]) -> list[Row]:
    with guarded(lab, "", ALLOW, 0, ("api.example.com",)) as way:
        few = resident_megabytes(way.session.process.pid)
        libraries = Path(f"/proc/{way.session.process.pid}/maps").read_text()
        say("memory with 100,000 learned addresses")
        fill(Guarded("", way.session), lab, 100_000)
        many = resident_megabytes(way.session.process.pid)
    llvm = float("libLLVM" in libraries or "libclang" in libraries)
    return [
        Row("agent's memory, one learned address", "MiB", {"": few}),
        Row("agent's memory, 100,000 learned addresses", "MiB", {"": many}),
        Row("LLVM in the agent's memory (0 no, 1 yes)", "", {"": llvm}),
    ]


def resident_megabytes(pid: int) -> float:
    """A process's memory, what it shares counted by share (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(pid)
