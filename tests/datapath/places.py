"""Where the kernel keeps exchanges and what it learned (``bpf/lib/places.h``), for writing there.

Only tests write into these maps. That both sides count alike is tested wherever the kernel finds
what was written here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DNS_EXCHANGE_PLACES,
    DNS_LEARNED_PLACES,
    DNS_NODE_PLACES,
    DnsExchange,
    DnsLearned,
    PlaceKey,
)

PLACES_TOGETHER = 4
_64 = (1 << 64) - 1


def mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _64
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _64
    return value ^ value >> 33


def address_hash(address: bytes) -> int:
    prefix, rest = struct.unpack("<QQ", address)  # as words: the low one first
    return mix(mix(rest) ^ prefix)


def exchange_hash(exchange: DnsExchange) -> int:
    ports = struct.pack("!3H", exchange.client_port, exchange.server_port, exchange.id)
    client, server, ident = struct.unpack("=3H", ports)
    ends = client << 32 | server << 16 | ident
    return mix(address_hash(exchange.client) ^ mix(address_hash(exchange.server) ^ ends))


def places_of(hashed: int, places: int) -> list[int]:
    """All eight places of what has this hash."""
    mask = (places - 1) & ~(PLACES_TOGETHER - 1)
    first, second = hashed & mask, hashed >> 32 & mask
    if first == second:
        second ^= PLACES_TOGETHER
    return [start | n for start in (first, second) for n in range(PLACES_TOGETHER)]


def exchange_keys(endpoint: int, exchange: DnsExchange) -> Iterable[bytes]:
    """Of the places where the exchange may stand."""
    for place in places_of(exchange_hash(exchange), DNS_EXCHANGE_PLACES):
        yield PlaceKey(endpoint, place).pack()


def learned_keys(scope: int, address: bytes) -> Iterable[bytes]:
    places = DNS_LEARNED_PLACES if scope else DNS_NODE_PLACES
    for place in places_of(address_hash(address), places):
        yield PlaceKey(scope, place).pack()


def put(fd: int, keys: Iterable[bytes], raw: bytes) -> bytes:
    """Write into the first vacant place; its key. Raises StopIteration when there is none."""
    key = next(key for key in keys if libbpf.lookup(fd, key, len(raw)) is None)
    libbpf.update(fd, key, raw, libbpf.BPF_NOEXIST)
    return key


def put_learned(fd: int, scope: int, entry: DnsLearned) -> bytes:
    return put(fd, learned_keys(scope, entry.address), entry.pack())


def put_exchange(fd: int, endpoint: int, exchange: DnsExchange) -> bytes:
    return put(fd, exchange_keys(endpoint, exchange), exchange.pack())
