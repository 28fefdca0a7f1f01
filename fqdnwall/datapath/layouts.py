"""Every struct, number and name that crosses the kernel boundary, defined once.

``bpf/lib/layouts.h`` is generated from this module (``python -m fqdnwall.datapath.layouts``)
and checked in; a test fails when the two differ, and the loader compares the sizes with what
bcc derived from the C. Numbers that people know from Cilium (drop reasons, event types,
conntrack flags) keep Cilium's values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
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

HEADER = Path(__file__).parents[2] / "bpf" / "lib" / "layouts.h"
LEARNED_SLOTS = 4
DNS_NAME_MAX = 248
"""Octets of a name that the kernel's tree can hold: a longer one is for the proxy."""
DNS_ADDRESSES_MAX = 64
"""Of one answer; one with more is sent on truncated."""
DNS_EXCHANGE_SECONDS = 30
"""How long the answer to a query may take: later, nobody waits for it but a forger."""
DNS_REFUSED_TEXT = "not allowed by policy"
"""Of the Extended DNS Error in a refusal; the proxy says the same."""


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


class Mark(IntEnum):
    """Values of ``skb->mark`` under ``Mark.MASK``; a namespace change clears them."""

    TO_PROXY = 0x0200  # deliver locally: policy routing sends it to a socket that BPF assigned
    FROM_PROXY = 0x0B00  # the proxy's own packets to a client
    UPSTREAM = 0x0A00  # an upstream's answer, on its way back to the proxy's socket
    MASK = 0x0F00


class EndpointFlag(IntFlag):
    """What holds for one endpoint."""

    ENFORCE_INGRESS = 1
    ENFORCE_EGRESS = 2
    AUDIT = 4


class IpcacheFlag(IntFlag):
    """What is special about an address."""

    STUB = 1  # stands for a resolver that only the host itself can reach


class CtFlag(IntFlag):
    """State bits of a conntrack entry."""

    INGRESS = 1  # opened by the peer
    LOCAL_CLOSING = 2
    REMOTE_CLOSING = 4
    SEEN_NON_SYN = 8
    PROXY = 16  # redirected to the DNS proxy
    AUDITED = 32  # passes only because of audit mode
    LEARNED = 64  # allowed by a learned address: `identity` outlives its TTL
    DENIED = 128  # was allowed until policy changed


class Verdict(IntEnum):
    """What a policy entry says."""

    ALLOW = 0
    DENY = 1
    REDIRECT = 2


class EventType(IntEnum):
    """The kind of a ring buffer record."""

    DROP = 1
    TRACE = 4
    POLICY_VERDICT = 5
    DNS = 16


class DnsAction(IntEnum):
    """What holds for a name at its place in the tree."""

    ALLOW = 1
    REFUSE = 2
    ASK = 3


class DnsPath(IntEnum):
    """What became of a DNS message: the index of its counter, and of its event."""

    ALLOWED = 0  # queries that the kernel settled
    REFUSED = 1
    UNDECIDED = 2  # queries for the proxy: the name is to be asked about
    ODD = 3  # not of a form that the kernel reads
    NO_TREE = 4  # the kernel path is off, or has no tree for these rules
    ANSWERED = 5  # answers
    TRUNCATED = 6  # too much, or of an odd form: the client asks again over TCP
    UNMATCHED = 7  # answers to no query; they are dropped


class CtState(IntEnum):
    """What conntrack made of a packet."""

    NEW = 0
    ESTABLISHED = 1
    REPLY = 2
    RELATED = 3
    CLOSED = 4  # of an event: the last flag that ends the connection was seen


class DropReason(IntEnum):
    """Why a packet was dropped: Cilium's numbers; the text is what `monitor` prints."""

    INVALID_SOURCE_IP = 132
    POLICY_DENIED = 133
    INVALID_PACKET = 134
    CT_INVALID_HEADER = 135
    UNKNOWN_L3 = 139
    MISSED_TAIL_CALL = 140
    CT_CREATE_FAILED = 155
    INVALID_EXTENSION_HEADER = 156
    FRAGMENT_NOT_SUPPORTED = 157
    UNSUPPORTED_L2 = 166
    FRAGMENT_NOT_FOUND = 175
    FORBIDDEN_ICMP6 = 176
    PROXY_LOOKUP_FAILED = 178
    PROXY_SET_FAILED = 179
    PROXY_UNKNOWN_PROTOCOL = 180
    POLICY_DENY = 181
    VLAN_FILTERED = 182
    ENDPOINT_NOT_READY = 203
    PROXY_SPOOFED = 210

    @property
    def text(self) -> str:
        return DROP_TEXT[self]


DROP_TEXT: dict[DropReason, str] = {
    DropReason.INVALID_SOURCE_IP: "Invalid source ip",
    DropReason.POLICY_DENIED: "Policy denied",
    DropReason.INVALID_PACKET: "Invalid packet",
    DropReason.CT_INVALID_HEADER: "CT: Truncated or invalid header",
    DropReason.UNKNOWN_L3: "Unsupported L3 protocol",
    DropReason.MISSED_TAIL_CALL: "Missed tail call",
    DropReason.CT_CREATE_FAILED: "CT: Map insertion failed",
    DropReason.INVALID_EXTENSION_HEADER: "Invalid IPv6 extension header",
    DropReason.FRAGMENT_NOT_SUPPORTED: "IP fragmentation not supported",
    DropReason.UNSUPPORTED_L2: "Unsupported L2 protocol",
    DropReason.FRAGMENT_NOT_FOUND: "First logical datagram fragment not found",
    DropReason.FORBIDDEN_ICMP6: "Forbidden ICMPv6 message",
    DropReason.PROXY_LOOKUP_FAILED: "Failed to find the proxy's socket",
    DropReason.PROXY_SET_FAILED: "Failed to assign the proxy's socket",
    DropReason.PROXY_UNKNOWN_PROTOCOL: "Unknown protocol for the proxy",
    DropReason.POLICY_DENY: "Policy denied by denylist",
    DropReason.VLAN_FILTERED: "VLAN traffic disallowed by VLAN filter",
    DropReason.ENDPOINT_NOT_READY: "Endpoint is not ready",
    DropReason.PROXY_SPOOFED: "Not from the proxy that this flow goes through",
}


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
    dns_enabled: U8  # 1: the kernel settles DNS itself where it can
    dns_refusal: U8  # the RCODE
    pad: U16


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
class DnsExchangeKey(Layout):
    """A query on its way, by all that its answer must match but the question."""

    C_NAME: ClassVar[str] = "dns_exchange_key"
    client: Address
    server: Address
    client_port: Be16
    server_port: Be16
    endpoint: U32
    id: Be16
    pad: U16


@dataclass(frozen=True, slots=True)
class DnsExchange(Layout):
    """The question, and what its answer's addresses will mean."""

    C_NAME: ClassVar[str] = "dns_exchange"
    sent: U64  # boot clock, ns
    identity: U32
    rule: U32
    type: U16
    name_size: U16  # octets of the key's name and the root's
    edns: U8  # the query carried an OPT record
    dnssec_ok: U8  # with this flag
    pad: U16
    name: Annotated[bytes, Octets(DNS_NAME_MAX)]


@dataclass(frozen=True, slots=True)
class DnsStatsKey(Layout):
    """Whose DNS messages are counted."""

    C_NAME: ClassVar[str] = "dns_stats_key"
    endpoint: U32
    path: U32  # DnsPath


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


class MapType(IntEnum):
    """BPF map types that we use, by the kernel's numbers."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    HASH_OF_MAPS = 13
    RINGBUF = 27

    @property
    def c_name(self) -> str:
        return self.name.lower()

    @property
    def per_cpu(self) -> bool:
        return self in (MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


NO_PREALLOC = 1  # BPF_F_NO_PREALLOC


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map: what the kernel is asked for, and what bcc compiles against.

    ``key`` and ``value`` are a ``Layout`` or the name of a C scalar; ``default`` is the largest
    number of entries (bytes, for a ring buffer) unless the configuration says otherwise.
    """

    name: str
    kind: MapType
    key: type[Layout] | str
    value: type[Layout] | str
    default: int
    flags: int = 0

    @property
    def key_size(self) -> int:
        return 0 if self.kind is MapType.RINGBUF else _size(self.key)

    @property
    def value_size(self) -> int:
        return 0 if self.kind is MapType.RINGBUF else _size(self.value)

    def c(self) -> str:
        key, value = _c_type(self.key), _c_type(self.value)
        if self.kind is MapType.HASH_OF_MAPS:
            return f'BPF_TABLE("hash_of_maps${POLICY_SHAPE.name}", {key}, int, {self.name}, 1);'
        if self.kind is MapType.RINGBUF:
            return f"BPF_RINGBUF_OUTPUT({self.name}, 1);"
        entries = self.default if self.kind in (MapType.ARRAY, MapType.PERCPU_ARRAY) else 1
        return (
            f'BPF_F_TABLE("{self.kind.c_name}", {key}, {value}, {self.name}, {entries}, '
            f"{self.flags});"
        )


SCALAR_SIZES = {"u8": 1, "u32": 4, "u64": 8}


def _size(of: type[Layout] | str) -> int:
    return SCALAR_SIZES[of] if isinstance(of, str) else of.size()


def _c_type(of: type[Layout] | str) -> str:
    return of if isinstance(of, str) else f"struct {of.C_NAME}"


POLICY_SHAPE = MapSpec("policy_shape", MapType.LPM_TRIE, PolicyKey, PolicyValue, 16384, NO_PREALLOC)
"""What every policy's own map looks like."""

MAPS: tuple[MapSpec, ...] = (
    MapSpec("config", MapType.ARRAY, "u32", NodeConfig, 1),
    MapSpec("endpoints", MapType.HASH, "u32", EndpointInfo, 4096),
    MapSpec("endpoint_ips", MapType.HASH, EndpointAddress, "u8", 16384),
    MapSpec("ipcache", MapType.LPM_TRIE, IpcacheKey, IpcacheValue, 512000, NO_PREALLOC),
    MapSpec("learned", MapType.HASH, LearnedKey, LearnedValue, 524288, NO_PREALLOC),
    MapSpec("conntrack", MapType.LRU_HASH, CtKey, CtValue, 131072),
    MapSpec("fragments", MapType.LRU_HASH, FragmentKey, FragmentValue, 8192),
    MapSpec("rule_stats", MapType.LRU_PERCPU_HASH, RuleKey, Counter, 16384),
    MapSpec("drop_stats", MapType.PERCPU_ARRAY, "u32", Counter, 512),
    MapSpec("endpoint_stats", MapType.PERCPU_ARRAY, "u32", Counter, 4 * ENDPOINT_SLOTS),
    MapSpec("budgets", MapType.LRU_HASH, "u32", EventBudget, 4096),
    MapSpec("events_lost", MapType.PERCPU_ARRAY, "u32", "u64", 1),
    MapSpec("events", MapType.RINGBUF, "u32", "u32", 1 << 20),
    MapSpec("answers", MapType.HASH, LearnedKey, LearnedValue, 524288, NO_PREALLOC),
    MapSpec("dns_names", MapType.LPM_TRIE, DnsNameKey, DnsNode, 65536, NO_PREALLOC),
    MapSpec("dns_exchanges", MapType.LRU_HASH, DnsExchangeKey, DnsExchange, 16384),
    MapSpec("dns_stats", MapType.LRU_PERCPU_HASH, DnsStatsKey, "u64", 16384),
    MapSpec("dns_budgets", MapType.LRU_HASH, "u32", EventBudget, 4096),
    MapSpec("identities", MapType.HASH, "u32", IdentityRecord, 65536, NO_PREALLOC),
    MapSpec("records", MapType.HASH, "u32", EndpointRecord, 4096, NO_PREALLOC),
    MapSpec("policies", MapType.HASH_OF_MAPS, "u32", "u32", 4096),
)

TAIL_CALLS = {"dns_query": 0, "dns_answer": 1, "dns_records": 2, "dns_learn": 3, "dns_error": 4}
"""Index in the programs' own `calls` array."""
CALLS = "calls"
PROGRAMS = ("from_endpoint", "to_endpoint", *TAIL_CALLS)

STRUCTS: tuple[type[Layout], ...] = (
    NodeConfig,
    EndpointInfo,
    EndpointAddress,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    PolicyKey,
    PolicyValue,
    CtKey,
    CtValue,
    FragmentKey,
    FragmentValue,
    RuleKey,
    Counter,
    EventBudget,
    Event,
    DnsNameKey,
    DnsPlace,
    DnsNode,
    DnsExchangeKey,
    DnsExchange,
    DnsStatsKey,
    DnsAddress,
    DnsEvent,
    IdentityRecord,
    EndpointRecord,
)
ENUMS: tuple[tuple[str, type[IntEnum] | type[IntFlag]], ...] = (
    ("MARK", Mark),
    ("EP", EndpointFlag),
    ("IPCACHE", IpcacheFlag),
    ("CT", CtFlag),
    ("VERDICT", Verdict),
    ("EVENT", EventType),
    ("CT_STATE", CtState),
    ("DROP", DropReason),
    ("DNS", DnsAction),
    ("DNS_PATH", DnsPath),
)


def header() -> str:
    """The text of ``bpf/lib/layouts.h``."""
    parts = [
        "/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */",
        "/* Generated by `python -m fqdnwall.datapath.layouts`: change that module instead. */",
        "#ifndef FQDNWALL_LAYOUTS_H",
        "#define FQDNWALL_LAYOUTS_H",
        "",
        f"#define LEARNED_SLOTS {LEARNED_SLOTS}",
        f"#define DNS_NAME_MAX {DNS_NAME_MAX}",
        f"#define DNS_ADDRESSES_MAX {DNS_ADDRESSES_MAX}",
        f"#define DNS_ADDRESSES_FEW {DNS_ADDRESSES_FEW}",
        f"#define DNS_EVENT_FEW_SIZE {DNS_EVENT_FEW_SIZE}",
        f"#define ENDPOINT_SLOTS {ENDPOINT_SLOTS}",
        f"#define DNS_EXCHANGE_SECONDS {DNS_EXCHANGE_SECONDS}",
        f'#define DNS_REFUSED_TEXT "{DNS_REFUSED_TEXT}"',
        *(f"#define CALL_{name.upper()} {index}" for name, index in TAIL_CALLS.items()),
        "",
        "/* An IPv6 address in network order; IPv4 as ::ffff:a.b.c.d. */",
        "struct address {\n\tu32 word[4];\n};\n",
    ]
    for prefix, enum in ENUMS:
        lines = ",\n".join(f"\t{prefix}_{member.name} = {member.value:#x}" for member in enum)
        parts.append(f"enum {{\n{lines},\n}};\n")
    parts += [layout.c() for layout in STRUCTS]
    parts.append(
        "/* The maps. Sizes here are the least that compile: the loader makes the real ones. */"
    )
    parts += [spec.c() for spec in (POLICY_SHAPE, *MAPS)]
    parts.append(f"BPF_PROG_ARRAY({CALLS}, {len(TAIL_CALLS)});")
    parts += ["", "#endif"]
    return "\n".join(parts) + "\n"


def main() -> None:
    HEADER.parent.mkdir(parents=True, exist_ok=True)
    HEADER.write_text(header())


if __name__ == "__main__":
    main()
