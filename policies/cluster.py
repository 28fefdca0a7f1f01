"""A cluster on paper: endpoints, nodes, services and learned names, for judging flows offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from policies.identity import Direction, Protocol
from policies.model import CidrGroup
from policies.options import Service

Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod, or whatever else policies are applied to.

    ``labels`` are ``key: value``, a key with a source (``reserved:init``) where it needs one.
    """

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    namespace: str = "default"
    ips: tuple[Address, ...] = ()
    named_ports: tuple[tuple[str, int, Protocol], ...] = ()
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, seen from another one unless it is the ``host``."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    ips: tuple[Address, ...] = ()
    is_host: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """All that policies may refer to. ``names``: DNS name -> the addresses learned for it."""

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cidr_groups: tuple[CidrGroup, ...] = ()
    names: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndpointRef:
    """The peer is an endpoint of the cluster."""

    name: str


@dataclass(frozen=True, slots=True)
class NodeRef:
    """The peer is a node of the cluster."""

    name: str


@dataclass(frozen=True, slots=True)
class AddressRef:
    """The peer is whoever has this address."""

    address: Address


@dataclass(frozen=True, slots=True)
class EntityRef:
    """The peer is a reserved identity: world, host, remote-node, kube-apiserver, ..."""

    entity: str


@dataclass(frozen=True, slots=True)
class NameRef:
    """The peer is any of the addresses learned for a DNS name."""

    name: str


PeerRef: TypeAlias = EndpointRef | NodeRef | AddressRef | EntityRef | NameRef


@dataclass(frozen=True, slots=True)
class Flow:
    """One new connection. ``port`` is the destination port, or the ICMP type.

    ``dns_query``: the flow is a DNS query for this name, to be judged as the proxy would.
    """

    direction: Direction
    subject: str
    peer: PeerRef
    protocol: Protocol
    port: int = 0
    dns_query: str = ""


class UnknownPeer(ValueError):
    """A flow names something that the cluster does not have."""
