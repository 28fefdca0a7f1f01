"""The closed sets of numbers: marks, flags, verdicts, paths and reasons.

Numbers that people know from Cilium (drop reasons, event types, conntrack flags) keep Cilium's
values.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


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
    CROWDED = 8  # queries for the proxy: the endpoint has as many in flight as it may


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
