"""What policies ask for that a datapath may not have, found by name before anything is enforced.

A firewall that drops a field silently is open or shut where its user thinks otherwise; callers
state what they can enforce and refuse the rest with its path and line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from enum import Enum

from policies.errors import PolicyError
from policies.model import (
    CidrGroupPeer,
    CloudGroupPeer,
    DnsRules,
    FqdnPeer,
    GenericRules,
    HttpRules,
    LabelPeer,
    NodePeer,
    Policy,
    PortRule,
    Rule,
    ServicePeer,
    Spec,
    Tier,
)


class Feature(Enum):
    """A part of the policy language that needs more than packets and names."""

    DNS = "rules.dns"
    FQDN = "toFQDNs"
    HTTP = "rules.http"
    L7PROTO = "rules.l7proto"
    SERVER_NAMES = "serverNames"
    TLS = "terminatingTLS/originatingTLS"
    LISTENER = "listener"
    SERVICES = "toServices"
    NODES = "toNodes/fromNodes"
    GROUPS = "toGroups/fromGroups"
    CIDR_GROUPS = "cidrGroupRef/cidrGroupSelector"
    NODE_SELECTOR = "nodeSelector"
    AUTHENTICATION = "authentication"
    NAMED_PORTS = "named ports"
    INGRESS = "ingress"
    TIERS = "tiers"


BASIC: Set[Feature] = frozenset(
    {Feature.DNS, Feature.FQDN, Feature.INGRESS, Feature.NAMED_PORTS, Feature.TIERS}
)
"""What a datapath with policy maps and a DNS proxy enforces."""


def unsupported(
    policies: Iterable[Policy], features: Set[Feature] = BASIC
) -> tuple[PolicyError, ...]:
    """Every field of the policies that needs a feature outside ``features``."""
    return tuple(
        PolicyError(policy.source, line, path, f"{feature.value} is not enforced here")
        for policy in policies
        for feature, line, path in _needs(policy)
        if feature not in features
    )


_Need = tuple[Feature, int, str]


def _needs(policy: Policy) -> Iterator[_Need]:
    if policy.tier is not Tier.NORMAL:
        yield Feature.TIERS, policy.line, "spec"
    for spec in policy.specs:
        yield from _spec_needs(spec)


def _spec_needs(spec: Spec) -> Iterator[_Need]:
    if spec.on_nodes:
        yield Feature.NODE_SELECTOR, spec.line, f"{spec.path}.nodeSelector"
    for rule in spec.rules:
        if rule.direction == 0:
            yield Feature.INGRESS, rule.line, rule.path
        if rule.authentication not in ("", "disabled"):
            yield Feature.AUTHENTICATION, rule.line, f"{rule.path}.authentication.mode"
        yield from _peer_needs(rule)
        for port_rule in rule.ports or ():
            yield from _port_needs(port_rule)


_PEER_FEATURES = {
    FqdnPeer: Feature.FQDN,
    ServicePeer: Feature.SERVICES,
    NodePeer: Feature.NODES,
    CloudGroupPeer: Feature.GROUPS,
    CidrGroupPeer: Feature.CIDR_GROUPS,
}
_PEER_FIELDS = {
    FqdnPeer: "FQDNs",
    ServicePeer: "Services",
    NodePeer: "Nodes",
    CloudGroupPeer: "Groups",
    CidrGroupPeer: "CIDRSet",
}


def _peer_needs(rule: Rule) -> Iterator[_Need]:
    kinds = dict.fromkeys(type(peer) for peer in rule.peers or ())
    for kind in kinds:
        if kind in _PEER_FEATURES and kind is not LabelPeer:
            prefix = "from" if rule.direction == 0 else "to"
            yield _PEER_FEATURES[kind], rule.line, f"{rule.path}.{prefix}{_PEER_FIELDS[kind]}"


def _port_needs(port_rule: PortRule) -> Iterator[_Need]:
    at = port_rule.path
    if isinstance(port_rule.l7, DnsRules):
        yield Feature.DNS, port_rule.line, f"{at}.rules.dns"
    if isinstance(port_rule.l7, HttpRules):
        yield Feature.HTTP, port_rule.line, f"{at}.rules.http"
    if isinstance(port_rule.l7, GenericRules):
        yield Feature.L7PROTO, port_rule.line, f"{at}.rules.l7proto"
    if port_rule.server_names:
        yield Feature.SERVER_NAMES, port_rule.line, f"{at}.serverNames"
    if port_rule.terminating_tls is not None:
        yield Feature.TLS, port_rule.line, f"{at}.terminatingTLS"
    if port_rule.originating_tls is not None:
        yield Feature.TLS, port_rule.line, f"{at}.originatingTLS"
    if port_rule.listener is not None:
        yield Feature.LISTENER, port_rule.line, f"{at}.listener"
    if any(spec.name for spec in port_rule.ports):
        yield Feature.NAMED_PORTS, port_rule.line, f"{at}.ports"
