"""Every socket that the proxy opens, with its options (ip(7), ipv6(7), raw(7)).

Listeners are bound to loopback and transparent: packets for any server reach them by
`bpf_sk_assign`. They never share their port (no SO_REUSEPORT): kernels before 6.6 cannot assign
to a group.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from dnsproxy.config import UpstreamPolicy
from dnsproxy.model import DnsProxyError, SocketAddress, Transport

# Linux numbers that the socket module of Python 3.11 does not name.
_IP_RECVERR: Final = 11
_IP_TRANSPARENT: Final = 19
_IP_RECVORIGDSTADDR: Final = 20
_IPV6_RECVERR: Final = 25
_IPV6_HDRINCL: Final = 36
_IPV6_RECVORIGDSTADDR: Final = 74
_IPV6_TRANSPARENT: Final = 75
_SO_RCVBUFFORCE: Final = 33
_SO_RXQ_OVFL: Final = 40
_LISTENER_BUFFER_OCTETS: Final = 4 << 20
_PORT_ATTEMPTS: Final = 32

ORIGINAL_DESTINATION: Final = {
    (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR),
    (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR),
}
QUEUE_OVERFLOW: Final = (socket.SOL_SOCKET, _SO_RXQ_OVFL)


class ListenError(DnsProxyError):
    """No listener could be bound."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the listeners are; None where the host lacks the address family."""

    udp_ipv4: int | None
    tcp_ipv4: int | None
    udp_ipv6: int | None
    tcp_ipv6: int | None


@dataclass(frozen=True, slots=True)
class Listeners:
    udp: tuple[socket.socket, ...]
    tcp: tuple[socket.socket, ...]
    ports: Ports

    def close(self) -> None:
        for sock in (*self.udp, *self.tcp):
            sock.close()


def open_listeners(ipv4: str | None, ipv6: str | None, port: int) -> Listeners:
    """Bind UDP and TCP for both families, on one port number if at all possible.

    An address of None, or a family that the host does not have, is left out. Raises `ListenError`.
    """
    for attempt in range(_PORT_ATTEMPTS):
        try:
            return _open_all(ipv4, ipv6, port, same=port == 0 and attempt < _PORT_ATTEMPTS - 1)
        except OSError as error:
            if port != 0:
                raise ListenError(f"cannot listen on port {port}: {error}") from error
            last = error
    raise ListenError(f"cannot listen on any port: {last}") from last


def _open_all(ipv4: str | None, ipv6: str | None, port: int, same: bool) -> Listeners:
    opened: dict[tuple[int, int], socket.socket] = {}
    try:
        for family, host in ((socket.AF_INET, ipv4), (socket.AF_INET6, ipv6)):
            if host is None or not _has_family(family, host):
                continue
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = _listener(family, kind, (host, port))
                opened[family, kind] = sock
                port = sock.getsockname()[1] if same else port
    except OSError:
        for sock in opened.values():
            sock.close()
        raise
    if not opened:
        raise ListenError("neither IPv4 nor IPv6 can be listened on")

    def bound(family: int, kind: int) -> int | None:
        sock = opened.get((family, kind))
        return None if sock is None else int(sock.getsockname()[1])

    return Listeners(
        udp=tuple(s for (_, kind), s in opened.items() if kind == socket.SOCK_DGRAM),
        tcp=tuple(s for (_, kind), s in opened.items() if kind == socket.SOCK_STREAM),
        ports=Ports(
            bound(socket.AF_INET, socket.SOCK_DGRAM),
            bound(socket.AF_INET, socket.SOCK_STREAM),
            bound(socket.AF_INET6, socket.SOCK_DGRAM),
            bound(socket.AF_INET6, socket.SOCK_STREAM),
        ),
    )


def _has_family(family: int, host: str) -> bool:
    """Whether the address can be bound at all; a port that is taken is another matter."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _listener(family: int, kind: int, address: SocketAddress) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        _set_transparent(sock, family)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR)
                if family == socket.AF_INET6
                else (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR)
            )
            sock.setsockopt(level, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _LISTENER_BUFFER_OCTETS)
            sock.bind(address)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def original_destination(control: bytes) -> SocketAddress:
    """The server that a datagram was for, from the control message's sockaddr_in or _in6."""
    family = struct.unpack_from("=H", control)[0]
    port = struct.unpack_from("!H", control, 2)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, control[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, control[8:24]), port


def upstream_socket(
    policy: UpstreamPolicy, transport: Transport, client: SocketAddress, server: SocketAddress
) -> tuple[socket.socket, SocketAddress]:
    """A non-blocking socket, bound but not connected, and the address to connect it to.

    The port is the kernel's random choice. ICMP errors are asked for in full (IP_RECVERR), so that
    an unreachable server is a failure at once. Raises OSError.
    """
    alias = policy.aliases.get(server[0])
    target = server if alias is None else alias
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    udp = transport is Transport.UDP
    sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if policy.mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, policy.mark)
        if udp:
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_RECVERR)
                if family == socket.AF_INET6
                else (socket.IPPROTO_IP, _IP_RECVERR)
            )
            sock.setsockopt(level, option, 1)
        if policy.transparent and alias is None:
            _set_transparent(sock, family)
            sock.bind((client[0], 0))
    except OSError:
        sock.close()
        raise
    return sock, target


def raw_reply_socket(family: int, mark: int) -> socket.socket:
    """Sends whole IP packets. IPPROTO_RAW receives nothing, so that no packet is copied to it."""
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        sock.close()
        raise
    return sock


def _set_transparent(sock: socket.socket, family: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
