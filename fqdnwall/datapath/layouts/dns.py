"""DNS in the kernel: the tree of names, the queries in flight, and what is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fqdnwall.datapath.layout import (
    ADDRESS_BYTES,
    U8,
    U16,
    U32,
    U64,
    Address,
    Array,
    Be16,
    Layout,
    Octets,
)

DNS_NAME_MAX = 248
"""Octets of a name that the kernel's tree can hold: a longer one is for the proxy."""
DNS_ADDRESSES_MAX = 64
"""Of one answer; one with more is sent on truncated."""
DNS_EXCHANGE_SECONDS = 30
"""How long the answer to a query may take: later, nobody waits for it but a forger."""
DNS_EXCHANGE_PATIENCE_SECONDS = 5
"""An exchange that has waited longer makes room for another one: stub resolvers ask again."""
DNS_EXCHANGE_PLACES = 1024
"""So many queries of one endpoint may be in flight; a power of two."""
DNS_LEARNED_PLACES = 32768
"""So many (address, identity) pairs may one endpoint learn in the kernel; a power of two."""
DNS_NODE_PLACES = 524288
"""And all together, where they learn for the whole node; a power of two."""
DNS_REFUSED_TEXT = "not allowed by policy"
"""Of the Extended DNS Error in a refusal; the proxy says the same."""


@dataclass(frozen=True, slots=True)
class DnsNameKey(Layout):
    """LPM key: the ruleset, then the name backwards, a zero behind each label.

    No label holds a zero, so a prefix that ends on one ends on a label. ``prefix_length`` counts
    in bits, those of the ruleset included.
    """

    C_NAME: ClassVar[str] = "dns_name_key"
    prefix_length: U32
    ruleset: U32
    name: Annotated[bytes, Octets(DNS_NAME_MAX)]


@dataclass(frozen=True, slots=True)
class DnsPlace(Layout):
    """What holds at one place of a node: the name there, one label below, or deeper."""

    C_NAME: ClassVar[str] = "dns_place"
    action: U32  # DnsAction
    identity: U32  # FQDN identity of the answer's addresses; 0: they mean nothing to policy
    rule: U32


@dataclass(frozen=True, slots=True)
class DnsNode(Layout):
    """A node of the tree of names."""

    C_NAME: ClassVar[str] = "dns_node"
    labels: U32  # of the node's own name
    places: Annotated[tuple[DnsPlace, ...], Array(DnsPlace, 3)]


@dataclass(frozen=True, slots=True)
class PlaceKey(Layout):
    """One of the places that its owner has in a map that all share; see bpf/lib/places.h."""

    C_NAME: ClassVar[str] = "place_key"
    owner: U32  # an endpoint, or a scope
    place: U32


@dataclass(frozen=True, slots=True)
class DnsExchange(Layout):
    """A query on its way: what its answer must match, and what that answer's addresses mean."""

    C_NAME: ClassVar[str] = "dns_exchange"
    sent: U64  # boot clock, ns
    client: Address
    server: Address
    client_port: Be16
    server_port: Be16
    id: Be16
    type: U16
    identity: U32
    rule: U32
    name_size: U16  # octets of the key's name and the root's
    edns: U8  # the query carried an OPT record
    dnssec_ok: U8  # with this flag
    name: Annotated[bytes, Octets(DNS_NAME_MAX)]
    pad: U32


@dataclass(frozen=True, slots=True)
class DnsLearned(Layout):
    """An FQDN identity that an address carries, until `expires` (boot clock, ns)."""

    C_NAME: ClassVar[str] = "dns_learned"
    address: Address
    identity: U32
    endpoint: U32  # the one that learned it first
    expires: U64


@dataclass(frozen=True, slots=True)
class DnsStatsKey(Layout):
    """Whose DNS messages are counted."""

    C_NAME: ClassVar[str] = "dns_stats_key"
    endpoint: U32
    path: U32  # DnsPath


@dataclass(frozen=True, slots=True)
class DnsAddress(Layout):
    """An address of an answer."""

    C_NAME: ClassVar[str] = "dns_address"
    address: Address


@dataclass(frozen=True, slots=True)
class DnsEvent(Layout):
    """One exchange that the kernel settled; in the ring, ``addresses`` may be cut off behind 4."""

    C_NAME: ClassVar[str] = "dns_event"
    time: U64  # boot clock, ns
    latency: U64  # ns, of an answer
    client: Address
    server: Address
    endpoint: U32
    scope: U32
    identity: U32
    rule: U32
    ttl: U32  # seconds, as it was installed
    client_port: Be16
    server_port: Be16
    event: U8  # EventType.DNS, at the place of Event.type
    path: U8  # DnsPath
    qtype: U16
    rcode: U8
    count: U8  # of addresses
    name_size: U16
    name: Annotated[bytes, Octets(DNS_NAME_MAX)]
    addresses: Annotated[tuple[DnsAddress, ...], Array(DnsAddress, DNS_ADDRESSES_MAX)]


DNS_ADDRESSES_FEW = 4
DNS_EVENT_FEW_SIZE = DnsEvent.size() - ADDRESS_BYTES * (DNS_ADDRESSES_MAX - DNS_ADDRESSES_FEW)
"""Octets of a ``DnsEvent`` with so few addresses, padding included."""
