"""Cluster-wide policies of administrators: ClusterNetworkPolicy, and its two forerunners.

``policy.networking.k8s.io/v1alpha2`` ClusterNetworkPolicy stands in a tier before or after all
namespaced policies and orders its rules by priority and position. AdminNetworkPolicy and
BaselineAdminNetworkPolicy (v1alpha1) are the same with other words, and become the same here.
None of them turns default deny on. In ``domainNames``, ``*.`` is one or more labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from policies.cidrs import parse_cidr
from policies.identity import DNS_PROTOCOLS, Direction, Protocol
from policies.kubernetes import (
    ANY_NAMESPACE,
    PROTOCOLS,
    read_namespace_selector,
    read_pod_selector,
)
from policies.labels import K8S, Selector, label_is
from policies.metadata import Metadata
from policies.model import (
    Action,
    CidrPeer,
    DnsRules,
    FqdnPeer,
    LabelPeer,
    NodePeer,
    Peer,
    Policy,
    PortRule,
    PortSpec,
    Rule,
    Spec,
    Tier,
)
from policies.names import name_selector, pattern_selector
from policies.reader import Field, exactly_one
from policies.selectors import read_selector

MAX_NETWORKS: Final = 25
MAX_NAME: Final = 100

_DOMAIN_LABEL = r"[a-zA-Z0-9](?:[-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN_NAME = re.compile(rf"(?:\*\.)?(?:{_DOMAIN_LABEL}\.)+{_DOMAIN_LABEL}\.?\Z")
_RESOLVERS = LabelPeer(Selector((label_is(K8S, "k8s-app", "kube-dns"), ANY_NAMESPACE)))


@dataclass(frozen=True, slots=True)
class _Words:
    """How one kind writes what all three mean."""

    actions: dict[str, Action]
    max_rules: int
    ports_field: str


_CLUSTER: Final = _Words(
    {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}, 25, "protocols"
)
_ADMIN: Final = _Words(
    {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}, 100, "ports"
)
_BASELINE: Final = _Words({"Allow": Action.ALLOW, "Deny": Action.DENY}, 100, "ports")


def read_cluster_policy(members: dict[str, Field], at: Field, metadata: Metadata) -> Policy:
    """A ClusterNetworkPolicy."""
    tier, priority = Tier.ADMIN, 0
    specs: tuple[Spec, ...] = ()
    if spec := _required(members, at, "spec"):
        inner = spec.fields(("tier", "priority", "subject", "ingress", "egress"))
        if field := _required(inner, spec, "tier"):
            tiers = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
            tier = tiers[field.one_of(tiers) or "Admin"]
        if field := _required(inner, spec, "priority"):
            priority = field.integer(0, 1000) or 0
        specs = (_spec(spec, inner, _CLUSTER),)
    return _policy(metadata, at, tier, specs, priority)


def read_admin_policy(members: dict[str, Field], at: Field, metadata: Metadata) -> Policy:
    """An AdminNetworkPolicy."""
    priority = 0
    specs: tuple[Spec, ...] = ()
    if spec := _required(members, at, "spec"):
        inner = spec.fields(("priority", "subject", "ingress", "egress"))
        if field := _required(inner, spec, "priority"):
            priority = field.integer(0, 1000) or 0
        specs = (_spec(spec, inner, _ADMIN),)
    return _policy(metadata, at, Tier.ADMIN, specs, priority)


def read_baseline_policy(members: dict[str, Field], at: Field, metadata: Metadata) -> Policy:
    """The BaselineAdminNetworkPolicy; there is one, called ``default``."""
    specs: tuple[Spec, ...] = ()
    if metadata.name != "default":
        at.error("the only BaselineAdminNetworkPolicy is called default")
    if spec := _required(members, at, "spec"):
        inner = spec.fields(("subject", "ingress", "egress"))
        specs = (_spec(spec, inner, _BASELINE),)
    return _policy(metadata, at, Tier.BASELINE, specs, 0)


def _policy(
    metadata: Metadata, at: Field, tier: Tier, specs: tuple[Spec, ...], priority: int
) -> Policy:
    source = at.problems.source
    return Policy(metadata.kind, metadata.name, "", source, at.line, tier, specs, priority)


def _required(members: dict[str, Field], at: Field, name: str) -> Field | None:
    if name not in members:
        at.error(f"needs {name}")
    return members.get(name)


def _spec(at: Field, members: dict[str, Field], words: _Words) -> Spec:
    subject = Selector()
    if field := _required(members, at, "subject"):
        subject = _subject(field)
    rules: list[Rule] = []
    for name, direction in (("ingress", Direction.INGRESS), ("egress", Direction.EGRESS)):
        items = members[name].items(at_most=words.max_rules) if name in members else []
        for order, item in enumerate(items):
            rules += _rules(item, direction, order, words)
    return Spec(at.path, at.line, subject, tuple(rules))


def _subject(at: Field) -> Selector:
    members = at.fields(("namespaces", "pods"))
    which = exactly_one(at, members, ("namespaces", "pods"))
    return _pods(which, members[which]) if which is not None else Selector()


def _pods(which: str, at: Field) -> Selector:
    """``namespaces`` (every pod in them) or ``pods`` (some pods in some namespaces)."""
    if which == "namespaces":
        return read_namespace_selector(at)
    members = at.fields(("namespaceSelector", "podSelector"))
    selector = Selector((ANY_NAMESPACE,))
    if "namespaceSelector" in members:
        selector = read_namespace_selector(members["namespaceSelector"])
    if field := _required(members, at, "podSelector"):
        selector = selector.also(*read_pod_selector(field).requirements)
    return selector


def _rules(at: Field, direction: Direction, order: int, words: _Words) -> list[Rule]:
    """The rule, and for names the permission to ask for them that they are no use without."""
    peers_field = "from" if direction is Direction.INGRESS else "to"
    members = at.fields(("name", "action", peers_field, words.ports_field))
    name = members["name"].string(at_most=MAX_NAME) or "" if "name" in members else ""
    action = Action.ALLOW
    if field := _required(members, at, "action"):
        action = words.actions.get(field.one_of(words.actions) or "", Action.ALLOW)
    peers: list[Peer] = []
    given: list[str] = []
    if field := _required(members, at, peers_field):
        items = field.items(at_most=words.max_rules)
        if not items:
            field.error("needs at least one peer")
        for item in items:
            which, found = _peer(item, direction, action)
            peers += found
            given.append(which)
    ports = None
    if words.ports_field in members:
        ports = _ports(members[words.ports_field], words)
    _refuse_names_without_pods(at, given, ports)
    rule = Rule(at.path, at.line, direction, action, tuple(peers), ports, order, name=name)
    return [rule, _asking(rule)] if "domainNames" in given else [rule]


def _asking(rule: Rule) -> Rule:
    """DNS to the cluster's resolvers, seen by the proxy so that it learns, and not filtered."""
    ports = tuple(PortSpec(protocol, 53, 53) for protocol in DNS_PROTOCOLS)
    l7 = DnsRules((pattern_selector("*"),))
    port_rule = PortRule(rule.path, rule.line, ports, l7)
    return Rule(
        rule.path,
        rule.line,
        rule.direction,
        Action.ALLOW,
        (_RESOLVERS,),
        (port_rule,),
        rule.order,
        name=rule.name,
    )


def _refuse_names_without_pods(
    at: Field, given: Iterable[str], ports: tuple[PortRule, ...] | None
) -> None:
    named = any(spec.name for rule in ports or () for spec in rule.ports)
    outside = [which for which in given if which in ("networks", "nodes", "domainNames")]
    if named and outside:
        at.error(f"a named port cannot stand beside {outside[0]}, which have no named ports")


def _peer(at: Field, direction: Direction, action: Action) -> tuple[str, list[Peer]]:
    kinds: tuple[str, ...] = ("namespaces", "pods")
    if direction is Direction.EGRESS:
        kinds = (*kinds, "nodes", "networks", "domainNames")
    members = at.fields(kinds)
    which = exactly_one(at, members, kinds)
    if which is None:
        return "", []
    field = members[which]
    if which in ("namespaces", "pods"):
        return which, [LabelPeer(_pods(which, field))]
    if which == "nodes":
        return which, [NodePeer(read_selector(field, "node"))]
    items = field.items(at_most=MAX_NETWORKS)
    if not items:
        field.error("needs at least one item")
    if which == "networks":
        return which, [network for item in items if (network := _network(item)) is not None]
    if action is not Action.ALLOW:
        field.error("can only be accepted; a denial by name would be easy to get round")
    return which, [peer for item in items if (peer := _domain(item)) is not None]


def _network(at: Field) -> CidrPeer | None:
    text = at.string(at_most=43)
    if text is None:
        return None
    try:
        return CidrPeer(parse_cidr(text), inside=True)
    except ValueError as error:
        at.error(str(error))
        return None


def _domain(at: Field) -> FqdnPeer | None:
    text = at.string(at_most=254)
    if text is None:
        return None
    if not _DOMAIN_NAME.match(text):
        at.error(f"{text!r} is not a domain name; '*' can only be the first label")
        return None
    if text.startswith("*."):
        return FqdnPeer(pattern_selector("*" + text))
    return FqdnPeer(name_selector(text))


def _ports(at: Field, words: _Words) -> tuple[PortRule, ...]:
    items = at.items(at_most=words.max_rules)
    if not items and words is _CLUSTER:
        at.error("needs at least one item; leave it out for every protocol")
    read = _protocol if words is _CLUSTER else _admin_port
    specs = tuple(spec for item in items if (spec := read(item)) is not None)
    return (PortRule(at.path, at.line, specs),)


def _protocol(at: Field) -> PortSpec | None:
    members = at.fields(("tcp", "udp", "sctp", "destinationNamedPort"))
    which = exactly_one(at, members, ("tcp", "udp", "sctp", "destinationNamedPort"))
    if which is None:
        return None
    if which == "destinationNamedPort":
        text = members[which].string()
        return PortSpec(Protocol.ANY, name=text.lower()) if text else None
    protocol = PROTOCOLS[which.upper()]
    inner = members[which].fields(("destinationPort",))
    if "destinationPort" not in inner:
        members[which].error("needs destinationPort")
        return None
    port = inner["destinationPort"]
    choice = port.fields(("number", "range"))
    kind = exactly_one(port, choice, ("number", "range"))
    if kind == "number":
        number = choice["number"].integer(1, 65535)
        return PortSpec(protocol, number, number) if number is not None else None
    if kind != "range":
        return None
    return _range(choice["range"], choice["range"].fields(("start", "end")), protocol)


def _range(at: Field, members: dict[str, Field], protocol: Protocol) -> PortSpec | None:
    ends = []
    for name in ("start", "end"):
        field = _required(members, at, name)
        value = field.integer(1, 65535) if field is not None else None
        if value is None:
            return None
        ends.append(value)
    if ends[0] >= ends[1]:
        at.error("start must be less than end")
        return None
    return PortSpec(protocol, ends[0], ends[1])


def _admin_port(at: Field) -> PortSpec | None:
    members = at.fields(("portNumber", "namedPort", "portRange"))
    which = exactly_one(at, members, ("portNumber", "namedPort", "portRange"))
    if which is None:
        return None
    if which == "namedPort":
        text = members[which].string()
        return PortSpec(Protocol.ANY, name=text.lower()) if text else None
    ends = ("port",) if which == "portNumber" else ("start", "end")
    inner = members[which].fields(("protocol", *ends))
    protocol = Protocol.TCP
    if "protocol" in inner:
        protocol = PROTOCOLS[inner["protocol"].one_of(PROTOCOLS) or "TCP"]
    if which == "portRange":
        return _range(members[which], inner, protocol)
    port = _required(inner, members[which], "port")
    number = port.integer(1, 65535) if port is not None else None
    return PortSpec(protocol, number, number) if number is not None else None
