"""What a policy says, whatever its kind, in one frozen form.

Every kind of policy (Cilium's, Kubernetes', cluster-wide ones) parses into these types; nothing
after the parser looks at a kind. A policy has *specs*; a spec has a subject and *rules*; a rule
says ALLOW, DENY or PASS for a direction, a set of peers (None: anything) and a set of ports
(None: everything).

Invariant: namespacing is already applied to every selector, and every text has been validated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias

from policies.identity import Direction, Protocol
from policies.labels import Network, Selector
from policies.names import NameSelector

MAX_PORT = 65535


class Action(Enum):
    """What a rule does with what it matches; PASS leaves the decision to the next tier."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"


class Tier(IntEnum):
    """Tiers are asked in this order."""

    ADMIN = 0
    NORMAL = 1
    BASELINE = 2


@dataclass(frozen=True, slots=True)
class LabelPeer:
    """Identities by their labels. ``any_cluster``: other clusters' identities count as well."""

    selector: Selector
    any_cluster: bool = False


@dataclass(frozen=True, slots=True)
class CidrPeer:
    """Addresses outside the cluster in ``cidr`` but in none of ``excepts``.

    ``inside`` widens it to addresses of pods and nodes (Kubernetes' ipBlock and networks).
    """

    cidr: Network
    excepts: tuple[Network, ...] = ()
    inside: bool = False
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.cidr, self.excepts, self.inside)))

    def __hash__(self) -> int:
        """Peers are looked up far more often than they are made."""
        return self._hash


@dataclass(frozen=True, slots=True)
class CidrGroupPeer:
    """The prefixes of CiliumCIDRGroups, by one name or by the groups' labels."""

    name: str = ""
    selector: Selector | None = None
    excepts: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class EntityPeer:
    """A well-known group: all, world, cluster, host, ..."""

    entity: str


@dataclass(frozen=True, slots=True)
class FqdnPeer:
    """Addresses learned for the names that the selector covers."""

    selector: NameSelector


@dataclass(frozen=True, slots=True)
class ServicePeer:
    """The backends of Kubernetes services, by name or by the services' labels.

    An empty namespace means every namespace.
    """

    namespace: str
    name: str = ""
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class NodePeer:
    """The cluster's nodes by their labels."""

    selector: Selector


@dataclass(frozen=True, slots=True)
class CloudGroupPeer:
    """``toGroups``/``fromGroups``: addresses that a cloud's API gives. Nothing here asks it."""

    provider: str


Peer: TypeAlias = (
    LabelPeer
    | CidrPeer
    | CidrGroupPeer
    | EntityPeer
    | FqdnPeer
    | ServicePeer
    | NodePeer
    | CloudGroupPeer
)


@dataclass(frozen=True, slots=True)
class PortSpec:
    """Ports ``first`` to ``last`` of a protocol, or the port that peers call ``name``.

    ANY as protocol means TCP, UDP and SCTP. For ICMP the type stands in ``first`` and ``last``.
    ``everything`` says that all protocols are meant, those without ports as well.
    """

    protocol: Protocol
    first: int = 0
    last: int = MAX_PORT
    name: str = ""


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A condition on an HTTP header, and what to do when it does not hold."""

    name: str
    value: str = ""
    secret: str = ""
    mismatch: str = ""


@dataclass(frozen=True, slots=True)
class HttpRule:
    """All that is given must match. ``path``, ``method`` and ``host`` are extended regexes."""

    path: str = ""
    method: str = ""
    host: str = ""
    headers: tuple[str, ...] = ()
    header_matches: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsRules:
    """Query names that may be asked; any one selector is enough."""

    selectors: tuple[NameSelector, ...]


@dataclass(frozen=True, slots=True)
class HttpRules:
    """Requests that may be made; any one rule is enough."""

    rules: tuple[HttpRule, ...]


@dataclass(frozen=True, slots=True)
class GenericRules:
    """Rules for a protocol parser by its name, as key-value pairs."""

    protocol: str
    rules: tuple[tuple[tuple[str, str], ...], ...]


L7Rules: TypeAlias = DnsRules | HttpRules | GenericRules


@dataclass(frozen=True, slots=True)
class TlsContext:
    """Where a TLS certificate or trust bundle is kept."""

    secret_namespace: str
    secret_name: str
    trusted_ca: str = ""
    certificate: str = ""
    private_key: str = ""


@dataclass(frozen=True, slots=True)
class Listener:
    """An Envoy listener that the traffic is handed to; ``priority`` 0 when none is given."""

    config_kind: str
    config_name: str
    name: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class PortRule:
    """One item of ``toPorts`` or ``icmps``: it allows nothing when ``ports`` is empty."""

    path: str
    line: int
    ports: tuple[PortSpec, ...]
    l7: L7Rules | None = None
    server_names: tuple[str, ...] = ()
    terminating_tls: TlsContext | None = None
    originating_tls: TlsContext | None = None
    listener: Listener | None = None

    @property
    def redirects(self) -> bool:
        """Whether matching traffic is for a proxy."""
        return bool(
            self.l7 is not None
            or self.server_names
            or self.terminating_tls
            or self.originating_tls
            or self.listener
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``peers`` None is anything, () is nothing; the same for ``ports``.

    ``order`` ranks rules within one policy where that matters (0 elsewhere). ``authentication`` is
    the mode as written, ``""`` when none is.
    """

    path: str
    line: int
    direction: Direction
    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[PortRule, ...] | None
    order: int = 0
    authentication: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """One subject and what holds for it. ``on_nodes``: the subjects are nodes, not pods."""

    path: str
    line: int
    subject: Selector
    rules: tuple[Rule, ...]
    default_deny: tuple[bool, bool] = (False, False)
    """By Direction: (ingress, egress)."""
    on_nodes: bool = False
    description: str = ""
    log: str = ""
    labels: tuple[str, ...] = ()

    def rules_of(self, direction: Direction) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.direction is direction)


PolicyKey: TypeAlias = tuple[str, str, str]
"""(kind, namespace, name)"""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy object. ``namespace`` is empty for cluster-wide kinds."""

    kind: str
    name: str
    namespace: str
    source: str
    line: int
    tier: Tier
    specs: tuple[Spec, ...]
    priority: int = 0
    labels: tuple[str, ...] = field(default=())

    @property
    def key(self) -> PolicyKey:
        """What tells it apart from others."""
        return self.kind, self.namespace, self.name

    @property
    def title(self) -> str:
        """``CiliumNetworkPolicy default/allow-dns``."""
        return (
            f"{self.kind} {self.namespace}/{self.name}"
            if self.namespace
            else (f"{self.kind} {self.name}")
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(rule for spec in self.specs for rule in spec.rules)


@dataclass(frozen=True, slots=True)
class CidrGroup:
    """A CiliumCIDRGroup: prefixes under a name and labels."""

    name: str
    labels: frozenset[tuple[str, str]]
    cidrs: tuple[Network, ...]
    source: str = ""
    line: int = 0

    @property
    def key(self) -> PolicyKey:
        """What tells it apart from others."""
        return "CiliumCIDRGroup", "", self.name

    @property
    def title(self) -> str:
        return f"CiliumCIDRGroup {self.name}"
