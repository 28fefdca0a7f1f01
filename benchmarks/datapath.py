"""Throughput, connections and requests a second: through fqdnwall, nftables, and neither."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.figures import Row, ab_requests_a_second, iperf3_gigabits, medians
from benchmarks.ways import Way, guarded, nftables, plain, policy_with
from tests.lab import Lab, world

NAME = "api.example.com"


@dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure: a command, and how to read its figure."""

    title: str
    unit: str
    command: tuple[str, ...]
    read: Callable[[str], float]


def loads(seconds: float) -> tuple[Load, ...]:
    """All loads, each sized to take about `seconds`."""
    address = world.address_of(NAME)
    url = f"http://{address}/"
    iperf3 = ("iperf3", "--json", "-c", address, "-t", f"{max(round(seconds), 1)}")
    ab = ("ab", "-q", "-d", "-S", "-t", f"{max(round(seconds), 1)}", "-n", "10000000", "-c", "16")
    return (
        Load("throughput, one stream", "Gbit/s", iperf3, iperf3_gigabits),
        Load("throughput, four streams", "Gbit/s", (*iperf3, "-P", "4"), iperf3_gigabits),
        Load("connections", "1/s", (*ab, url), ab_requests_a_second),
        Load("requests, kept alive", "1/s", (*ab, "-k", url), ab_requests_a_second),
    )


def measure(lab: Lab, rounds: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Every load over every way, way after way within a round, `rounds` times."""
    lab.internet.start(["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ExitStack() as stack:
        ways = _ways(lab, stack, say)
        rows = []
        for load in loads(seconds):
            say(load.title)
            rows.append(_rounds(load, ways, rounds))
        return rows


def _ways(lab: Lab, stack: ExitStack, say: Callable[[str], None]) -> list[Way]:
    policy = lab.directory / "many-entries.yaml"
    policy.write_text(policy_with(10_000, 443))
    allowed = world.address_of(NAME)
    open_names = ("--allow", f"{NAME}", "--allow", f"**.{world.LASTING_ZONE}")
    ways: list[Way] = [plain(lab)]
    ways += [nftables(lab, size, allowed) for size in (1, 1_000, 100_000)]
    for title, options, learned in (
        ("fqdnwall 1", open_names, 1),
        ("fqdnwall 1,000", open_names, 1_000),
        ("fqdnwall 100,000", open_names, 100_000),
        ("fqdnwall 10,000 entries", ("--policy", str(policy)), 1),
    ):
        say(f"preparing {title}")
        ways.append(stack.enter_context(guarded(lab, title, options, learned, (NAME,))))
    return ways


def _rounds(load: Load, ways: Sequence[Way], rounds: int) -> Row:
    taken: list[dict[str, float]] = []
    for _ in range(rounds):
        figures = {}
        for way in ways:
            figures[way.title] = load.read(way.do(load.command).out)
        taken.append(figures)
    return medians(load.title, load.unit, taken)
