"""An endpoint as the agent knows it: who it is, where it is, what its policy resolved to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from fqdnwall.datapath.layouts import PolicyKey, PolicyValue
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


@dataclass(slots=True)
class Endpoint:
    """Mutable state, owned by ``fqdnwall.agent.firewall``."""

    id: int
    subject: Subject
    place: Place
    identity: Identity
    generation: int = 1
    audit: bool = False
    policies: tuple[Policy, ...] = ()
    resolved: Resolved | None = None
    entries: dict[PolicyKey, PolicyValue] = field(default_factory=dict)
    policy_fd: int = -1
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
            },
            separators=(",", ":"),
        ).encode()


def read_record(raw: bytes) -> tuple[Subject, Place]:
    """The reverse of ``Endpoint.record``. Raises ValueError, KeyError."""
    found = json.loads(raw.rstrip(b"\0"))
    return (
        Subject(found["name"], found["namespace"], tuple(found["labels"])),
        Place(
            found["ifindex"],
            found["interface"],
            tuple(ip_address(text) for text in found["addresses"]),
            found["netns"],
        ),
    )
