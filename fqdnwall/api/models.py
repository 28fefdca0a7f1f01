"""What the agent tells about its state: the models of the API's answers, and its one request body.

All are frozen, slotted dataclasses that ``codec`` writes as JSON. Addresses and prefixes are text
in their shortest form, times are RFC 3339 text in UTC, durations are seconds, labels are
``source:key=value``, protocols are upper-case names (``TCP``), identities are numbers as in
``policies.identity``. ``None`` means not known or not counted, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Enforcement(StrEnum):
    """Whether policy is enforced on one direction of an endpoint; words as in cilium-dbg."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    AUDIT = "Disabled (Audit)"


class EndpointState(StrEnum):
    """An endpoint's life, words as in Cilium (only those that we use)."""

    WAITING_FOR_IDENTITY = "waiting-for-identity"
    REGENERATING = "regenerating"
    READY = "ready"
    NOT_READY = "not-ready"
    RESTORING = "restoring"
    DISCONNECTING = "disconnecting"


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


class PolicyVerdict(StrEnum):
    """What an entry of the policy map, or the datapath for one flow, decides."""

    ALLOW = "allow"
    DENY = "deny"
    REDIRECT = "redirect"
    AUDIT = "audit"


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class FqdnSource(StrEnum):
    """How an address of a name came to be known, or why it is still held."""

    LOOKUP = "lookup"
    CONNECTION = "connection"
    KERNEL = "kernel"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person has to see to, such as a policy file that is not valid."""

    severity: Severity
    subject: str
    """What it is about: a file, an endpoint, a map."""
    message: str
    hint: str = ""
    """What to do about it, in one line."""


@dataclass(frozen=True, slots=True)
class Traffic:
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """A bounded thing: how full it is, and what happened when it was full."""

    name: str
    used: int
    limit: int
    rejected: int = 0
    """How often something was refused because the bound was reached."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """One BPF map. ``entries`` is ``None`` where counting would mean walking a large map."""

    name: str
    id: int
    type: str
    """The kernel's word: ``hash``, ``lru_hash``, ``lpm_trie``, ``ringbuf``..."""
    key_bytes: int
    value_bytes: int
    max_entries: int
    entries: int | None = None
    memory_bytes: int | None = None
    pinned: str = ""


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """One loaded BPF program. Run counters are ``None`` unless kernel.bpf_stats_enabled is 1."""

    name: str
    id: int
    type: str
    """The kernel's word: ``sched_cls``..."""
    tag: str
    interface: str = ""
    hook: str = ""
    """``ingress`` or ``egress`` of the interface, with the attach mode: ``ingress (tcx)``."""
    instructions: int | None = None
    """After the verifier's rewriting (xlated)."""
    verified_instructions: int | None = None
    """Those that the verifier walked; kernel 5.16 and later."""
    jited_bytes: int | None = None
    memory_bytes: int | None = None
    run_count: int | None = None
    run_nanoseconds: int | None = None
    loaded_at: str = ""
    pinned: str = ""


@dataclass(frozen=True, slots=True)
class DnsCounters:
    """The queries of one endpoint, or of the whole agent, since its start."""

    queries: int = 0
    allowed: int = 0
    refused: int = 0
    failed: int = 0
    """Answered with SERVFAIL, or not at all, for want of an answer from upstream."""
    by_kernel: int = 0
    """How many of the queries the kernel settled alone."""
    by_proxy: Mapping[str, int] = field(default_factory=dict)
    """How many came to the proxy, by reason (``tcp``, ``pattern``, ``kernel path off``...)."""


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    ports: tuple[int, ...] = ()
    """The loopback port of the proxy; more than one only if the sockets could not share it."""
    in_flight: int = 0
    upstream: tuple[str, ...] = ()
    """Resolvers that the proxy asks itself, where it is not transparent to the server."""
    dns: DnsCounters = field(default_factory=DnsCounters)
    bounds: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class EventsStatus:
    seen: int = 0
    lost_kernel: int = 0
    """Events that did not fit into the ring buffer."""
    lost_subscribers: int = 0
    """Events that readers of the monitor were too slow for, all readers together."""
    subscribers: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """The agent in one look. ``setting`` is ``run`` or ``agent``."""

    version: str
    instance: str
    setting: str
    pid: int
    socket: str
    started_at: str
    uptime_seconds: float
    kernel: str
    attach_mode: str
    """``tcx`` or ``clsact``."""
    policy_revision: int
    endpoints: int
    identities: int
    policies: int
    memory_rss_bytes: int
    audit: bool = False
    maps: tuple[MapInfo, ...] = ()
    proxy: ProxyStatus = field(default_factory=ProxyStatus)
    events: EventsStatus = field(default_factory=EventsStatus)
    problems: tuple[Problem, ...] = ()
    kernel_features: Mapping[str, bool] = field(default_factory=dict)
    """What the running kernel offers (``tcx``, ``kernel dns``...); false: done without it."""


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """Packets at the endpoint's interface. Egress is what the endpoint sends."""

    egress_forwarded: Traffic = field(default_factory=Traffic)
    egress_dropped: Traffic = field(default_factory=Traffic)
    ingress_forwarded: Traffic = field(default_factory=Traffic)
    ingress_dropped: Traffic = field(default_factory=Traffic)


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: int
    name: str
    namespace: str
    labels: tuple[str, ...]
    identity: int
    state: EndpointState
    interface: str
    """The host's side of the veth pair."""
    addresses: tuple[str, ...]
    ingress: Enforcement
    egress: Enforcement
    policy_revision: int = 0
    policies: tuple[str, ...] = ()
    """Those that select it, as ``kind/namespace/name`` or ``kind/name``."""
    netns: str = ""
    """A path of its network namespace, where one is known."""
    counters: EndpointCounters = field(default_factory=EndpointCounters)
    dns: DnsCounters = field(default_factory=DnsCounters)
    message: str = ""
    """Why the state is what it is, when it is not ``ready``."""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What to put under guard: exactly one of ``netns``, ``pid`` and ``interface``.

    ``netns`` is an absolute path; ``pid`` is a process of the agent's own PID namespace;
    ``interface`` is the host's side of a veth pair. Raises ValueError.
    """

    netns: str | None = None
    pid: int | None = None
    interface: str | None = None
    name: str = ""
    namespace: str = "default"
    labels: tuple[str, ...] = ()
    """``key=value``, ``key`` or ``source:key=value``."""

    def __post_init__(self) -> None:
        given = [what for what in (self.netns, self.pid, self.interface) if what is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of netns, pid and interface")
        if self.netns is not None and not self.netns.startswith("/"):
            raise ValueError(f"netns {self.netns!r} is not an absolute path")
        if self.pid is not None and self.pid <= 0:
            raise ValueError(f"pid {self.pid} is not a process id")
        if self.interface is not None and not 0 < len(self.interface) <= 15:
            raise ValueError(f"interface {self.interface!r} is not an interface's name")
        if not self.namespace:
            raise ValueError("namespace is empty")


@dataclass(frozen=True, slots=True)
class IdentityEntry:
    id: int
    labels: tuple[str, ...]
    endpoints: int = 0
    """How many local endpoints have it."""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """One policy as it is in force. ``document`` is its YAML."""

    kind: str
    name: str
    namespace: str
    """Empty for a policy of the whole cluster."""
    source: str
    """``file:line``, or how else it came."""
    rules: int
    revision: int = 0
    endpoints: tuple[int, ...] = ()
    """Local endpoints that it selects."""
    document: str = ""


@dataclass(frozen=True, slots=True)
class PolicyMapEntry:
    """One entry of an endpoint's policy map, in words. Identity 0 is any, port 0 is any."""

    endpoint_id: int
    verdict: PolicyVerdict
    direction: Direction
    identity: int
    labels: tuple[str, ...]
    protocol: str
    """``ANY`` or an IANA name; with ICMP the port is the type."""
    port: int
    end_port: int
    """Equal to ``port`` unless the entry covers a range."""
    precedence: int
    prefix: int = 0
    """How many bits of protocol and port the entry matches on: 0 to 24."""
    proxy_port: int = 0
    l7: str = ""
    """``dns`` or ``http`` where the flow is redirected."""
    rule: str = ""
    """The rule that the entry comes from: ``namespace/name spec.egress[0]``."""
    packets: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FqdnCacheEntry:
    """Addresses that an endpoint learned for a name. JSON keys as cilium-dbg writes them."""

    endpoint_id: int = field(metadata={"json": "endpoint-id"})
    source: FqdnSource
    fqdn: str
    ttl: int
    """Seconds, as answered (or the configured minimum)."""
    lookup_time: str = field(metadata={"json": "lookup-time"})
    expiration_time: str = field(metadata={"json": "expiration-time"})
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NameAddresses:
    name: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FqdnName:
    """A selector of some policy in force, and what it stands for now."""

    selector: str
    kind: str
    """``matchName`` or ``matchPattern``."""
    identities: tuple[int, ...]
    names: tuple[NameAddresses, ...] = ()


@dataclass(frozen=True, slots=True)
class CtEntry:
    """One connection of conntrack, seen from the endpoint."""

    endpoint_id: int
    protocol: str
    direction: str
    """``OUT`` (the endpoint opened it) or ``IN``; as cilium-dbg."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    state: str
    """``new``, ``established``, ``closing``... the datapath's word."""
    remaining_seconds: float
    expires: int = 0
    """Boot-clock seconds, as the map holds it."""
    related: bool = False
    packets: int = 0
    bytes: int = 0
    reply_packets: int = 0
    reply_bytes: int = 0
    rx_flags_seen: int = 0
    tx_flags_seen: int = 0
    flags: int = 0
    flag_names: tuple[str, ...] = ()
    identity: int = 0
    """The peer's, as it was judged."""
    policy_generation: int = 0
    rule: str = ""


@dataclass(frozen=True, slots=True)
class IpcacheEntry:
    prefix: str
    identity: int
    labels: tuple[str, ...] = ()
    tunnel_endpoint: str = ""
    encrypt_key: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LearnedEntry:
    """One slot of the learned map: this address stands for these selectors until then."""

    endpoint_id: int
    """0 where the learning scope is the node."""
    address: str
    identity: int
    selectors: tuple[str, ...]
    expires_at: str
    remaining_seconds: float
    """Negative once expired: such a slot opens nothing, and waits to be collected."""
    names: tuple[str, ...] = ()
