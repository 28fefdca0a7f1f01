"""The order in which lists are shown: numbers by value, addresses by family and value."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def address_key(text: str) -> tuple[int, int, int, str]:
    """Sorts IPv4 before IPv6, by value, wider prefixes first; what is no address comes last."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return (9, 0, 0, text)
    return (network.version, int(network.network_address), network.prefixlen, text)


def addresses(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=address_key)


def name_key(name: str) -> tuple[str, ...]:
    """Sorts names by domain, so that those of one zone stand together."""
    return tuple(reversed(name.removesuffix(".").lower().split(".")))
