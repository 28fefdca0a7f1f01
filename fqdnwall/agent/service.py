"""The agent's tasks, the same for one command and for a node.

    datapath's ring ──▶ events task ──▶ broker ──▶ monitors
                              └───────▶ collector ──▶ report
    proxy ──▶ judge, installer (DnsPolicy) ──▶ Firewall ──▶ maps
       └────▶ records ──▶ broker, collector
    API ──▶ Backend ──▶ Firewall, maps, broker

Everything runs in one trio thread. A bug in a task ends the agent, and with it nothing of what is
in force: the datapath does not depend on it.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.lowlevel

from dnsproxy.config import EngineConfig, ProxyConfig, UpstreamPolicy
from dnsproxy.model import Failed, Judged, Record
from dnsproxy.proxy import Proxy
from dnsproxy.sockets import Ports
from fqdnwall.agent.clock import boot_seconds, rfc3339
from fqdnwall.agent.dns import DnsPolicy
from fqdnwall.agent.firewall import Firewall, Settings
from fqdnwall.agent.kerneldns import KernelDns, read_dns_event
from fqdnwall.agent.reporting import Collector
from fqdnwall.agent.translate import dns_event, kernel_dns_event, kernel_event
from fqdnwall.api.broker import EventBroker
from fqdnwall.api.models import DnsCounters, Problem, Severity
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import DnsPath, Event, Mark, NodeConfig
from fqdnwall.datapath.loader import Datapath
from fqdnwall.datapath.maps import Maps
from fqdnwall.netlink.tc import Hook, attach_bpf, detach_bpf

COLLECT_SECONDS = 1.0
EVENTS_SECONDS = 0.02
"""Between two readings of the ring buffer: what comes in between is read at once."""
SERVFAIL = 2
DESCRIPTORS = 16_384
EVENTS_PER_SECOND = 20_000
TRACE_INTERVAL_SECONDS = 5
DNS_EVENTS_PER_SECOND = 5_000
COLLECT_KERNEL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What kind of agent this is, and where it keeps things."""

    instance: str
    setting: str  # "run" or "agent"
    socket: Path
    settings: Settings = field(default_factory=Settings)
    kernel_dns: bool = True
    upstream: UpstreamPolicy = field(default_factory=UpstreamPolicy)
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(min_ttl_seconds=1))


REASONS = {
    DnsPath.UNDECIDED: "name to be asked about",
    DnsPath.ODD: "form",
    DnsPath.NO_TREE: "kernel path off",
    DnsPath.CROWDED: "too many in flight",
}


def _raise_descriptors() -> None:
    """The proxy's sockets, by its bounds, are more than the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Clsact:
    """``attach``'s way on kernels without tcx."""

    def attach(self, ifindex: int, from_endpoint_fd: int, to_endpoint_fd: int) -> None:
        attach_bpf(ifindex, Hook.INGRESS, from_endpoint_fd, "fqdnwall-from-endpoint")
        attach_bpf(ifindex, Hook.EGRESS, to_endpoint_fd, "fqdnwall-to-endpoint")

    def detach(self, ifindex: int) -> None:
        detach_bpf(ifindex, Hook.INGRESS)
        detach_bpf(ifindex, Hook.EGRESS)


def _refusals(datapath: Datapath) -> list[Problem]:
    return [
        Problem(
            Severity.WARNING,
            f"program {name}",
            f"this kernel refuses it, so the proxy does all DNS: {_reason(why)}",
            "docs/kernels.md lists kernels that load every program",
        )
        for name, why in datapath.refused.items()
    ]


def _reason(log: str) -> str:
    """The line of a verifier's log that says why; its statistics and the errno come after that."""
    lines = [line for line in log.splitlines() if not line.startswith(("processed ", ": "))]
    return lines[-1] if lines else log


@dataclass(slots=True)
class DnsTally:
    """Counts of one endpoint."""

    queries: int = 0
    allowed: int = 0
    refused: int = 0
    failed: int = 0

    def kernel(self, event: KernelDns) -> None:
        """What the kernel did is counted by the kernel; see ``dns_counters``."""
        self.failed += event.rcode == SERVFAIL


class Agent:
    """State and tasks. ``serve`` runs until it is cancelled."""

    def __init__(self, setup: Setup, datapath: Datapath) -> None:
        self.setup = setup
        self.datapath = datapath
        self.firewall = Firewall(Maps(datapath.maps), boot_seconds, setup.settings)
        self.broker = EventBroker()
        self.collector = Collector(self.firewall)
        self.started = boot_seconds()
        self.attach_mode = ""
        self.problems: dict[str, tuple[Problem, ...]] = {}
        """By what they are about: policy files, endpoints."""
        self.dns: dict[int, DnsTally] = {}
        policy = DnsPolicy(self.firewall)
        self.proxy = Proxy(
            judge=policy,
            installer=policy,
            endpoints=policy,
            config=ProxyConfig(
                engine=setup.engine, upstream=setup.upstream, reply_mark=Mark.FROM_PROXY
            ),
            observer=self,
        )
        self.clsact = Clsact()
        self.events_seen = 0
        self.set_problems("kernel", _refusals(datapath))

    async def serve(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
    ) -> None:
        """The proxy and the events; started when the datapath knows the proxy's sockets."""
        ring = libbpf.Ring(self.datapath.maps["events"])
        _raise_descriptors()
        gc.freeze()  # what is there by now stays: no collection needs to look at it again
        try:
            async with trio.open_nursery() as nursery:
                ports = await nursery.start(self.proxy.serve)
                self._tell_ports(ports)
                nursery.start_soon(self._events, ring)
                nursery.start_soon(self._collect)
                task_status.started()
        finally:
            ring.close()

    def record(self, event: Record) -> None:
        """The proxy's observer."""
        self._tally(event)
        self.collector.dns(event, boot_seconds())
        if self.broker.subscribers:
            translated = dns_event(event, self.firewall, rfc3339(boot_seconds()))
            if translated is not None:
                self.broker.publish(translated)

    def drain_events(self, ring: libbpf.Ring) -> None:
        """Hand on what the ring holds now."""
        for raw in ring.consume():
            self.events_seen += 1
            if len(raw) != Event.size():
                self._kernel_dns(read_dns_event(raw))
                continue
            event = Event.unpack(raw)
            self.collector.kernel(event)
            if self.broker.subscribers:
                self.broker.publish(kernel_event(event, self.firewall))

    def _kernel_dns(self, event: KernelDns) -> None:
        """An exchange that the kernel settled."""
        tally = self.dns.setdefault(event.endpoint, DnsTally())
        tally.kernel(event)
        if event.addresses:
            self.firewall.learning.learned_by_kernel(
                event.scope, event.qname, event.identity, event.addresses, event.ttl, event.at
            )
        self.collector.kernel_dns(event)
        if self.broker.subscribers:
            self.broker.publish(kernel_dns_event(event, self.firewall))

    def all_problems(self) -> tuple[Problem, ...]:
        return tuple(problem for found in self.problems.values() for problem in found)

    def dns_counters(self, endpoint_id: int) -> DnsCounters:
        """One endpoint's queries: the proxy's books and the kernel's counters together."""
        tally = self.dns.get(endpoint_id, DnsTally())
        paths = {
            path: count
            for (endpoint, path), count in self.firewall.maps.dns_counters().items()
            if endpoint == endpoint_id
        }
        allowed, refused = paths.get(DnsPath.ALLOWED, 0), paths.get(DnsPath.REFUSED, 0)
        reasons = {REASONS[path]: n for path, n in paths.items() if path in REASONS}
        tcp = tally.queries - sum(reasons.values())
        if tcp > 0:
            reasons["tcp"] = tcp
        return DnsCounters(
            queries=tally.queries + allowed + refused,
            allowed=tally.allowed + allowed,
            refused=tally.refused + refused,
            failed=tally.failed,
            by_kernel=allowed + refused,
            by_proxy=reasons,
        )

    @property
    def kernel_dns(self) -> bool:
        """Whether the kernel settles DNS: it is to, and its programs for that are loaded."""
        return self.setup.kernel_dns and not self.datapath.refused

    def set_problems(self, about: str, problems: Iterable[Problem]) -> None:
        self.problems[about] = tuple(problems)

    def _tell_ports(self, ports: Ports) -> None:
        self.firewall.maps.set_config(
            NodeConfig(
                dns_udp4=ports.udp_ipv4 or 0,
                dns_udp6=ports.udp_ipv6 or 0,
                dns_tcp4=ports.tcp_ipv4 or 0,
                dns_tcp6=ports.tcp_ipv6 or 0,
                events_per_second=EVENTS_PER_SECOND,
                trace_interval_seconds=TRACE_INTERVAL_SECONDS,
                dns_events_per_second=DNS_EVENTS_PER_SECOND,
                dns_min_ttl_seconds=self.setup.engine.min_ttl_seconds,
                dns_max_ttl_seconds=self.setup.engine.max_ttl_seconds,
                dns_enabled=int(self.kernel_dns),
                dns_refusal=self.setup.engine.refusal.value,
                pad=0,
            )
        )

    async def _events(self, ring: libbpf.Ring) -> None:
        fd = self.datapath.maps["events"]
        try:
            while True:
                await trio.lowlevel.wait_readable(fd)
                self.drain_events(ring)
                await trio.sleep(EVENTS_SECONDS)
        finally:
            self.drain_events(ring)

    async def _collect(self) -> None:
        next_kernel = trio.current_time() + COLLECT_KERNEL_SECONDS
        while True:
            await trio.sleep(COLLECT_SECONDS)
            if trio.current_time() >= next_kernel:
                next_kernel += COLLECT_KERNEL_SECONDS
                await trio.to_thread.run_sync(self.firewall.learning.collect_kernel)
            while self.firewall.learning.collect():
                await trio.lowlevel.checkpoint()

    def _tally(self, event: Record) -> None:
        if event.question is None:
            return
        tally = self.dns.setdefault(event.question.endpoint, DnsTally())
        if isinstance(event, Judged):
            tally.queries += 1
            tally.allowed += event.judgement.allowed
            tally.refused += not event.judgement.allowed
        elif isinstance(event, Failed):
            tally.failed += 1
