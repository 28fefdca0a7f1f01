"""Queries a second and added latency: settled in the kernel, through the proxy, and with neither.

Both are of `fqdnwall run`; the second is told to leave every query to the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import (
    Row,
    dnsperf_latencies,
    dnsperf_lost,
    dnsperf_queries_a_second,
    medians,
    percentile,
)
from benchmarks.ways import Way, guarded, plain
from tests.lab import Lab, world

IN_FLIGHT = 20


@dataclass(frozen=True, slots=True)
class Load:
    """How dnsperf asks."""

    title: str
    options: tuple[str, ...]


LOADS = (
    Load("with 20 queries in flight", ("-q", str(IN_FLIGHT))),
    Load("at 1,000 queries a second", ("-Q", "1000")),
)


def measure(lab: Lab, rounds: int, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """The rate of answers with a bounded number of queries in flight; latency under each load."""
    names = lab.directory / "names.txt"
    names.write_text("".join(f"{site.name} A\n{site.name} AAAA\n" for site in world.SITES[:6]))
    direct = plain(lab)
    say("DNS")
    allow = ("--allow", "**.example.com")
    with (
        guarded(lab, "kernel", allow, 0, ()) as kernel,
        guarded(lab, "proxy", (*allow, "--proxy-dns"), 0, ()) as proxy,
    ):
        ways = (direct, kernel, proxy)
        return [
            _rate(lab, ways, str(names), rounds, seconds),
            *(
                row
                for load in LOADS
                for row in _latency(lab, ways, str(names), rounds, seconds, load)
            ),
        ]


def _dnsperf(lab: Lab, names: str, seconds: int, *options: str) -> tuple[str, ...]:
    server = lab.resolvers[0]
    return ("dnsperf", "-s", server, "-d", names, "-l", str(seconds), "-t", "5", *options)


def _rate(lab: Lab, ways: Sequence[Way], names: str, rounds: int, seconds: int) -> Row:
    command = _dnsperf(lab, names, seconds, "-q", str(IN_FLIGHT))
    taken = []
    for _ in range(rounds):
        printed = {way.title: way.do(command).out for way in ways}
        for way, text in printed.items():
            if dnsperf_lost(text):
                raise RuntimeError(f"{way} lost {dnsperf_lost(text)} queries")
        taken.append({way: dnsperf_queries_a_second(text) for way, text in printed.items()})
    return medians(f"queries, {IN_FLIGHT} in flight", "1/s", taken)


def _latency(
    lab: Lab, ways: Sequence[Way], names: str, rounds: int, seconds: int, load: Load
) -> list[Row]:
    command = _dnsperf(lab, names, seconds, *load.options, "-v")
    taken = [
        {way.title: dnsperf_latencies(way.do(command).out) for way in ways} for _ in range(rounds)
    ]
    return [
        medians(
            f"latency {load.title}, {name}",
            "ms",
            [
                {way: percentile(values, share) * 1000 for way, values in each.items()}
                for each in taken
            ],
        )
        for name, share in (("median", 0.5), ("p99", 0.99))
    ]
