"""A host as the pure tests see it."""

from __future__ import annotations

import ipaddress

from fqdnwall.sandbox.plan import HostFacts, Plan, plan

DUAL_STACK = HostFacts(destinations=(), ipv6=True, mtu=1500)
IPV4_ONLY = HostFacts(destinations=(), ipv6=False, mtu=1500)


def facts(*destinations: str, ipv6: bool = True, mtu: int = 1500) -> HostFacts:
    networks = tuple(ipaddress.ip_network(text) for text in destinations)
    return HostFacts(networks, ipv6, mtu)


def planned(slot: int = 0, ipv6: bool = True) -> Plan:
    return plan(slot, DUAL_STACK if ipv6 else IPV4_ONLY)
