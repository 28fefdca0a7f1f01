"""IP and UDP headers for replies that must seem to come from the server that the client asked.

A raw socket with the header included is used, never a socket bound to the server's port: such a
socket would take queries from a resolver that listens there.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from dnsproxy.model import SocketAddress

_UDP: Final = struct.Struct("!4H")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_PROTOCOL_UDP: Final = 17
_HOPS: Final = 64
_UDP_HEADER_OCTETS: Final = 8


def ipv4_datagram(source: SocketAddress, destination: SocketAddress, payload: bytes) -> bytes:
    """An IPv4 packet; the kernel fills in identification and header checksum (raw(7))."""
    source_octets = inet_pton(AF_INET, source[0])
    destination_octets = inet_pton(AF_INET, destination[0])
    segment = _udp(source_octets, destination_octets, source[1], destination[1], payload)
    total = 20 + len(segment)
    header = _IPV4.pack(
        0x45, 0, total, 0, 0, _HOPS, _PROTOCOL_UDP, 0, source_octets, destination_octets
    )
    return header + segment


def ipv6_datagram(source: SocketAddress, destination: SocketAddress, payload: bytes) -> bytes:
    """An IPv6 packet without extension headers. A zone ("%eth0") in an address is left out."""
    source_octets = inet_pton(AF_INET6, source[0].partition("%")[0])
    destination_octets = inet_pton(AF_INET6, destination[0].partition("%")[0])
    segment = _udp(source_octets, destination_octets, source[1], destination[1], payload)
    header = _IPV6.pack(
        6 << 28, len(segment), _PROTOCOL_UDP, _HOPS, source_octets, destination_octets
    )
    return header + segment


def _udp(
    source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes
) -> bytes:
    length = _UDP_HEADER_OCTETS + len(payload)
    ports = (source_port, destination_port, length)
    checksum = _checksum(source + destination + _UDP.pack(*ports, _PROTOCOL_UDP) + payload, length)
    return _UDP.pack(*ports, checksum) + payload


def _checksum(octets: bytes, length: int) -> int:
    """The UDP checksum (RFC 768): one's complement of the one's complement sum.

    A big number's 16-bit words add up, end-around, to the number modulo 65535. The result is
    never 0, which would mean "no checksum". `octets` has the protocol in the checksum's own place,
    `length` is the pseudo-header's.
    """
    if len(octets) % 2:
        octets += b"\x00"
    return 0xFFFF - (int.from_bytes(octets, "big") + length) % 0xFFFF
