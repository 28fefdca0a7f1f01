"""An endpoint as the agent knows it: who it is, where it is, what its policy resolved to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from policies import Identity, Labels, Policy, Resolved, pod_labels

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Subject:
    """Who an endpoint is. ``labels`` are as given: ``key=value``, with or without a source."""

    name: str
    namespace: str
    labels: tuple[str, ...]

    def identity_labels(self) -> Labels:
        return pod_labels(self.labels, self.namespace, cluster="default")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is: the host's side of its interface, and the addresses it may use."""

    ifindex: int
    interface: str
    addresses: tuple[Address, ...]
    netns: str = ""
    bridge: int = 0
    """The ifindex of the bridge that the interface is a port of."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """Mutable state, owned by ``fqdnwall.agent.firewall``.

    ``node`` is the network namespace (its inode) that ``place`` speaks of: the agent's own.
    """

    id: int
    subject: Subject
    place: Place
    identity: Identity
    node: int = 0
    generation: int = 1
    audit: bool = False
    policies: tuple[Policy, ...] = ()
    resolved: Resolved | None = None
    revision: int = 0

    def record(self) -> bytes:
        """JSON from which a new agent takes the endpoint over."""
        place, subject = self.place, self.subject
        return json.dumps(
            {
                "name": subject.name,
                "namespace": subject.namespace,
                "labels": subject.labels,
                "ifindex": place.ifindex,
                "interface": place.interface,
                "addresses": [str(address) for address in place.addresses],
                "netns": place.netns,
                "bridge": place.bridge,
                "node": self.node,
            },
            separators=(",", ":"),
        ).encode()


@dataclass(frozen=True, slots=True)
class Recorded:
    """An endpoint as an earlier agent recorded it."""

    subject: Subject
    place: Place
    node: int


def read_record(raw: bytes) -> Recorded:
    """The reverse of ``Endpoint.record``. Raises ValueError where it is not one."""
    try:
        found = json.loads(raw.rstrip(b"\0"))
        return Recorded(
            Subject(str(found["name"]), str(found["namespace"]), tuple(map(str, found["labels"]))),
            Place(
                int(found["ifindex"]),
                str(found["interface"]),
                tuple(ip_address(text) for text in found["addresses"]),
                str(found["netns"]),
                int(found["bridge"]),
            ),
            int(found["node"]),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no endpoint's record: {error!r}") from error
