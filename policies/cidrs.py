"""Address prefixes as policies write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from policies.labels import Network

_LENGTH = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")


def parse_cidr(text: str, bare_address: bool = False) -> Network:
    """A prefix ``address/length``, host bits cleared. Raises ValueError with a text for people.

    ``bare_address`` takes an address alone as its own prefix.
    """
    address, slash, length = text.partition("/")
    if not slash:
        if not bare_address:
            raise ValueError(f"{text!r} is not a CIDR: the prefix length is missing")
        return ip_network(_checked_address(address, text))
    _checked_address(address, text)
    if not _LENGTH.match(length):
        raise ValueError(f"{text!r} is not a CIDR: {length!r} is not a prefix length")
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a CIDR: {length!r} is not a prefix length") from error


def _checked_address(address: str, text: str) -> str:
    try:
        ip_address(address)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a CIDR: {address!r} is not an address") from error
    if "%" in address:
        raise ValueError(f"{text!r} is not a CIDR: a zone has no place in it")
    return address


def contains(outer: Network, inner: Network) -> bool:
    """Whether ``inner`` lies inside ``outer``; False across address families."""
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(outer.network_address) >> shift == int(inner.network_address) >> shift


def longest_match(
    prefixes: Iterable[Network], address: IPv4Address | IPv6Address
) -> Network | None:
    """The longest of the prefixes that holds the address."""
    host = ip_network(address)
    inside = [prefix for prefix in prefixes if contains(prefix, host)]
    return max(inside, key=lambda prefix: prefix.prefixlen, default=None)
