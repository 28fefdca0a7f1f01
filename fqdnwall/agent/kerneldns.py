"""A record of the ring buffer about a DNS exchange that the kernel settled, as values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from fqdnwall.agent.rulesets import name_of_key
from fqdnwall.datapath.layouts import DnsEvent, DnsPath, bytes_address

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class KernelDns:
    """``at``: seconds of the boot clock. ``ttl`` in seconds, as the kernel installed it."""

    at: float
    path: DnsPath
    endpoint: int
    scope: int
    client: tuple[str, int]
    server: tuple[str, int]
    qname: str
    qtype: int
    rcode: int
    identity: int
    rule: int
    addresses: tuple[Address, ...]
    ttl: int
    latency_seconds: float


@lru_cache(maxsize=4096)
def _text(address: bytes) -> str:
    """Of clients and servers, which are few."""
    return str(bytes_address(address))


def read_dns_event(raw: bytes) -> KernelDns:
    """``raw`` may be cut off behind the first few addresses."""
    event = DnsEvent.unpack(raw)
    return KernelDns(
        at=event.time / 1e9,
        path=DnsPath(event.path),
        endpoint=event.endpoint,
        scope=event.scope,
        client=(_text(event.client), event.client_port),
        server=(_text(event.server), event.server_port),
        qname=name_of_key(event.name, event.name_size),
        qtype=event.qtype,
        rcode=event.rcode,
        identity=event.identity,
        rule=event.rule,
        addresses=tuple(bytes_address(entry.address) for entry in event.addresses[: event.count]),
        ttl=event.ttl,
        latency_seconds=event.latency / 1e9,
    )
