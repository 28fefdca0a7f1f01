"""What references stand for: services and CIDR groups become label and CIDR peers."""

from __future__ import annotations

from typing import Final

from policies.labels import ANY_SOURCE, K8S, NAMESPACE_KEY, Label, Selector, label_is
from policies.model import CidrGroupPeer, CidrPeer, LabelPeer, Peer, ServicePeer
from policies.options import Options, Service

REFERENCES: Final = (CidrGroupPeer, ServicePeer)
"""The kinds of peer that stand for others."""


def expand_peer(peer: Peer, options: Options) -> tuple[Peer, ...]:
    """The peers that a reference means today; others are returned as they are.

    A reference to what does not exist selects nothing.
    """
    if isinstance(peer, CidrGroupPeer):
        return tuple(
            CidrPeer(cidr, peer.excepts)
            for group in options.cidr_groups
            if (peer.selector is None and group.name == peer.name)
            or (peer.selector is not None and peer.selector.matches(_plain(group.labels)))
            for cidr in group.cidrs
        )
    if isinstance(peer, ServicePeer):
        return tuple(
            backend
            for service in options.services
            if _is_meant(peer, service)
            for backend in _backends(service)
        )
    return (peer,)


def _is_meant(peer: ServicePeer, service: Service) -> bool:
    if peer.namespace and peer.namespace != service.namespace:
        return False
    if peer.selector is not None:
        return peer.selector.matches(_plain(service.labels))
    return peer.name == service.name


def _backends(service: Service) -> tuple[Peer, ...]:
    if service.selector is None:
        return tuple(CidrPeer(prefix, inside=True) for prefix in service.backends)
    chosen = [label_is(K8S, key, value) for key, value in service.selector]
    return (LabelPeer(Selector((*chosen, label_is(K8S, NAMESPACE_KEY, service.namespace)))),)


def _plain(labels: frozenset[tuple[str, str]]) -> frozenset[Label]:
    return frozenset(Label(ANY_SOURCE, key, value) for key, value in labels)
