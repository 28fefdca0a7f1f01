"""Frames, octet by octet: what a sender that means well or ill can put on a wire.

Every builder returns ``bytes`` with correct lengths and checksums unless an argument says
otherwise. Layer 4 comes as ``(protocol, octets)``, so that `ip` can put it behind either family.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

L4: TypeAlias = tuple[int, bytes]

ICMP, TCP, UDP, IPV6_FRAGMENT, ICMPV6, SCTP = 1, 6, 17, 44, 58, 132
HOP_BY_HOP, ROUTING, AUTHENTICATION, NO_NEXT, DESTINATION = 0, 43, 51, 59, 60
ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
MAC_HOST = bytes.fromhex("02000000000a")
MAC_ENDPOINT = bytes.fromhex("02000000000b")
TCP_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32}


def packed(address: str) -> bytes:
    return ip_address(address).packed


def is_ipv6(address: str) -> bool:
    return ip_address(address).version == 6


def checksum(octets: bytes) -> int:
    """RFC 1071."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    addresses = packed(source) + packed(destination)
    if is_ipv6(source):
        return addresses + struct.pack("!IxxxB", length, protocol)
    return addresses + struct.pack("!xBH", protocol, length)


def _summed(source: str, destination: str, protocol: int, octets: bytes, at: int) -> L4:
    total = checksum(_pseudo(source, destination, protocol, len(octets)) + octets)
    return protocol, octets[:at] + struct.pack("!H", total) + octets[at + 2 :]


def ethernet(payload: bytes, ethertype: int, *, to_endpoint: bool = False) -> bytes:
    ends = MAC_ENDPOINT + MAC_HOST if to_endpoint else MAC_HOST + MAC_ENDPOINT
    return ends + struct.pack("!H", ethertype) + payload


def ipv4(
    source: str,
    destination: str,
    l4: L4,
    *,
    options: bytes = b"",
    identification: int = 0,
    offset: int = 0,
    more: bool = False,
    ttl: int = 64,
    version: int = 4,
    header_words: int | None = None,
    total_length: int | None = None,
) -> bytes:
    """``offset`` in octets. ``options`` are padded to whole words."""
    protocol, payload = l4
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if header_words is None else header_words
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    head = struct.pack(
        "!BBHHHBBH",
        version << 4 | words,
        0,
        length,
        identification,
        (0x2000 if more else 0) | offset // 8,
        ttl,
        protocol,
        0,
    )
    header = head + packed(source) + packed(destination) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(
    source: str,
    destination: str,
    l4: L4,
    *,
    hop_limit: int = 64,
    version: int = 6,
    payload_length: int | None = None,
) -> bytes:
    next_header, payload = l4
    length = len(payload) if payload_length is None else payload_length
    head = struct.pack("!IHBB", version << 28, length, next_header, hop_limit)
    return head + packed(source) + packed(destination) + payload


def ip(source: str, destination: str, l4: L4) -> bytes:
    return (ipv6 if is_ipv6(source) else ipv4)(source, destination, l4)


def frame(source: str, destination: str, l4: L4) -> bytes:
    """The usual case: a whole packet of either family in an Ethernet frame."""
    return framed(ip(source, destination, l4))


def framed(packet: bytes) -> bytes:
    return ethernet(packet, ETH_IPV6 if packet[0] >> 4 == 6 else ETH_IPV4)


def tcp(
    source: str,
    destination: str,
    source_port: int,
    destination_port: int,
    flags: str = "S",
    payload: bytes = b"",
) -> L4:
    bits = sum(TCP_FLAGS[flag] for flag in flags)
    header = struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 1, 0x50, bits, 1024, 0, 0)
    return _summed(source, destination, TCP, header + payload, 16)


def udp(
    source: str, destination: str, source_port: int, destination_port: int, payload: bytes = b"x"
) -> L4:
    header = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0)
    return _summed(source, destination, UDP, header + payload, 6)


def sctp(source_port: int, destination_port: int, payload: bytes = b"\1\0\0\4") -> L4:
    """The checksum, a CRC32c that nothing here looks at, is left out."""
    return SCTP, struct.pack("!HHII", source_port, destination_port, 0, 0) + payload


def icmp(
    source: str,
    destination: str,
    kind: int,
    code: int = 0,
    rest: bytes = bytes(4),
    body: bytes = b"",
) -> L4:
    """ICMP or ICMPv6, as the addresses say; ``rest`` are octets 4 to 7."""
    octets = struct.pack("!BBH", kind, code, 0) + rest + body
    if is_ipv6(source):
        return _summed(source, destination, ICMPV6, octets, 2)
    return ICMP, octets[:2] + struct.pack("!H", checksum(octets)) + octets[4:]


def echo(source: str, destination: str, identifier: int, *, reply: bool = False) -> L4:
    kind = (129 if reply else 128) if is_ipv6(source) else (0 if reply else 8)
    return icmp(source, destination, kind, rest=struct.pack("!HH", identifier, 1), body=b"ping")


def icmp_error(source: str, destination: str, quoted: bytes, *, kind: int | None = None) -> L4:
    """Destination unreachable, unless ``kind`` says otherwise, about the packet ``quoted``."""
    kind = (1 if is_ipv6(source) else 3) if kind is None else kind
    return icmp(source, destination, kind, body=quoted)


def neighbour(
    source: str,
    destination: str,
    kind: int,
    target: str = "::",
    *,
    hop_limit: int = 255,
    body: bytes | None = None,
) -> bytes:
    """A frame of neighbour discovery (RFC 4861): solicitation 135, advertisement 136, and so on."""
    message = icmp(source, destination, kind, body=packed(target) if body is None else body)
    return framed(ipv6(source, destination, message, hop_limit=hop_limit))


def arp(
    sender: str,
    target: str,
    *,
    operation: int = 1,
    hardware: int = 1,
    protocol: int = ETH_IPV4,
    sizes: tuple[int, int] = (6, 4),
) -> bytes:
    body = struct.pack("!HHBBH", hardware, protocol, *sizes, operation)
    body += MAC_ENDPOINT + packed(sender) + bytes(6) + packed(target)
    return ethernet(body, ETH_ARP)


def extension(kind: int, l4: L4, *, words: int = 0, body: bytes = b"") -> L4:
    """A hop-by-hop, destination or routing header of 8 + 8 × ``words`` octets before ``l4``."""
    next_header, payload = l4
    room = 6 + 8 * words
    if not body and room < 256:
        body = bytes([1, room - 2])  # PadN; longer ones are left as a row of Pad1
    return kind, bytes([next_header, words]) + body.ljust(room, b"\0")[:room] + payload


def routing(l4: L4, *, segments_left: int, kind: int = 0) -> L4:
    return extension(ROUTING, l4, words=2, body=bytes([kind, segments_left]))


def authentication(l4: L4) -> L4:
    next_header, payload = l4
    return AUTHENTICATION, struct.pack("!BBHIII", next_header, 2, 0, 1, 1, 0) + payload


def fragment_header(l4: L4, identification: int, *, offset: int = 0, more: bool = False) -> L4:
    """RFC 8200 §4.5; ``offset`` in octets."""
    next_header, payload = l4
    field = offset & 0xFFF8 | more
    return IPV6_FRAGMENT, struct.pack("!BxHI", next_header, field, identification) + payload


def fragments(
    source: str, destination: str, l4: L4, *, first: int = 16, identification: int = 7
) -> tuple[bytes, bytes]:
    """The datagram in two frames, the first with ``first`` octets of it."""
    protocol, payload = l4
    parts = (
        ((protocol, payload[:first]), {"offset": 0, "more": True}),
        ((protocol, payload[first:]), {"offset": first, "more": False}),
    )
    out = []
    for part, place in parts:
        if is_ipv6(source):
            inner = fragment_header(part, identification, **place)  # type: ignore[arg-type]
            out.append(framed(ipv6(source, destination, inner)))
        else:
            packet = ipv4(source, destination, part, identification=identification, **place)  # type: ignore[arg-type]
            out.append(framed(packet))
    return out[0], out[1]


def addresses(packet: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Source and destination of an IP packet."""
    if packet[0] >> 4 == 6:
        return IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    return IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
