"""Everything that an instance of `fqdnwall run` makes, derived from its slot number.

Slot N owns, and nobody else uses, one block of addresses and one of each name and number. So two
instances never meet, and what a dead one left is known from N alone, with nothing recorded.

    host                                      sandbox
    fqw<N>  gateway .0  <----- veth ----->  eth0  .1        198.19.0.0/16, a /29 for each slot
            stubs   .2 .3 .4                                fd66:7164:6e77::/48, a /64 for each

The stub addresses, on the host side, stand for resolvers that the sandbox could not reach, such as
those on the host's loopback. 198.18.0.0/15 is reserved for benchmarks (RFC 2544) and, unlike
100.64.0.0/10, no VPN or carrier gives it to hosts; IPv6 is a ULA (RFC 4193), so that getaddrinfo
prefers IPv4 (RFC 6724) where both are translated.

Invariant: pure. The same slot, prefixes and host facts give the same plan.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX4 = ipaddress.IPv4Network("198.19.0.0/16")
PREFIX6 = ipaddress.IPv6Network("fd66:7164:6e77::/48")
INTERFACE_PREFIX = "fqw"
INNER_INTERFACE = "eth0"
TABLE_PREFIX = "fqdnwall-"  # nftables
PINS_PREFIX = "run-"
MAX_STUBS = 3  # glibc reads no more nameservers (MAXNS, resolv.conf(5))
MAX_SLOTS = 4096

_BLOCK4 = 29
_BLOCK6 = 64
_ROUTING_TABLE_BASE = 0x66710000
_WIDE = 8
_MIN_MTU = 1280  # RFC 8200 §5


@dataclass(frozen=True, slots=True)
class Subnet:
    """One address family's share of a slot."""

    block: IPNetwork  # all of the slot's addresses
    gateway: IPInterface  # host side
    sandbox: IPInterface  # inside
    stubs: tuple[IPInterface, ...]  # host side, for resolvers on loopback


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the plan must respect: destinations the host has routes to, IPv6, the uplink's MTU."""

    destinations: tuple[IPNetwork, ...]
    ipv6: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The names and numbers of one instance."""

    slot: int
    ipv4: Subnet
    ipv6: Subnet | None  # None: the host has no IPv6, so the sandbox has none
    mtu: int

    @property
    def interface(self) -> str:
        """The host side of the veth."""
        return f"{INTERFACE_PREFIX}{self.slot}"

    @property
    def inner_interface(self) -> str:
        """The sandbox's side."""
        return INNER_INTERFACE

    @property
    def routing_table(self) -> int:
        """The table that delivers the proxy's packets locally."""
        return _ROUTING_TABLE_BASE + self.slot

    @property
    def nft_table(self) -> str:
        """The nftables table, in the inet family."""
        return f"{TABLE_PREFIX}{self.slot}"

    @property
    def pins(self) -> str:
        """The name of the directory of pinned maps and programs."""
        return f"{PINS_PREFIX}{self.slot}"

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """IPv4, and IPv6 where there is any."""
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The sandbox's own addresses."""
        return tuple(subnet.sandbox.ip for subnet in self.subnets)


def capacity(prefix4: ipaddress.IPv4Network, prefix6: ipaddress.IPv6Network) -> int:
    """How many slots the prefixes have room for. Raises ValueError when for none."""
    rooms = (_BLOCK4 - prefix4.prefixlen, _BLOCK6 - prefix6.prefixlen)
    if min(rooms) < 0:
        raise ValueError(f"{prefix4} and {prefix6} need to hold a /{_BLOCK4} and a /{_BLOCK6}")
    return min(MAX_SLOTS, *(1 << room for room in rooms))


def plan(
    slot: int,
    facts: HostFacts,
    prefix4: ipaddress.IPv4Network = PREFIX4,
    prefix6: ipaddress.IPv6Network = PREFIX6,
) -> Plan:
    """The plan for a slot. Raises ValueError outside of the prefixes' capacity."""
    if not 0 <= slot < capacity(prefix4, prefix6):
        raise ValueError(f"slot {slot} is outside of {prefix4} or {prefix6}")
    return Plan(
        slot=slot,
        ipv4=_subnet4(prefix4, slot),
        ipv6=_subnet6(prefix6, slot) if facts.ipv6 else None,
        mtu=max(_MIN_MTU, facts.mtu),
    )


def clash(candidate: Plan, destinations: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of the host's destinations that the plan's addresses would hide, if any.

    Very wide ones do not count: they are default routes by another name (VPNs split 0.0.0.0/0).
    """
    blocks = [subnet.block for subnet in candidate.subnets]
    for destination in destinations:
        if destination.prefixlen > _WIDE and any(_overlap(destination, block) for block in blocks):
            return destination
    return None


def slot_of_interface(name: str) -> int | None:
    """The slot whose interface has this name, or None when it is none of ours."""
    return _slot(name, INTERFACE_PREFIX)


def slot_of_nft_table(name: str) -> int | None:
    """The slot whose nftables table has this name, or None."""
    return _slot(name, TABLE_PREFIX)


def slot_of_pins(name: str) -> int | None:
    """The slot whose pins have this directory name, or None."""
    return _slot(name, PINS_PREFIX)


def slot_of_routing_table(table: int) -> int | None:
    """The slot whose routing table has this number, or None."""
    slot = table - _ROUTING_TABLE_BASE
    return slot if 0 <= slot < MAX_SLOTS else None


def _slot(name: str, prefix: str) -> int | None:
    digits = name.removeprefix(prefix)
    if digits == name or not (digits.isascii() and digits.isdecimal()):
        return None
    slot = int(digits)
    return slot if slot < MAX_SLOTS and str(slot) == digits else None


def _subnet4(prefix: ipaddress.IPv4Network, slot: int) -> Subnet:
    first = prefix.network_address + slot * (1 << (32 - _BLOCK4))
    return Subnet(
        block=ipaddress.IPv4Network((first, _BLOCK4)),
        gateway=ipaddress.IPv4Interface((first, 31)),  # RFC 3021
        sandbox=ipaddress.IPv4Interface((first + 1, 31)),
        stubs=tuple(ipaddress.IPv4Interface((first + 2 + n, 32)) for n in range(MAX_STUBS)),
    )


def _subnet6(prefix: ipaddress.IPv6Network, slot: int) -> Subnet:
    first = prefix.network_address + slot * (1 << (128 - _BLOCK6))
    return Subnet(
        block=ipaddress.IPv6Network((first, _BLOCK6)),
        gateway=ipaddress.IPv6Interface((first + 1, 64)),
        sandbox=ipaddress.IPv6Interface((first + 2, 64)),
        stubs=tuple(ipaddress.IPv6Interface((first + 0x53 + n, 128)) for n in range(MAX_STUBS)),
    )


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)
