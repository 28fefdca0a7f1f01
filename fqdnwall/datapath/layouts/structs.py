"""The structs, and the bounds that are part of their shape. Every byte of one is in a field."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, ClassVar

from fqdnwall.datapath.layout import (
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

LEARNED_SLOTS = 4


def address_bytes(address: IPv4Address | IPv6Address | str) -> bytes:
    """The 16 octets by which the maps know an address; IPv4 is mapped into IPv6."""
    parsed = ip_address(address) if isinstance(address, str) else address
    if isinstance(parsed, IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + parsed.packed
    return parsed.packed


def bytes_address(raw: bytes) -> IPv4Address | IPv6Address:
    """The reverse of :func:`address_bytes`."""
    parsed = IPv6Address(raw)
    return parsed.ipv4_mapped or parsed


@dataclass(frozen=True, slots=True)
class NodeConfig(Layout):
    """Run-time settings, entry 0 of the `config` array."""

    C_NAME: ClassVar[str] = "node_config"
    dns_udp4: Be16  # the proxy's listening ports; 0: no proxy, redirected packets drop
    dns_udp6: Be16
    dns_tcp4: Be16
    dns_tcp6: Be16
    events_per_second: U32  # for each endpoint; what is above is counted, not sent
    trace_interval_seconds: U32  # between two trace events of a flow that changes no flag
    dns_events_per_second: U32  # for each endpoint
    dns_min_ttl_seconds: U32
    dns_max_ttl_seconds: U32
    dns_enabled: U8  # 1: the kernel settles DNS itself where it can
    dns_refusal: U8  # the RCODE
    pad: U16


@dataclass(frozen=True, slots=True)
class SkBuffPlaces(Layout):
    """Where `struct sk_buff` has what bpf/lib/offload.h reads of it, in octets."""

    C_NAME: ClassVar[str] = "sk_buff_places"
    csum: U16  # of csum_start; csum_offset follows
    mac_header: U16
    ip_summed: U16
    ip_summed_shift: U8  # bits
    known: U8  # 1: the kernel has said


@dataclass(frozen=True, slots=True)
class EndpointInfo(Layout):
    """What the datapath knows of the endpoint behind an interface (key: ifindex)."""

    C_NAME: ClassVar[str] = "endpoint_info"
    id: U32
    identity: U32
    scope: U32  # under which learned addresses are looked up: the endpoint's id, or 0
    generation: U32  # of its policy and flags; conntrack entries of another one are judged anew
    flags: U32  # EndpointFlag
    bridge: U32 = 0  # ifindex of the bridge that its interface is a port of


@dataclass(frozen=True, slots=True)
class EndpointAddress(Layout):
    """An address that an endpoint may send from."""

    C_NAME: ClassVar[str] = "endpoint_address"
    endpoint: U32
    address: Address


@dataclass(frozen=True, slots=True)
class IpcacheKey(Layout):
    """LPM key; `prefix_length` counts in the mapped 128 bits (96 + n for IPv4)."""

    C_NAME: ClassVar[str] = "ipcache_key"
    prefix_length: U32
    address: Address


@dataclass(frozen=True, slots=True)
class IpcacheValue(Layout):
    """Whose address it is."""

    C_NAME: ClassVar[str] = "ipcache_value"
    identity: U32
    flags: U32
    tunnel: Address


@dataclass(frozen=True, slots=True)
class LearnedKey(Layout):
    """An address that a name resolved to, in the scope that asked."""

    C_NAME: ClassVar[str] = "learned_key"
    scope: U32
    address: Address


@dataclass(frozen=True, slots=True)
class LearnedSlot(Layout):
    """One FQDN identity that an address carries, until `expires` (boot clock, ns)."""

    C_NAME: ClassVar[str] = "learned_slot"
    identity: U32
    pad: U32
    expires: U64


@dataclass(frozen=True, slots=True)
class LearnedValue(Layout):
    """The FQDN identities of an address; identity 0 is an empty slot."""

    C_NAME: ClassVar[str] = "learned_value"
    slots: Annotated[tuple[LearnedSlot, ...], Array(LearnedSlot, LEARNED_SLOTS)]


@dataclass(frozen=True, slots=True)
class PolicyKey(Layout):
    """LPM key: identity and direction always count, then the protocol, then the port's bits.

    The order makes the longest prefix the most specific layer-4 match: 40 bits are an entry
    for any protocol, 48 one for any port, 49 to 64 a port range or a port.
    """

    C_NAME: ClassVar[str] = "policy_key"
    prefix_length: U32
    identity: U32
    direction: U8
    protocol: U8
    port: Be16


@dataclass(frozen=True, slots=True)
class PolicyValue(Layout):
    """What the entry says and which rule said it."""

    C_NAME: ClassVar[str] = "policy_value"
    precedence: U32
    rule: U32
    ruleset: U32  # of DNS; 0: the proxy judges alone
    verdict: U8
    l4_prefix: U8  # bits of protocol and port that count, 0..24
    pad: U16


@dataclass(frozen=True, slots=True)
class CtKey(Layout):
    """A flow of an endpoint, the same for both of its directions."""

    C_NAME: ClassVar[str] = "ct_key"
    local: Address
    remote: Address
    local_port: Be16  # ICMP echo: the identifier
    remote_port: Be16  # ICMP: the type that opened the flow
    endpoint: U32
    protocol: U8
    icmp_initiator: U8  # ICMP: 1 the endpoint asks, 2 the peer asks, so that neither answers itself
    pad: U16


@dataclass(frozen=True, slots=True)
class CtValue(Layout):
    """The state of a flow; times in ns of the boot clock."""

    C_NAME: ClassVar[str] = "ct_value"
    expires: U64
    created: U64
    tx_packets: U64
    tx_bytes: U64
    rx_packets: U64
    rx_bytes: U64
    generation: U32
    identity: U32  # of the peer, the one that the verdict was found for
    rule: U32
    last_event: U32  # seconds of the boot clock
    flags: U32  # CtFlag
    tx_tcp_flags: U8
    rx_tcp_flags: U8
    pad: U16
    ruleset: U32
    pad2: U32


@dataclass(frozen=True, slots=True)
class FragmentKey(Layout):
    """A datagram in fragments."""

    C_NAME: ClassVar[str] = "fragment_key"
    source: Address
    destination: Address
    endpoint: U32
    id: U32
    protocol: U8  # 44 for IPv6, where the number alone tells datagrams apart
    pad1: U8
    pad2: U16


@dataclass(frozen=True, slots=True)
class FragmentValue(Layout):
    """What its first fragment carried of layer 4."""

    C_NAME: ClassVar[str] = "fragment_value"
    source_port: Be16
    destination_port: Be16
    headers: U16  # octets of the datagram that its headers fill, in which no later one may write
    protocol: U8
    icmp_type: U8
    icmp_code: U8
    pad: U8


@dataclass(frozen=True, slots=True)
class RuleKey(Layout):
    """Whose verdicts `rule_stats` counts."""

    C_NAME: ClassVar[str] = "rule_key"
    endpoint: U32
    rule: U32


@dataclass(frozen=True, slots=True)
class Counter(Layout):
    """Packets and bytes, on one CPU."""

    C_NAME: ClassVar[str] = "counter"
    packets: U64
    bytes: U64


@dataclass(frozen=True, slots=True)
class EventBudget(Layout):
    """How many events an endpoint has sent in the second `second`."""

    C_NAME: ClassVar[str] = "event_budget"
    second: U32
    sent: U32
    suppressed: U64


@dataclass(frozen=True, slots=True)
class Event(Layout):
    """One record of the ring buffer."""

    C_NAME: ClassVar[str] = "event"
    time: U64  # boot clock, ns
    local: Address
    remote: Address
    endpoint: U32
    local_identity: U32
    remote_identity: U32
    rule: U32
    ifindex: U32
    length: U32
    local_port: Be16
    remote_port: Be16
    type: U8  # EventType
    reason: U8  # DropReason of a drop, CtState of a trace, Verdict of a policy verdict
    direction: U8  # of the flow: 0 ingress, 1 egress
    from_endpoint: U8  # 1: the packet left the endpoint
    protocol: U8
    tcp_flags: U8
    icmp_type: U8
    icmp_code: U8
    audited: U8
    pad1: U8
    pad2: U16


ENDPOINT_SLOTS = 4096
"""So many endpoints have packet counters of their own: number modulo this, four counters each."""
IDENTITY_RECORD_BYTES = 2048
ENDPOINT_RECORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class IdentityRecord(Layout):
    """Which labels an identity stands for (JSON). The kernel never reads it."""

    C_NAME: ClassVar[str] = "identity_record"
    json: Annotated[bytes, Octets(IDENTITY_RECORD_BYTES)]


@dataclass(frozen=True, slots=True)
class EndpointRecord(Layout):
    """What the agent needs to take an endpoint over again (JSON). The kernel never reads it."""

    C_NAME: ClassVar[str] = "endpoint_record"
    json: Annotated[bytes, Octets(ENDPOINT_RECORD_BYTES)]
