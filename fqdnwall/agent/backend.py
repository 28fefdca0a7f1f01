"""The API's view of a running agent: models made from its state, on request."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import trio

from fqdnwall import __version__
from fqdnwall.agent import views
from fqdnwall.agent.clock import boot_seconds, rfc3339
from fqdnwall.agent.service import Agent
from fqdnwall.api.backend import EventSource, Invalid, NotFound
from fqdnwall.api.events import EventFilter
from fqdnwall.api.models import (
    CtEntry,
    DnsCounters,
    Endpoint,
    EndpointSpec,
    EventsStatus,
    FqdnCacheEntry,
    FqdnName,
    FqdnSource,
    IdentityEntry,
    IpcacheEntry,
    LearnedEntry,
    MapInfo,
    PolicyDocument,
    PolicyMapEntry,
    Problem,
    ProgInfo,
    ProxyStatus,
    Severity,
    Status,
    Usage,
)
from fqdnwall.api.report import Report
from fqdnwall.datapath.attach import is_attached
from fqdnwall.endpoint.endpoint import Endpoint as EndpointState
from policies import InvalidName, pattern_selector


@dataclass(frozen=True, slots=True)
class Hooks:
    """What differs between one command and a node: who adds endpoints, who ends the agent."""

    add: Callable[[EndpointSpec], Awaitable[EndpointState]]
    delete: Callable[[int], Awaitable[None]]
    report: Callable[[], Report] | None
    shutdown: Callable[[bool], None]
    documents: Callable[[], Sequence[tuple[str, str]]]
    """(source, text) of the policies in force."""


class AgentBackend:
    """Implements ``fqdnwall.api.backend.Backend``."""

    def __init__(self, agent: Agent, hooks: Hooks) -> None:
        self._agent = agent
        self._firewall = agent.firewall
        self._hooks = hooks

    async def status(self) -> Status:
        agent = self._agent
        now = boot_seconds()
        return Status(
            version=__version__,
            instance=agent.setup.instance,
            setting=agent.setup.setting,
            pid=os.getpid(),
            socket=str(agent.setup.socket),
            started_at=rfc3339(agent.started),
            uptime_seconds=now - agent.started,
            kernel=platform.release(),
            attach_mode=agent.attach_mode,
            policy_revision=self._firewall.revision,
            endpoints=len(self._firewall.endpoints),
            identities=len(self._firewall.allocator.identities),
            policies=len(self._firewall.policies),
            memory_rss_bytes=resident_bytes(),
            audit=agent.setup.settings.audit,
            maps=tuple(await self.maps()),
            proxy=self._proxy(),
            events=EventsStatus(
                seen=self._agent.events_seen,
                lost_kernel=self._firewall.maps.events_lost()
                + self._firewall.maps.events_suppressed(),
                lost_subscribers=agent.broker.lost,
                subscribers=agent.broker.subscribers,
            ),
            problems=(*agent.all_problems(), *self._full()),
            kernel_features={
                "tcx": agent.attach_mode == "tcx",
                "kernel dns": agent.kernel_dns,
            },
        )

    async def endpoints(self) -> Sequence[Endpoint]:
        return [self._endpoint(e) for e in self._firewall.endpoints.values()]

    async def endpoint(self, endpoint_id: int) -> Endpoint:
        return self._endpoint(self._find(endpoint_id))

    async def endpoint_add(self, spec: EndpointSpec) -> Endpoint:
        return self._endpoint(await self._hooks.add(spec))

    async def endpoint_delete(self, endpoint_id: int) -> None:
        self._find(endpoint_id)
        await self._hooks.delete(endpoint_id)

    async def identities(self) -> Sequence[IdentityEntry]:
        return views.identities(self._firewall)

    async def policies(self) -> Sequence[PolicyDocument]:
        return views.policies(self._firewall, self._hooks.documents())

    async def policy_entries(self, endpoint_id: int) -> Sequence[PolicyMapEntry]:
        return views.policy_entries(self._firewall, self._find(endpoint_id))

    async def fqdn_cache(
        self,
        endpoint_id: int | None = None,
        pattern: str | None = None,
        source: FqdnSource | None = None,
    ) -> Sequence[FqdnCacheEntry]:
        if endpoint_id is not None:
            self._find(endpoint_id)
        matches = _matcher(pattern)
        found = views.fqdn_cache(self._firewall)
        return [
            entry
            for entry in found
            if (endpoint_id is None or entry.endpoint_id in (0, endpoint_id))
            and matches(entry.fqdn)
            and (source is None or entry.source is source or source is FqdnSource.LOOKUP)
        ]

    async def fqdn_cache_clean(self, pattern: str | None = None) -> int:
        matches = _matcher(pattern)
        return self._firewall.learning.forget(lambda record: matches(record.key.name))

    async def fqdn_names(self) -> Sequence[FqdnName]:
        return views.fqdn_names(self._firewall)

    async def ct_entries(self, limit: int) -> Sequence[CtEntry]:
        items = self._firewall.maps.conntrack.items()
        found = await trio.to_thread.run_sync(lambda: list(islice(items, limit)))
        return views.conntrack(self._firewall, found, boot_seconds())

    async def ipcache(self) -> Sequence[IpcacheEntry]:
        return views.ipcache_entries(self._firewall)

    async def learned(self) -> Sequence[LearnedEntry]:
        maps = self._firewall.maps
        found = await trio.to_thread.run_sync(
            lambda: [*maps.learned.items(), *maps.answers.items()]
        )
        return views.learned(self._firewall, found, boot_seconds())

    async def progs(self) -> Sequence[ProgInfo]:
        return views.programs(self._agent)

    async def maps(self) -> Sequence[MapInfo]:
        return await trio.to_thread.run_sync(views.maps, self._agent)

    def events(self, wanted: EventFilter) -> AbstractAsyncContextManager[EventSource]:
        return self._agent.broker.subscribe(wanted)

    async def report(self) -> Report:
        if self._hooks.report is None:
            raise NotFound(
                "this agent guards no command of its own",
                "`fqdnwall run` makes reports; ask its socket",
            )
        return self._hooks.report()

    async def shutdown(self, *, cleanup: bool) -> None:
        self._hooks.shutdown(cleanup)

    def _full(self) -> Sequence[Problem]:
        """What was refused for want of room, and where more would be had."""
        if not self._firewall.learning.refused:
            return ()
        return [
            Problem(
                Severity.WARNING,
                "learned",
                f"{self._firewall.learning.refused} times the map of learned addresses had no "
                "room; such answers are not handed out",
                "set learned-entries higher in the agent's configuration",
            )
        ]

    def _find(self, endpoint_id: int) -> EndpointState:
        found = self._firewall.endpoints.get(endpoint_id)
        if found is None:
            raise NotFound(
                f"there is no endpoint {endpoint_id}", "`fqdnwall endpoint list` shows them"
            )
        return found

    def _endpoint(self, endpoint: EndpointState) -> Endpoint:
        agent = self._agent
        return views.endpoint(
            endpoint,
            self._firewall,
            agent.dns_counters(endpoint.id),
            attached=is_attached(agent.datapath, endpoint.place.ifindex),
        )

    def _proxy(self) -> ProxyStatus:
        metrics, config = self._agent.proxy.metrics, self._agent.proxy.config
        ports = self._agent.proxy.ports
        numbers = {ports.udp_ipv4, ports.tcp_ipv4, ports.udp_ipv6, ports.tcp_ipv6} - {None}
        counters = [self._agent.dns_counters(number) for number in self._firewall.endpoints]
        cache = self._firewall.learning.cache
        return ProxyStatus(
            ports=tuple(sorted(n for n in numbers if n)),
            in_flight=metrics.in_flight,
            upstream=tuple(f"{host}:{port}" for host, port in config.upstream.aliases.values()),
            dns=_total(counters),
            bounds=(
                Usage("queries in flight", metrics.in_flight, config.engine.in_flight),
                Usage("octets pending", metrics.pending_bytes, config.engine.pending_bytes),
                Usage("upstream sockets", metrics.flows, config.engine.flows),
                Usage(
                    "TCP connections",
                    metrics.connections,
                    config.tcp.connections,
                    metrics.connections_rejected,
                ),
                Usage("addresses learned", len(cache), cache.capacity, cache.evicted),
            ),
        )


def _total(counters: Sequence[DnsCounters]) -> DnsCounters:
    by_proxy: Counter[str] = Counter()
    for each in counters:
        by_proxy.update(each.by_proxy)
    return DnsCounters(
        queries=sum(each.queries for each in counters),
        allowed=sum(each.allowed for each in counters),
        refused=sum(each.refused for each in counters),
        failed=sum(each.failed for each in counters),
        by_kernel=sum(each.by_kernel for each in counters),
        by_proxy=dict(by_proxy),
    )


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _matcher(pattern: str | None) -> Callable[[str], bool]:
    if pattern is None:
        return lambda _name: True
    try:
        return pattern_selector(pattern).matches
    except InvalidName as error:
        raise Invalid(str(error), "a matchPattern, such as '*.example.com'") from error
