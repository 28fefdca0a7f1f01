"""The peers of a Cilium rule: who is at the other end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies.cidrs import contains, parse_cidr
from policies.identity import Direction
from policies.labels import Network, Selector
from policies.model import (
    CidrGroupPeer,
    CidrPeer,
    CloudGroupPeer,
    EntityPeer,
    FqdnPeer,
    NodePeer,
    Peer,
    ServicePeer,
)
from policies.names import InvalidName, NameSelector, name_selector, pattern_selector
from policies.reader import Field, exactly_one
from policies.selectors import cilium_peer, plain_key, read_selector

ENTITIES: Final = (
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "init",
    "health",
    "unmanaged",
    "none",
)

_BOTH_WAYS: Final = ("Endpoints", "CIDR", "CIDRSet", "Entities", "Groups", "Nodes")


def peer_fields(direction: Direction, deny: bool) -> tuple[str, ...]:
    """The names of the fields that give peers, in the order the API documents them."""
    prefix = "from" if direction is Direction.INGRESS else "to"
    names = [prefix + word for word in _BOTH_WAYS]
    if direction is Direction.EGRESS:
        names.append("toServices")
        if not deny:
            names.append("toFQDNs")
    return tuple(names)


def read_peers(
    at: Field, members: dict[str, Field], direction: Direction, namespace: str, subject: Selector
) -> tuple[Peer, ...] | None:
    """The peers of one rule, or None when it names none and so means every peer."""
    names = (*peer_fields(direction, deny=False),)
    readers: dict[str, Callable[[Field], Peer | None]] = {
        "Endpoints": lambda item: cilium_peer(read_selector(item), namespace, subject),
        "CIDR": _cidr,
        "CIDRSet": _cidr_rule,
        "Entities": _entity,
        "Groups": _cloud_group,
        "Nodes": lambda item: NodePeer(read_selector(item)),
        "Services": lambda item: _service(item, namespace),
        "FQDNs": _fqdn,
    }
    given = [name for name in names if name in members]
    found: list[Peer] = []
    filled: list[str] = []
    for name in given:
        word = name.removeprefix("from").removeprefix("to")
        items = members[name].items()
        if items:
            filled.append(name)
        found += [peer for item in items if (peer := readers[word](item)) is not None]
    if len(filled) > 1:
        at.error(f"{' and '.join(filled)} cannot stand in one rule; write a rule for each")
    requires = members.get("fromRequires") or members.get("toRequires")
    if requires is not None and requires.items():
        requires.error("must be empty; write its labels into the peers' own selectors")
    return tuple(found) if given else None


def _cidr(at: Field) -> CidrPeer | None:
    prefix = _prefix(at, bare_address=True)
    return CidrPeer(prefix) if prefix is not None else None


def _prefix(at: Field, bare_address: bool = False) -> Network | None:
    text = at.string()
    if text is None:
        return None
    try:
        return parse_cidr(text, bare_address)
    except ValueError as error:
        at.error(str(error))
        return None


def read_excepts(at: Field | None, cidr: Network | None) -> tuple[Network, ...]:
    """The ``except`` list of a CIDR, each item inside ``cidr`` when that is known."""
    found = []
    for item in at.items() if at is not None else ():
        prefix = _prefix(item)
        if prefix is None:
            continue
        if cidr is not None and not contains(cidr, prefix):
            item.error(f"{prefix} does not lie inside {cidr}")
        found.append(prefix)
    return tuple(found)


def _cidr_rule(at: Field) -> Peer | None:
    members = at.fields(("cidr", "cidrGroupRef", "cidrGroupSelector", "except"))
    which = exactly_one(at, members, ("cidr", "cidrGroupRef", "cidrGroupSelector"))
    if which == "cidr":
        cidr = _prefix(members["cidr"])
        excepts = read_excepts(members.get("except"), cidr)
        return CidrPeer(cidr, excepts) if cidr is not None else None
    excepts = read_excepts(members.get("except"), None)
    if which is None:
        return None
    if excepts:
        members["except"].error(f"cannot be used with {which}")
    if which == "cidrGroupRef":
        name = members[which].string(at_most=253)
        return CidrGroupPeer(name) if name else None
    return CidrGroupPeer(selector=plain_key(read_selector(members[which])))


def _entity(at: Field) -> EntityPeer | None:
    entity = at.one_of(ENTITIES)
    return EntityPeer(entity) if entity is not None else None


def _cloud_group(at: Field) -> CloudGroupPeer | None:
    members = at.fields(("aws",))
    if "aws" not in members:
        at.error("needs aws")
        return None
    members["aws"].fields(("labels", "securityGroupsIds", "securityGroupsNames", "region"))
    return CloudGroupPeer("aws")


def _service(at: Field, namespace: str) -> ServicePeer | None:
    members = at.fields(("k8sService", "k8sServiceSelector"))
    which = exactly_one(at, members, ("k8sService", "k8sServiceSelector"))
    if which == "k8sService":
        inner = members[which].fields(("serviceName", "namespace"))
        name = inner["serviceName"].string() if "serviceName" in inner else None
        if name is None:
            members[which].error("needs serviceName")
            return None
        where = inner["namespace"].string() if "namespace" in inner else namespace
        return ServicePeer(where or namespace, name)
    if which == "k8sServiceSelector":
        inner = members[which].fields(("selector", "namespace"))
        if "selector" not in inner:
            members[which].error("needs selector")
            return None
        where = inner["namespace"].string() if "namespace" in inner else namespace
        selector = plain_key(read_selector(inner["selector"]))
        return ServicePeer(where or "", selector=selector)
    return None


def _fqdn(at: Field) -> FqdnPeer | None:
    members = at.fields(("matchName", "matchPattern"))
    which = exactly_one(at, members, ("matchName", "matchPattern"))
    selector = read_name(members[which], which) if which is not None else None
    return FqdnPeer(selector) if selector is not None else None


def read_name(at: Field, kind: str) -> NameSelector | None:
    """A matchName or matchPattern field."""
    text = at.string()
    if text is None:
        return None
    try:
        return name_selector(text) if kind == "matchName" else pattern_selector(text)
    except InvalidName as error:
        at.error(str(error))
        return None
