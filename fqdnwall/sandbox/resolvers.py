"""The sandbox's resolv.conf, from the host's.

Nameservers that the sandbox can reach by packet are kept as they are. One that only the host can
reach (loopback, such as systemd-resolved's 127.0.0.53; link-local; IPv6 when the sandbox has none)
gets a stub address from the plan in its place, and the pair is handed to the proxy, which asks the
real one in the sandbox's stead. `search`, `options` and `sortlist` pass unchanged.

Syntax: resolv.conf(5). Invariant: pure, and never an empty list of nameservers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from fqdnwall.sandbox.plan import IPAddress, Plan

MAX_NAMESERVERS = 3  # MAXNS
_KEPT_DIRECTIVES = ("search", "domain", "options", "sortlist")


class NoResolver(Exception):
    """Neither the host nor the command line names a usable resolver."""


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What a resolv.conf says."""

    nameservers: tuple[IPAddress, ...]
    directives: tuple[str, ...]  # the other lines that matter, as written


@dataclass(frozen=True, slots=True)
class Resolver:
    """A resolver under the address that the sandbox uses, and its address on the host."""

    address: IPAddress
    real: IPAddress

    @property
    def is_stub(self) -> bool:
        """Whether only the host itself can reach the real one."""
        return self.address != self.real


@dataclass(frozen=True, slots=True)
class Resolvers:
    """The resolvers of one sandbox, and the file that names them there."""

    entries: tuple[Resolver, ...]
    resolv_conf: str

    @property
    def stubs(self) -> dict[IPAddress, IPAddress]:
        """Stub address -> the resolver on or beside the host that it stands for."""
        return {entry.address: entry.real for entry in self.entries if entry.is_stub}


def parse(text: str) -> ResolvConf:
    """Read a resolv.conf as leniently as the C library: what it does not understand is skipped."""
    nameservers: list[IPAddress] = []
    directives: list[str] = []
    for line in text.splitlines():
        if line.startswith(("#", ";")):
            continue
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            address = _address(values[0])
            if address is not None and address not in nameservers:
                nameservers.append(address)
        elif keyword in _KEPT_DIRECTIVES and values:
            directives.append(" ".join([keyword, *values]))
    return ResolvConf(tuple(nameservers[:MAX_NAMESERVERS]), tuple(directives))


def resolvers(host: ResolvConf, chosen: Iterable[IPAddress], plan: Plan) -> Resolvers:
    """The resolvers for a plan: `chosen` (--resolver) where given, else the host's.

    Raises NoResolver.
    """
    wanted = tuple(dict.fromkeys(chosen)) or host.nameservers
    if not wanted:
        raise NoResolver(
            "the host's /etc/resolv.conf names no nameserver; name one with --resolver IP"
        )
    entries = _with_stubs(wanted[:MAX_NAMESERVERS], plan)
    lines = [*host.directives, *(f"nameserver {entry.address}" for entry in entries)]
    return Resolvers(entries, "\n".join(lines) + "\n")


def _with_stubs(addresses: tuple[IPAddress, ...], plan: Plan) -> tuple[Resolver, ...]:
    free = {subnet.block.version: iter(subnet.stubs) for subnet in plan.subnets}
    entries = []
    for address in addresses:
        if _only_from_host(address, plan):
            stubs = free.get(address.version, free[4])
            entries.append(Resolver(next(stubs).ip, _concrete(address)))
        else:
            entries.append(Resolver(address, address))
    return tuple(entries)


def _only_from_host(address: IPAddress, plan: Plan) -> bool:
    if address.is_loopback or address.is_unspecified:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        return plan.ipv6 is None or address.is_link_local
    return False


def _concrete(address: IPAddress) -> IPAddress:
    """The C library takes 0.0.0.0 and :: for "this host"."""
    if not address.is_unspecified:
        return address
    return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")


def _address(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
