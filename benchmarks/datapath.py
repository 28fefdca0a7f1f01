"""Throughput, connections and requests a second: through fqdnwall, nftables, and neither."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.figures import Row, ab_requests_a_second, iperf3_gigabits, medians
from benchmarks.ways import Way, guarded, nftables, plain, policy_with
from tests.lab import Lab, world

NAME = "many.example.com"
"""It has an address for every measurement: no run of one meets what another left in TIME_WAIT."""


@dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure: a command towards an address, and how to read its figure."""

    title: str
    unit: str
    command: Callable[[str], tuple[str, ...]]
    read: Callable[[str], float]


def loads(seconds: int) -> tuple[Load, ...]:
    """All loads, each of which takes `seconds`."""

    def iperf3(streams: int) -> Callable[[str], tuple[str, ...]]:
        options = ("--json", "-t", str(seconds), "-P", str(streams))
        return lambda address: ("iperf3", *options, "-c", address)

    def ab(*options: str) -> Callable[[str], tuple[str, ...]]:
        always = ("-q", "-d", "-S", "-t", str(seconds), "-n", "10000000", "-c", "16")
        return lambda address: ("ab", *always, *options, f"http://{address}/")

    return (
        Load("throughput, one stream", "Gbit/s", iperf3(1), iperf3_gigabits),
        Load("throughput, four streams", "Gbit/s", iperf3(4), iperf3_gigabits),
        Load("connections", "1/s", ab(), ab_requests_a_second),
        Load("requests, kept alive", "1/s", ab("-k"), ab_requests_a_second),
    )


def measure(lab: Lab, rounds: int, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """Every load over every way, way after way within a round, `rounds` times."""
    lab.internet.start(["iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    addresses = itertools.cycle(world.addresses_of(NAME))
    with ExitStack() as stack:
        ways = _ways(lab, stack, say)
        rows = []
        for load in loads(seconds):
            taken = []
            for number in range(rounds):
                say(f"{load.title}, round {number + 1} of {rounds}")
                taken.append(_round(load, ways, addresses))
            rows.append(medians(load.title, load.unit, taken))
        return rows


def _round(load: Load, ways: Sequence[Way], addresses: Iterator[str]) -> dict[str, float]:
    return {way.title: load.read(way.do(load.command(next(addresses))).out) for way in ways}


def _ways(lab: Lab, stack: ExitStack, say: Callable[[str], None]) -> list[Way]:
    policy = lab.directory / "many-entries.yaml"
    policy.write_text(policy_with(10_000, 443))
    open_names = ("--allow", NAME, "--allow", f"**.{world.LASTING_ZONE}")
    ways: list[Way] = [plain(lab)]
    lab.host.write_setting("netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
    ways += [nftables(lab, size, world.addresses_of(NAME)) for size in (1, 1_000, 100_000)]
    for title, options, learned in (
        ("fqdnwall 1", open_names, 0),
        ("fqdnwall 1,000", open_names, 1_000),
        ("fqdnwall 100,000", open_names, 100_000),
        ("fqdnwall 10,000 entries", ("--policy", str(policy)), 0),
    ):
        say(f"preparing {title}")
        ways.append(stack.enter_context(guarded(lab, title, options, learned, (NAME,))))
    return ways
