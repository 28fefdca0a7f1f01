"""Events of the monitor: what the datapath, the proxy and the agent saw, one model for all.

Type names, observation points and drop reasons are Cilium's. A field that an event's type has no
use for keeps its default, and is empty in JSON. Times are RFC 3339 text in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fqdnwall.api.models import Direction, PolicyVerdict


class EventType(StrEnum):
    DROP = "drop"
    TRACE = "trace"
    POLICY_VERDICT = "policy-verdict"
    DNS = "dns"
    AGENT = "agent"
    LOST = "lost"
    """Events that this reader did not get: ``lost`` says how many, ``message`` where."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One side of a flow. ``port`` is 0 for ICMP; ``endpoint_id`` 0 is no local endpoint."""

    address: str = ""
    port: int = 0
    identity: int = 0
    endpoint_id: int = 0
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names that the endpoint learned this address for, those still valid first."""


@dataclass(frozen=True, slots=True)
class DnsExchange:
    """One query and, where ``rcode`` is set, its response."""

    qname: str
    qtype: str
    """``A``, ``AAAA``... or ``TYPE65534`` for a type without a name."""
    rcode: str = ""
    """``NOERROR``, ``REFUSED``...; empty for a query that has no answer yet."""
    addresses: tuple[str, ...] = ()
    """What was learned, and is in the kernel's map."""
    cname_chain: tuple[str, ...] = ()
    ttl: int | None = None
    """Seconds; the least of the chain."""
    latency_seconds: float | None = None
    """From query to answer."""
    by: str = ""
    """``kernel`` or ``proxy``: who settled it."""


@dataclass(frozen=True, slots=True)
class Event:
    type: EventType
    time: str
    endpoint_id: int = 0
    endpoint_name: str = ""
    direction: Direction | None = None
    """As the endpoint sees it: egress is what it sends."""
    observation_point: str = ""
    """``from-endpoint``, ``to-endpoint``, ``to-proxy``, ``to-stack``..."""
    interface: str = ""
    protocol: str = ""
    source: Peer = field(default_factory=Peer)
    destination: Peer = field(default_factory=Peer)
    tcp_flags: str = ""
    """``SYN``, ``SYN, ACK``...: those set on the packet, or seen since the last event."""
    icmp_type: int | None = None
    icmp_code: int | None = None
    length_bytes: int = 0
    state: str = ""
    """Of the connection: ``new``, ``established``, ``reply``, ``related``."""
    verdict: PolicyVerdict | None = None
    match: str = ""
    """What the deciding entry matched on: ``L3-Only``, ``L3-L4``, ``L4-Only``, ``all``..."""
    reason: str = ""
    """Why it was dropped, in words (``Policy denied``)."""
    reason_code: int = 0
    rule: str = ""
    """The rule that decided; empty when none allowed it."""
    audited: bool = False
    """It would have been dropped, and passed because of audit mode."""
    dns: DnsExchange | None = None
    message: str = ""
    lost: int = 0


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a reader wants. Empty ``types`` means all of them."""

    types: frozenset[EventType] = frozenset()
    endpoint_id: int | None = None
    """Events at this endpoint, or from or to it."""

    def wants(self, event: Event) -> bool:
        if event.type is EventType.LOST:
            return True
        if self.types and event.type not in self.types:
            return False
        if self.endpoint_id is None:
            return True
        sides = (event.endpoint_id, event.source.endpoint_id, event.destination.endpoint_id)
        return self.endpoint_id in sides
