"""Reads what the load generators print, and turns rounds of figures into ratios. Pure."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Unreadable(Exception):
    """A load generator printed something else than its result; says what."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: a figure for each way, and each as a share of the first way's."""

    title: str
    unit: str
    figures: Mapping[str, float]

    def ratios(self) -> dict[str, float]:
        """Way → its figure divided by the first way's."""
        first = next(iter(self.figures.values()))
        return {way: figure / first if first else 0.0 for way, figure in self.figures.items()}


def medians(title: str, unit: str, rounds: Sequence[Mapping[str, float]]) -> Row:
    """The row of the median of each way over all rounds."""
    ways = rounds[0]
    return Row(title, unit, {way: statistics.median(each[way] for each in rounds) for way in ways})


def iperf3_gigabits(printed: str) -> float:
    """Gigabits a second that arrived, from `iperf3 --json`."""
    try:
        result = json.loads(printed)
        return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(printed[-500:]) from error


def ab_requests_a_second(printed: str) -> float:
    """Requests a second, from ApacheBench. Raises Unreadable when any request failed too."""
    rate = re.search(r"^Requests per second:\s+([\d.]+)", printed, re.MULTILINE)
    failed = re.search(r"^Failed requests:\s+(\d+)", printed, re.MULTILINE)
    if rate is None or failed is None or int(failed[1]):
        raise Unreadable(printed[-500:])
    return float(rate[1])


def dnsperf_queries_a_second(printed: str) -> float:
    """Queries a second that were answered, from dnsperf."""
    rate = re.search(r"^\s*Queries per second:\s+([\d.]+)", printed, re.MULTILINE)
    if rate is None:
        raise Unreadable(printed[-500:])
    return float(rate[1])


def dnsperf_lost(printed: str) -> int:
    """Queries that were never answered."""
    lost = re.search(r"^\s*Queries lost:\s+(\d+)", printed, re.MULTILINE)
    if lost is None:
        raise Unreadable(printed[-500:])
    return int(lost[1])


def dnsperf_latencies(printed: str) -> list[float]:
    """Seconds that each answered query took, sorted, from `dnsperf -v`."""
    found = re.findall(r"^> \S+ \S+ \S+ ([\d.]+)$", printed, re.MULTILINE)
    if not found:
        raise Unreadable(printed[-500:])
    return sorted(map(float, found))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted values lie."""
    return values[min(int(len(values) * share), len(values) - 1)]
