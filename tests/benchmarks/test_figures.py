"""What the load generators print is read right, and what they did not manage is never a figure."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import (
    Unreadable,
    ab_requests_a_second,
    dnsperf_latencies,
    dnsperf_lost,
    dnsperf_queries_a_second,
    iperf3_gigabits,
    medians,
    percentile,
)

AB = """\
Complete requests:      10531
Failed requests:        {failed}
Requests per second:    10530.83 [#/sec] (mean)
"""
DNSPERF = """\
> NOERROR api.example.com A 0.000210
> NOERROR www.example.com AAAA 0.000190

  Queries sent:         285245
  Queries lost:         7 (0.00%)

  Queries per second:   95068.198672
"""


def test_iperf3_counts_what_arrived() -> None:
    result = {"end": {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {}}}
    result["end"]["sum_received"] = {"bits_per_second": 8e9}
    assert iperf3_gigabits(json.dumps(result)) == 8.0


@pytest.mark.parametrize("printed", ["", "{}", '{"end": {}}', '{"error": "unable to connect"}'])
def test_an_iperf3_that_failed_has_no_figure(printed: str) -> None:
    with pytest.raises(Unreadable):
        iperf3_gigabits(printed)


def test_ab_is_read() -> None:
    assert ab_requests_a_second(AB.format(failed=0)) == 10530.83


@pytest.mark.parametrize("printed", ["", AB.format(failed=3)])
def test_an_ab_with_failures_has_no_figure(printed: str) -> None:
    with pytest.raises(Unreadable):
        ab_requests_a_second(printed)


def test_dnsperf_is_read() -> None:
    assert dnsperf_queries_a_second(DNSPERF) == 95068.198672
    assert dnsperf_lost(DNSPERF) == 7
    assert dnsperf_latencies(DNSPERF) == [0.00019, 0.00021]


@pytest.mark.parametrize("read", [dnsperf_queries_a_second, dnsperf_lost, dnsperf_latencies])
def test_a_dnsperf_that_failed_has_no_figure(read: object) -> None:
    assert callable(read)
    with pytest.raises(Unreadable):
        read("Error: unable to connect")


def test_percentiles_of_few_values() -> None:
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3.0


def test_ratios_are_of_the_first_way() -> None:
    rounds = [{"plain": 10.0, "guarded": 9.0}, {"plain": 30.0, "guarded": 6.0}]
    row = medians("requests", "1/s", [*rounds, {"plain": 20.0, "guarded": 10.0}])
    assert row.figures == {"plain": 20.0, "guarded": 9.0}
    assert row.ratios() == {"plain": 1.0, "guarded": 0.45}
