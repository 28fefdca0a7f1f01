"""What resolution needs to know beside policies and identities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from policies.identity import Identity, Protocol
from policies.labels import Labels, Network
from policies.model import CidrGroup

NamedPorts: TypeAlias = Mapping[tuple[str, Protocol], frozenset[int]]
"""(lower-case name, protocol) -> the port numbers that go by it."""


class Enforcement(Enum):
    """When a direction is judged: where a policy asks for it, everywhere, or nowhere."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Service:
    """A Kubernetes service as ``toServices`` sees it.

    With a selector its backends are the namespace's pods that the selector chooses; without one
    they are ``backends``.
    """

    namespace: str
    name: str
    labels: frozenset[tuple[str, str]] = frozenset()
    selector: tuple[tuple[str, str], ...] | None = None
    backends: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What a policy may select. ``labels`` include the namespace's label, or get it added."""

    labels: Labels
    namespace: str = "default"
    named_ports: tuple[tuple[str, int, Protocol], ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """``cluster_name``: identities that carry another cluster's label are not local.

    ``allow_localhost``: the node may always reach its own endpoints, unless denied.
    """

    enforcement: Enforcement = Enforcement.DEFAULT
    cluster_name: str = "default"
    default_local_cluster: bool = True
    allow_localhost: bool = False
    named_ports: Mapping[Identity, NamedPorts] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    cidr_groups: tuple[CidrGroup, ...] = ()
