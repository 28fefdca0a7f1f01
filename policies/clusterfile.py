"""Reading a cluster on paper: the common part of batch input and of policy test files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final

from policies.cidrs import parse_cidr
from policies.cluster import (
    Address,
    AddressRef,
    Cluster,
    Endpoint,
    EndpointRef,
    EntityRef,
    NameRef,
    Node,
    NodeRef,
    PeerRef,
)
from policies.identity import Protocol
from policies.labels import Network
from policies.model import CidrGroup
from policies.options import Service
from policies.reader import Field, exactly_one
from policies.world import ENTITY_IDENTITY

CLUSTER_FIELDS: Final = ("namespaces", "endpoints", "nodes", "services", "cidr_groups", "fqdns")

PROTOCOLS: Final = {
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
    "SCTP": Protocol.SCTP,
    "ICMP": Protocol.ICMP,
    "ICMPv6": Protocol.ICMPV6,
    "ICMPV6": Protocol.ICMPV6,
    "IGMP": Protocol.IGMP,
    "VRRP": Protocol.VRRP,
}


def read_cluster(members: Mapping[str, Field]) -> Cluster:
    """The cluster that ``members`` (some of CLUSTER_FIELDS) describe; problems are noted."""
    namespaces = {name: dict(_labels(item)) for name, item in _entries(members.get("namespaces"))}
    endpoints = {name: _endpoint(name, item) for name, item in _entries(members.get("endpoints"))}
    nodes = {name: _node(name, item) for name, item in _entries(members.get("nodes"))}
    services = [_service(name, item, endpoints) for name, item in _entries(members.get("services"))]
    groups = [_group(name, item) for name, item in _entries(members.get("cidr_groups"))]
    names = {name: read_addresses(item) for name, item in _entries(members.get("fqdns"))}
    return Cluster(endpoints, nodes, tuple(services), namespaces, tuple(groups), names)


def _entries(at: Field | None) -> list[tuple[str, Field]]:
    return at.entries() if at is not None else []


def _labels(at: Field | None) -> tuple[tuple[str, str], ...]:
    return tuple((key, item.string() or "") for key, item in _entries(at))


def read_addresses(at: Field | None) -> tuple[Address, ...]:
    """A list of addresses."""
    found = [read_address(item) for item in at.items()] if at is not None else []
    return tuple(address for address in found if address is not None)


def read_address(at: Field) -> Address | None:
    """One address; noted as a problem when it is none."""
    text = at.string()
    if text is None:
        return None
    try:
        return ip_address(text)
    except ValueError:
        at.error(f"{text!r} is not an address")
        return None


def _endpoint(name: str, at: Field) -> Endpoint:
    members = at.fields(("labels", "namespace", "ips", "named_ports", "cluster"))
    namespace = members["namespace"].string() if "namespace" in members else None
    cluster = members["cluster"].string() if "cluster" in members else None
    ports = [_named_port(text, item) for text, item in _entries(members.get("named_ports"))]
    return Endpoint(
        name,
        _labels(members.get("labels")),
        namespace or "default",
        read_addresses(members.get("ips")),
        tuple(port for port in ports if port is not None),
        cluster or "",
    )


def _named_port(name: str, at: Field) -> tuple[str, int, Protocol] | None:
    if at.is_text:
        found = read_port(at)
        return (name, found[0], found[1]) if found is not None else None
    members = at.fields(("port", "protocol"))
    if "port" not in members:
        at.error("needs port")
        return None
    port = members["port"].integer(1, 65535)
    protocol = "TCP"
    if "protocol" in members:
        protocol = members["protocol"].one_of(("TCP", "UDP", "SCTP")) or "TCP"
    return (name, port, PROTOCOLS[protocol]) if port is not None else None


def _node(name: str, at: Field) -> Node:
    members = at.fields(("labels", "ips", "host"))
    host = members["host"].boolean() if "host" in members else False
    labels = _labels(members.get("labels"))
    return Node(name, labels, read_addresses(members.get("ips")), bool(host))


def _service(title: str, at: Field, endpoints: Mapping[str, Endpoint]) -> Service:
    members = at.fields(("labels", "selector", "backends", "ports"))
    namespace, slash, name = title.partition("/")
    if not slash:
        at.error(f"a service is named namespace/name, not {title!r}")
    selector = _labels(members["selector"]) if "selector" in members else None
    backends: list[Network] = []
    for item in members["backends"].items() if "backends" in members else ():
        text = item.string() or ""
        if text in endpoints:
            backends += [ip_network(address) for address in endpoints[text].ips]
        elif (address := read_address(item)) is not None:
            backends.append(ip_network(address))
    labels = frozenset(_labels(members.get("labels")))
    return Service(namespace, name, labels, selector, tuple(backends))


def _group(name: str, at: Field) -> CidrGroup:
    members = at.fields(("labels", "cidrs"))
    cidrs: list[Network] = []
    for item in members["cidrs"].items() if "cidrs" in members else ():
        text = item.string()
        try:
            cidrs.append(parse_cidr(text or "", bare_address=True))
        except ValueError as error:
            item.error(str(error))
    return CidrGroup(name, frozenset(_labels(members.get("labels"))), tuple(cidrs))


_PEERS: Final = ("endpoint", "ip", "entity", "node", "name")


def read_peer(at: Field) -> PeerRef | None:
    """A peer: a mapping with one of endpoint, ip, entity, node and name, or the text of one.

    As text: an endpoint's name, an address, or ``entity:E``, ``node:N``, ``name:N``.
    """
    if at.is_text:
        return _peer_text(at, at.string() or "")
    members = at.fields(_PEERS)
    which = exactly_one(at, members, _PEERS)
    if which is None:
        return None
    if which == "ip":
        address = read_address(members[which])
        return AddressRef(address) if address is not None else None
    text = members[which].string()
    if text is None:
        return None
    if which == "entity":
        return _entity(members[which], text)
    kinds: dict[str, type[EndpointRef] | type[NodeRef] | type[NameRef]] = {
        "endpoint": EndpointRef,
        "node": NodeRef,
        "name": NameRef,
    }
    return kinds[which](text)


def _peer_text(at: Field, text: str) -> PeerRef | None:
    kind, colon, rest = text.partition(":")
    if colon and kind == "entity":
        return _entity(at, rest)
    if colon and kind == "node":
        return NodeRef(rest)
    if colon and kind == "name":
        return NameRef(rest)
    try:
        return AddressRef(ip_address(text))
    except ValueError:
        return EndpointRef(text)


def _entity(at: Field, text: str) -> EntityRef | None:
    if text not in ENTITY_IDENTITY:
        at.error(f"{text!r} is no single identity; it could be {', '.join(ENTITY_IDENTITY)}")
        return None
    return EntityRef(text)


_PORT = re.compile(r"(?P<port>[0-9]{1,5})(?:/(?P<protocol>\w+))?\Z")


def read_port(at: Field) -> tuple[int, Protocol] | None:
    """``443``, ``443/UDP`` or, for an ICMP type, ``8/ICMP``; TCP when no protocol is given."""
    if not at.is_text:
        number = at.integer(0, 65535)
        return (number, Protocol.TCP) if number is not None else None
    text = at.string() or ""
    match = _PORT.match(text)
    protocol = PROTOCOLS.get(match["protocol"] or "TCP") if match else None
    if match is None or protocol is None or int(match["port"]) > 65535:
        at.error(f"{text!r} is not PORT or PORT/PROTOCOL")
        return None
    return int(match["port"]), protocol
