"""What an exporter reads."""

from __future__ import annotations

from dnsproxy.metrics import Metrics
from dnsproxy.model import Failure


def values(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sample.labels): sample.value
        for sample in metrics.samples()
    }


def test_cilium_names_carry_our_counts() -> None:
    metrics = Metrics(queries=10, forwarded=6, refused=3)
    metrics.failures[Failure.MALFORMED_QUERY] = 1
    metrics.failures[Failure.IN_FLIGHT] = 2
    metrics.failures[Failure.IN_FLIGHT_ENDPOINT] = 3
    seen = values(metrics)
    assert seen["policy_l7_total,proxy_type=fqdn,rule=received"] == 10
    assert seen["policy_l7_total,proxy_type=fqdn,rule=forwarded"] == 6
    assert seen["policy_l7_total,proxy_type=fqdn,rule=denied"] == 3
    assert seen["policy_l7_total,proxy_type=fqdn,rule=parse_errors"] == 1
    assert seen["fqdn_semaphore_rejected_total"] == 5
    assert seen["dnsproxy_failures_total,reason=in_flight"] == 2


def test_histogram_counts_up_to_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.0005, 0.3, 99.0):
        metrics.upstream_seconds.observe(seconds)
    name = "proxy_upstream_reply_seconds"
    labels = ",error=,protocol_l7=dns,scope=upstream"
    seen = values(metrics)
    assert seen[f"{name}_bucket{labels},le=0.0005"] == 2
    assert seen[f"{name}_bucket{labels},le=0.25"] == 2
    assert seen[f"{name}_bucket{labels},le=0.5"] == 3
    assert seen[f"{name}_bucket{labels},le=+Inf"] == 4
    assert seen[f"{name}_count{labels}"] == 4
    assert abs(seen[f"{name}_sum{labels}"] - 99.3009) < 1e-9


def test_every_series_is_told_once() -> None:
    samples = [(sample.name, sample.labels) for sample in Metrics().samples()]
    assert len(samples) == len(set(samples))
