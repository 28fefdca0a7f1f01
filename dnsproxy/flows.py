"""Upstream flows for UDP: which socket a query leaves by, and under which id.

What an off-path forger has to guess is the socket's port and the message id. A fresh socket for
each query gives both in full, but costs 19 µs of system calls, and measured in the whole proxy 20
to 40 µs on top of the 65 that an exchange takes. Instead a *route* (client address, server) keeps
up to `flows_per_route` sockets, each on a port that the kernel drew at random; a query takes one of
them and an id, both drawn by the caller's secure randomness, and a socket is retired after
`queries_per_flow` queries or `flow_lifetime_seconds`, whichever is first. A route in light use thus
has a new port for each query, and one in heavy use changes its ports many times a second. Every
socket is connected, so that the kernel drops what comes from another address or port before we see
it.

Invariant: an id is pending at most once on a flow, and a flow is closed only when nothing is
pending on it. TCP flows use the same table with one flow for each client connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dnsproxy.config import EngineConfig
from dnsproxy.model import SocketAddress, Transport

if TYPE_CHECKING:
    from dnsproxy.exchange import Exchange

RandomId = Callable[[], int]  # 16 unguessable bits

# Client address (UDP) or connection number (TCP), and the server.
RouteKey = tuple[str | int, SocketAddress]


@dataclass(slots=True, eq=False)
class Flow:
    number: int
    route: RouteKey
    transport: Transport
    endpoint: int
    uses_left: int
    expires_at: float
    pending: dict[int, Exchange] = field(default_factory=dict)
    retired: bool = False


class FlowTable:
    """Open flows by number, and the ones each route may still use."""

    def __init__(self, config: EngineConfig, random_id: RandomId) -> None:
        self._config = config
        self._random_id = random_id
        self._flows: dict[int, Flow] = {}
        self._routes: dict[RouteKey, list[Flow]] = {}
        self._by_endpoint: dict[int, int] = {}
        self._last_number = 0

    def full(self, endpoint: int) -> bool:
        """Whether a bound forbids one more flow for the endpoint."""
        return (
            len(self._flows) >= self._config.flows
            or self._by_endpoint.get(endpoint, 0) >= self._config.flows_per_endpoint
        )

    def get(self, number: int) -> Flow | None:
        return self._flows.get(number)

    def choose(self, route: RouteKey, now: float) -> Flow | None:
        """An open flow of the route to send by, or None: a new one is wanted."""
        flows = self._routes.get(route)
        if not flows:
            return None
        for flow in [flow for flow in flows if flow.uses_left <= 0 or flow.expires_at <= now]:
            self._retire(flow)
        if route not in self._routes:
            return None
        if flows[0].transport is Transport.UDP:
            if len(flows) < self._config.flows_per_route:
                return None
            return self._draw(flows)
        return flows[0]

    def open(self, route: RouteKey, transport: Transport, endpoint: int, now: float) -> Flow | None:
        """Number a new flow; None when a bound forbids it."""
        if self.full(endpoint):
            return None
        self._last_number += 1
        udp = transport is Transport.UDP
        flow = Flow(
            self._last_number,
            route,
            transport,
            endpoint,
            uses_left=self._config.queries_per_flow if udp else 1 << 62,
            expires_at=now + self._config.flow_lifetime_seconds if udp else float("inf"),
        )
        self._flows[flow.number] = flow
        self._routes.setdefault(route, []).append(flow)
        self._by_endpoint[endpoint] = self._by_endpoint.get(endpoint, 0) + 1
        return flow

    def attach(self, flow: Flow, exchange: Exchange) -> int:
        """Make the exchange pending under a fresh random id, and return the id."""
        dns_id = self._random_id()
        while dns_id in flow.pending:
            dns_id = self._random_id()
        flow.pending[dns_id] = exchange
        flow.uses_left -= 1
        return dns_id

    def remove(self, flow: Flow) -> None:
        """Forget a flow that has failed or ended; what was pending on it is the caller's."""
        self._retire(flow)
        del self._flows[flow.number]
        left = self._by_endpoint[flow.endpoint] - 1
        if left:
            self._by_endpoint[flow.endpoint] = left
        else:
            del self._by_endpoint[flow.endpoint]

    def route(self, route: RouteKey) -> tuple[Flow, ...]:
        return tuple(self._routes.get(route, ()))

    def any_of(self, route: RouteKey) -> Flow | None:
        """A flow of the route although another was wanted: what is left when the table is full."""
        flows = self._routes.get(route)
        return self._draw(flows) if flows else None

    def reclaim(self, endpoint: int) -> list[Flow]:
        """Remove and return UDP flows with nothing pending, to make room for the endpoint.

        They are the endpoint's own if it is its own bound that it has met, else anybody's.
        """
        own = self._by_endpoint.get(endpoint, 0) >= self._config.flows_per_endpoint
        idle = [
            flow
            for flow in self._flows.values()
            if not flow.pending
            and flow.transport is Transport.UDP
            and (flow.endpoint == endpoint or not own)
        ]
        for flow in idle:
            self.remove(flow)
        return idle

    def finished(self, now: float) -> list[Flow]:
        """Remove and return the flows that nothing will use again."""
        done = [
            flow
            for flow in self._flows.values()
            if not flow.pending and (flow.retired or flow.expires_at <= now or flow.uses_left <= 0)
        ]
        for flow in done:
            self.remove(flow)
        return done

    def _draw(self, flows: list[Flow]) -> Flow:
        return flows[self._random_id() % len(flows)] if len(flows) > 1 else flows[0]

    def _retire(self, flow: Flow) -> None:
        if flow.retired:
            return
        flow.retired = True
        flows = self._routes[flow.route]
        flows.remove(flow)
        if not flows:
            del self._routes[flow.route]
