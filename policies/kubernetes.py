"""Kubernetes' own NetworkPolicy (``networking.k8s.io/v1``).

Labels are the pods' and namespaces' own, without sources. What is missing or empty means what the
specification says: no ``from`` is everybody, no ``ports`` is everything, no rules in a direction
that the policy is for is nobody. An ``ipBlock`` is about addresses wherever they are, pods' and
nodes' included.
"""

from __future__ import annotations

import re
from typing import Final

from policies.cidrs import parse_cidr
from policies.ciliumpeers import read_excepts
from policies.identity import Direction, Protocol
from policies.labels import (
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_PREFIX,
    Operator,
    Requirement,
    Selector,
    label_is,
)
from policies.metadata import Metadata
from policies.model import (
    Action,
    CidrPeer,
    LabelPeer,
    Peer,
    Policy,
    PortRule,
    PortSpec,
    Rule,
    Spec,
    Tier,
)
from policies.reader import Field
from policies.selectors import read_selector

PROTOCOLS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
ANY_NAMESPACE: Final = Requirement(K8S, NAMESPACE_KEY, Operator.EXISTS)

_PORT_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*\Z")


def read_pod_selector(at: Field) -> Selector:
    """A selector of pods by the labels that Kubernetes gives them."""
    return read_selector(at, K8S)


def read_namespace_selector(at: Field) -> Selector:
    """A selector of namespaces, as a selector of the pods in them. Empty is every namespace."""
    selector = read_selector(at, K8S, NAMESPACE_LABELS_PREFIX)
    return selector.also(ANY_NAMESPACE)


def read_network_policy(members: dict[str, Field], at: Field, metadata: Metadata) -> Policy:
    """A NetworkPolicy."""
    specs: tuple[Spec, ...] = ()
    if "spec" in members:
        specs = (_spec(members["spec"], metadata.namespace),)
    source = at.problems.source
    return Policy(
        metadata.kind, metadata.name, metadata.namespace, source, at.line, Tier.NORMAL, specs
    )


def _spec(at: Field, namespace: str) -> Spec:
    members = at.fields(("podSelector", "policyTypes", "ingress", "egress"))
    subject = Selector()
    if "podSelector" in members:
        subject = read_pod_selector(members["podSelector"])
    subject = subject.also(label_is(K8S, NAMESPACE_KEY, namespace))
    rules = {
        Direction.INGRESS: [
            _rule(item, Direction.INGRESS, namespace)
            for item in (members["ingress"].items() if "ingress" in members else ())
        ],
        Direction.EGRESS: [
            _rule(item, Direction.EGRESS, namespace)
            for item in (members["egress"].items() if "egress" in members else ())
        ],
    }
    types = {"Ingress"} | ({"Egress"} if rules[Direction.EGRESS] else set())
    if "policyTypes" in members:
        items = members["policyTypes"].items()
        given = {text for item in items if (text := item.one_of(("Ingress", "Egress")))}
        types = given or types
    chosen = [d for d in Direction if d.name.capitalize() in types]
    kept = tuple(rule for direction in chosen for rule in rules[direction])
    deny = (Direction.INGRESS in chosen, Direction.EGRESS in chosen)
    return Spec(at.path, at.line, subject, kept, deny)


def _rule(at: Field, direction: Direction, namespace: str) -> Rule:
    peers_field = "from" if direction is Direction.INGRESS else "to"
    members = at.fields((peers_field, "ports"))
    peers: tuple[Peer, ...] | None = None
    if peers_field in members and (items := members[peers_field].items()):
        found = [_peer(item, namespace) for item in items]
        peers = tuple(peer for peer in found if peer is not None)
    ports: tuple[PortRule, ...] | None = None
    if "ports" in members and (items := members["ports"].items()):
        specs = tuple(spec for item in items if (spec := _port(item)) is not None)
        ports = (PortRule(members["ports"].path, members["ports"].line, specs),)
    return Rule(at.path, at.line, direction, Action.ALLOW, peers, ports)


def _peer(at: Field, namespace: str) -> Peer | None:
    members = at.fields(("podSelector", "namespaceSelector", "ipBlock"))
    if not members:
        at.error("needs podSelector, namespaceSelector or ipBlock")
        return None
    if "ipBlock" in members:
        if len(members) > 1:
            at.error("ipBlock cannot stand beside podSelector or namespaceSelector")
        return _ip_block(members["ipBlock"])
    selector = Selector()
    if "namespaceSelector" in members:
        selector = read_namespace_selector(members["namespaceSelector"])
    else:
        selector = selector.also(label_is(K8S, NAMESPACE_KEY, namespace))
    if "podSelector" in members:
        selector = selector.also(*read_pod_selector(members["podSelector"]).requirements)
    return LabelPeer(selector)


def _ip_block(at: Field) -> Peer | None:
    members = at.fields(("cidr", "except"))
    if "cidr" not in members:
        at.error("needs cidr")
        return None
    text = members["cidr"].string()
    if text is None:
        return None
    try:
        cidr = parse_cidr(text)
    except ValueError as error:
        members["cidr"].error(str(error))
        return None
    excepts = read_excepts(members.get("except"), cidr)
    if cidr in excepts:
        members["except"].error(f"{cidr} is all of the block")
    return CidrPeer(cidr, excepts, inside=True)


def _port(at: Field) -> PortSpec | None:
    members = at.fields(("protocol", "port", "endPort"))
    protocol = Protocol.TCP
    if "protocol" in members:
        protocol = PROTOCOLS[members["protocol"].one_of(PROTOCOLS) or "TCP"]
    if "port" not in members:
        if "endPort" in members:
            members["endPort"].error("needs port beside it")
        return PortSpec(protocol)
    port = members["port"]
    if port.is_text:
        text = port.string() or ""
        if not _PORT_NAME.match(text):
            port.error(f"{text!r} is not the name of a port")
        if "endPort" in members:
            members["endPort"].error("cannot follow a port's name")
        return PortSpec(protocol, name=text)
    first = port.integer(1, 65535)
    if first is None:
        return None
    last = first
    if "endPort" in members:
        last = members["endPort"].integer(1, 65535) or first
        if last < first:
            members["endPort"].error(f"{last} is below the port {first}")
            return None
    return PortSpec(protocol, first, last)
