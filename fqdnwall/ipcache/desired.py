"""The whole ipcache as a function of hosts, endpoints, resolvers and policy's prefixes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from fqdnwall.datapath.layouts import (
    IpcacheFlag,
    IpcacheKey,
    IpcacheValue,
    address_bytes,
    bytes_address,
)
from policies import Identity
from policies.identity import WORLD_IPV4

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
ADDRESS_BITS = 128
MAPPED_BITS = 96
MAPPED = IPv6Network("::ffff:0:0/96")
"""As which the maps know IPv4."""


def key_of(prefix: Network) -> IpcacheKey:
    """The LPM key; IPv4 prefixes lie under ``::ffff:0:0/96``."""
    offset = MAPPED_BITS if prefix.version == 4 else 0
    return IpcacheKey(offset + prefix.prefixlen, address_bytes(prefix.network_address))


def prefix_of(key: IpcacheKey) -> Network:
    """The reverse of ``key_of``."""
    address = bytes_address(key.address)
    offset = MAPPED_BITS if address.version == 4 else 0
    return ip_network((address, key.prefix_length - offset))


def longest_match(table: Mapping[IpcacheKey, IpcacheValue], key: IpcacheKey) -> IpcacheValue | None:
    """What the kernel finds of the addresses of ``key`` that no longer prefix speaks of."""
    bits = int.from_bytes(key.address, "big")
    for length in range(key.prefix_length, -1, -1):
        bits = bits >> (ADDRESS_BITS - length) << (ADDRESS_BITS - length)
        value = table.get(IpcacheKey(length, bits.to_bytes(16, "big")))
        if value is not None:
            return value
    return None


def desired(
    cidrs: Mapping[Network, Identity],
    hosts: Mapping[Address, Identity],
    endpoints: Mapping[Address, Identity],
    resolvers: Mapping[Address, Identity],
    stubs: Container[Address] = (),
) -> dict[IpcacheKey, IpcacheValue]:
    """Later arguments win where they speak of the same prefix; ``stubs`` are among the resolvers.

    IPv4 stays out of what is said of IPv6: a prefix such as ``::/0`` reaches over the addresses
    that stand for IPv4, and one within these is no packet's.
    """
    found = {prefix: i for prefix, i in cidrs.items() if not _is_mapped(prefix)}
    if any(isinstance(prefix, IPv6Network) and MAPPED.subnet_of(prefix) for prefix in found):
        found.setdefault(ip_network("0.0.0.0/0"), WORLD_IPV4)
    found |= {ip_network(address): identity for address, identity in hosts.items()}
    found |= {ip_network(address): identity for address, identity in endpoints.items()}
    found |= {ip_network(address): identity for address, identity in resolvers.items()}
    flags = {ip_network(address): IpcacheFlag.STUB for address in resolvers if address in stubs}
    none = bytes(16)
    return {
        key_of(prefix): IpcacheValue(identity, flags.get(prefix, 0), none)
        for prefix, identity in found.items()
    }


def _is_mapped(prefix: Network) -> bool:
    return isinstance(prefix, IPv6Network) and prefix.subnet_of(MAPPED)
