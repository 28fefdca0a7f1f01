"""What is shown of lists, and in which order: addresses by value, names by domain, few labels."""

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


_GENERATED = ("k8s:io.cilium.k8s.", "k8s:io.kubernetes.pod.namespace=")
"""Labels that follow from others."""


def telling(labels: Iterable[str]) -> list[str]:
    """The labels that say most about whom they belong to, sorted: those that people gave, else the
    selectors of a name, else a prefix, else the reserved ones (``world`` without its families).
    """
    kinds: dict[str, list[str]] = {"": [], "fqdn": [], "cidr": [], "reserved": []}
    for label in sorted(labels):
        source = label.partition(":")[0]
        if not label.startswith(_GENERATED):
            kinds[source if source in kinds else ""].append(label)
    found = next((kind for kind in kinds.values() if kind), [])
    if "reserved:world" in found:
        return [label for label in found if not label.startswith("reserved:world-")]
    return found
