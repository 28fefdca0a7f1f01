"""Counters of the proxy, as plain numbers that the agent reads whenever it likes.

Names follow Cilium where it has one (without the `cilium_` prefix, which the exporter puts in
front): `policy_l7_total`, `proxy_upstream_reply_seconds`, `fqdn_semaphore_rejected_total`,
`proxy_datapath_update_timeout_total`. The rest is `dnsproxy_*`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dnsproxy.model import Failure

_BOUNDS_SECONDS: Final = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class Sample(NamedTuple):
    """One value of one series, as an exporter wants it."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(slots=True)
class Histogram:
    """Seconds by bucket: `counts[i]` are observations at most `_BOUNDS_SECONDS[i]`, not summed up.

    The last bucket is what exceeds every bound.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_SECONDS) + 1))
    total_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS_SECONDS, seconds)] += 1
        self.total_seconds += seconds

    def samples(self, name: str, labels: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
        running = 0
        for bound, count in zip((*_BOUNDS_SECONDS, float("inf")), self.counts, strict=True):
            running += count
            edge = "+Inf" if bound == float("inf") else str(bound)
            yield Sample(f"{name}_bucket", (*labels, ("le", edge)), running)
        yield Sample(f"{name}_sum", labels, self.total_seconds)
        yield Sample(f"{name}_count", labels, running)


@dataclass(slots=True)
class Metrics:
    """Totals since the start, except `in_flight`, `pending_bytes`, `flows` and `connections`."""

    queries: int = 0
    forwarded: int = 0
    refused: int = 0
    answered: int = 0
    truncated: int = 0
    learned_answers: int = 0
    learned_addresses: int = 0
    out_of_order_answers: int = 0
    unmatched_responses: int = 0
    failures: dict[Failure, int] = field(default_factory=lambda: dict.fromkeys(Failure, 0))
    in_flight: int = 0
    pending_bytes: int = 0
    flows: int = 0
    flows_opened: int = 0
    connections: int = 0
    connections_accepted: int = 0
    connections_rejected: int = 0
    connections_timed_out: int = 0
    framing_errors: int = 0
    replies_unsent: int = 0
    listener_errors: int = 0
    listener_overflows: int = 0
    install_timeouts: int = 0
    upstream_seconds: Histogram = field(default_factory=Histogram)
    total_seconds: Histogram = field(default_factory=Histogram)
    dataplane_seconds: Histogram = field(default_factory=Histogram)

    def samples(self) -> Iterator[Sample]:
        """Everything, for an exporter."""
        failures = self.failures
        for rule, value in (
            ("received", self.queries),
            ("forwarded", self.forwarded),
            ("denied", self.refused),
            ("parse_errors", failures[Failure.MALFORMED_QUERY]),
        ):
            yield Sample("policy_l7_total", (("proxy_type", "fqdn"), ("rule", rule)), value)
        rejected = sum(failures[failure] for failure in _SEMAPHORES)
        yield Sample("fqdn_semaphore_rejected_total", (), rejected)
        yield Sample("proxy_datapath_update_timeout_total", (), self.install_timeouts)
        for scope, histogram in (
            ("upstream", self.upstream_seconds),
            ("total", self.total_seconds),
            ("dataplane", self.dataplane_seconds),
        ):
            labels = (("error", ""), ("protocol_l7", "dns"), ("scope", scope))
            yield from histogram.samples("proxy_upstream_reply_seconds", labels)
        for failure, value in failures.items():
            labels_ = (("reason", failure.name.lower()),)
            yield Sample("dnsproxy_failures_total", labels_, value)
        for name in _OWN_TOTALS:
            yield Sample(f"dnsproxy_{name}_total", (), getattr(self, name))
        for name in _OWN_GAUGES:
            yield Sample(f"dnsproxy_{name}", (), getattr(self, name))


_SEMAPHORES: Final = (Failure.IN_FLIGHT, Failure.IN_FLIGHT_ENDPOINT, Failure.IN_FLIGHT_QUESTION)
_OWN_GAUGES: Final = ("in_flight", "pending_bytes", "flows", "connections")
_OWN_TOTALS: Final = (
    "answered",
    "truncated",
    "learned_answers",
    "learned_addresses",
    "out_of_order_answers",
    "unmatched_responses",
    "flows_opened",
    "connections_accepted",
    "connections_rejected",
    "connections_timed_out",
    "framing_errors",
    "replies_unsent",
    "listener_errors",
    "listener_overflows",
)
