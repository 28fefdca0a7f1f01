"""Headers of the replies that go out by raw sockets."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from dnsproxy.packet import ipv4_datagram, ipv6_datagram

payloads = st.binary(max_size=65)
ports = st.integers(1, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)


def sum_of_words(octets: bytes) -> int:
    """RFC 1071, by the book: 0xFFFF for what carries its right checksum."""
    octets += b"\x00" * (len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(ipv4, ports, ipv4, ports, payloads)
def test_ipv4_datagram(source: str, sport: int, target: str, tport: int, payload: bytes) -> None:
    packet = ipv4_datagram((source, sport), (target, tport), payload)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    assert packet[:1] == b"\x45"
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    assert packet[9] == 17
    assert packet[12:20] == addresses
    segment = packet[20:]
    assert struct.unpack("!3H", segment[:6]) == (sport, tport, len(segment))
    assert segment[6:8] != b"\x00\x00"
    assert segment[8:] == payload
    assert sum_of_words(addresses + struct.pack("!HH", 17, len(segment)) + segment) == 0xFFFF


@given(ipv6, ports, ipv6, ports, payloads)
def test_ipv6_datagram(source: str, sport: int, target: str, tport: int, payload: bytes) -> None:
    packet = ipv6_datagram((source, sport), (target, tport), payload)
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
        socket.AF_INET6, target
    )
    segment = packet[40:]
    assert struct.unpack("!IHB", packet[:7]) == (6 << 28, len(segment), 17)
    assert packet[8:40] == addresses
    assert struct.unpack("!3H", segment[:6]) == (sport, tport, len(segment))
    assert segment[6:8] != b"\x00\x00"
    assert segment[8:] == payload
    assert sum_of_words(addresses + struct.pack("!II", len(segment), 17) + segment) == 0xFFFF


def test_zone_of_a_link_local_client_is_left_out() -> None:
    packet = ipv6_datagram(("fe80::1", 53), ("fe80::2%eth0", 9), b"")
    assert packet[24:40] == socket.inet_pton(socket.AF_INET6, "fe80::2")
