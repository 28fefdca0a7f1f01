"""Connections to addresses that were learned a moment before: none may fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from benchmarks.figures import Row
from benchmarks.ways import Way, guarded, plain
from tests.lab import Lab, world
from tests.lab.daemons import REPOSITORY


def measure(lab: Lab, count: int, say: Callable[[str], None]) -> list[Row]:
    """`count` connections directly and under guard. Raises RuntimeError when one fails."""
    say(f"{count:,} connections to fresh addresses")
    with guarded(lab, "fqdnwall", ("--allow", f"*.{world.ROTATING_ZONE}:80"), 0, ()) as way:
        results = {each.title: connect(each, lab, count) for each in (plain(lab), way)}
    rates = {way_title: count / seconds for way_title, seconds in results.items()}
    return [Row(f"look up and connect, {count:,} fresh addresses, none failed", "1/s", rates)]


def connect(way: Way, lab: Lab, count: int) -> float:
    """Seconds that `count` turns took. Raises RuntimeError when any failed."""
    program = (sys.executable, str(REPOSITORY / "tests/lab/fresh.py"))
    outcome = way.do((*program, "--server", lab.resolvers[0], "--count", str(count)))
    if outcome.status != 0:
        raise RuntimeError(outcome.err)
    result = json.loads(outcome.out)
    if result["failed"] or result["distinct"] != count:
        raise RuntimeError(f"{way.title}: {outcome.out}")
    return float(result["seconds"])
