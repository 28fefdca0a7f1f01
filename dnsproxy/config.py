"""Bounds and choices of the proxy, parsed once by whoever constructs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from dnsproxy.model import SocketAddress


class RefusalCode(Enum):
    """What a client reads when policy refuses; values are RCODEs (RFC 1035 §4.1.1)."""

    REFUSED = 5
    NAME_ERROR = 3


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Times are seconds, sizes octets.

    `in_flight_per_question` is for one endpoint asking one server one question. Each copy in flight
    is one more pair of port and id that a forger may hit (RFC 5452 §5): 128 of them leave it one
    chance in 14 million a packet, where a pod that floods and an accomplice outside would have
    sixteen times that.

    An answer over UDP with more than `udp_addresses` goes out truncated, so that the client asks
    again over TCP; over TCP the bound is `tcp_addresses`, and beyond it the client gets SERVFAIL:
    an answer that the firewall cannot honour whole is not handed out in part.
    """

    refusal: RefusalCode = RefusalCode.REFUSED
    min_ttl_seconds: int = 0
    max_ttl_seconds: int = 86_400
    upstream_timeout_seconds: float = 10.0
    install_timeout_seconds: float = 2.0
    in_flight: int = 16384
    in_flight_per_endpoint: int = 2048
    in_flight_per_question: int = 128
    pending_bytes: int = 64 << 20
    pending_bytes_per_endpoint: int = 4 << 20
    udp_addresses: int = 64
    tcp_addresses: int = 1024
    # Upstream sockets for UDP: see `dnsproxy.flows` for what these buy.
    flows: int = 2048
    flows_per_endpoint: int = 256
    flows_per_route: int = 8
    queries_per_flow: int = 64
    flow_lifetime_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """How upstream sockets leave.

    `transparent`: bound to the client's own address, so that the server sees the client; the
    datapath must bring the answers back to the socket. A server in `aliases` is asked directly at
    the address given there, from the host's own address (a stub on loopback that the client knows
    by another address). `mark` is SO_MARK, 0 for none.
    """

    transparent: bool = True
    mark: int = 0
    aliases: Mapping[str, SocketAddress] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """Bounds on clients' TCP connections. A connection beyond them is closed at once."""

    connections: int = 1024
    connections_per_endpoint: int = 64
    pipelined: int = 64
    idle_seconds: float = 10.0
    send_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """`port` 0 takes any free port. Listeners stay on loopback unless a test says otherwise."""

    engine: EngineConfig = EngineConfig()
    upstream: UpstreamPolicy = UpstreamPolicy()
    tcp: TcpConfig = TcpConfig()
    reply_mark: int = 0
    port: int = 0
    listen_ipv4: str | None = "127.0.0.1"
    listen_ipv6: str | None = "::1"
    install_workers: int = 8
