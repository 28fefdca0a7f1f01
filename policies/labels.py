"""Labels, and the selectors that choose identities by them.

A label is ``source:key=value``. A selector's key may name a source (``k8s:app``) or leave it open,
which means any source. Empty selectors select everything; what narrows them to a namespace is
added where the policy's kind is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, TypeAlias

from policies.identity import (
    HEALTH,
    HOST,
    INGRESS,
    INIT,
    KUBE_APISERVER,
    REMOTE_NODE,
    UNMANAGED,
    WORLD,
    WORLD_IPV4,
    WORLD_IPV6,
    Identity,
)

Network: TypeAlias = IPv4Network | IPv6Network

ANY_SOURCE: Final = "any"
K8S: Final = "k8s"
RESERVED: Final = "reserved"
CIDR: Final = "cidr"
FQDN: Final = "fqdn"
NODE: Final = "node"
IPBLOCK: Final = "ipblock"
"""Source of the label of an address *inside* the cluster that an ``ipBlock`` covers."""

NAMESPACE_KEY: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX: Final = "io.cilium.k8s.namespace.labels."
CLUSTER_KEY: Final = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT_KEY: Final = "io.cilium.k8s.policy.serviceaccount"


class Label(NamedTuple):
    """One label of an identity; labels sort by source, then key, then value."""

    source: str
    key: str
    value: str = ""

    def __str__(self) -> str:
        return (
            f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"
        )


Labels: TypeAlias = frozenset[Label]


def parse_label(text: str, default_source: str = K8S) -> Label:
    """Read ``[source:]key[=value]``. Raises ValueError for an empty key."""
    head, _, value = text.partition("=")
    source, colon, key = head.partition(":")
    if not colon:
        source, key = default_source, head
    if not key or not source:
        raise ValueError(f"{text!r} is not a label: it should be [source:]key[=value]")
    return Label(source, key, value)


def reserved_labels(*names: str) -> Labels:
    """``reserved_labels("remote-node", "kube-apiserver")``: the labels of a reserved identity."""
    return frozenset(Label(RESERVED, name) for name in names)


def pod_labels(
    labels: Mapping[str, str] | Iterable[str],
    namespace: str,
    namespace_labels: Mapping[str, str] | None = None,
    cluster: str = "",
) -> Labels:
    """The identity labels of a pod (or of a command that stands in for one).

    Keys may carry a source; without one they are Kubernetes labels. The namespace's name and its
    labels are added as policies expect them.
    """
    if isinstance(labels, Mapping):
        own = [parse_label(f"{key}={value}") for key, value in labels.items()]
    else:
        own = [parse_label(text) for text in labels]
    own.append(Label(K8S, NAMESPACE_KEY, namespace))
    of_namespace = {"kubernetes.io/metadata.name": namespace, **(namespace_labels or {})}
    own += [Label(K8S, NAMESPACE_LABELS_PREFIX + key, value) for key, value in of_namespace.items()]
    if cluster:
        own.append(Label(K8S, CLUSTER_KEY, cluster))
    return frozenset(own)


def cidr_labels(prefix: Network) -> Labels:
    """The labels of the identity of an address prefix outside the cluster."""
    family = "world-ipv4" if prefix.version == 4 else "world-ipv6"
    return reserved_labels("world", family) | {Label(CIDR, str(prefix))}


def ip_block_labels(prefix: Network) -> Labels:
    """What the identity of a pod or node has besides its labels, at an address in an ipBlock."""
    return frozenset({Label(IPBLOCK, str(prefix))})


def fqdn_labels(selector_texts: Iterable[str]) -> Labels:
    """The labels of the identity of names that match exactly these ``toFQDNs`` selectors."""
    return reserved_labels("world") | {Label(FQDN, text) for text in selector_texts}


RESERVED_LABELS: Final[Mapping[Identity, Labels]] = {
    HOST: reserved_labels("host"),
    WORLD: reserved_labels("world"),
    UNMANAGED: reserved_labels("unmanaged"),
    HEALTH: reserved_labels("health"),
    INIT: reserved_labels("init"),
    REMOTE_NODE: reserved_labels("remote-node"),
    KUBE_APISERVER: reserved_labels("kube-apiserver", "remote-node"),
    INGRESS: reserved_labels("ingress"),
    WORLD_IPV4: reserved_labels("world", "world-ipv4"),
    WORLD_IPV6: reserved_labels("world", "world-ipv6"),
}
"""The labels of the identities that exist everywhere."""


class Operator(Enum):
    """The operators of ``matchExpressions``."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a selector. ``source`` is ANY_SOURCE when the key names none."""

    source: str
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, labels: Labels) -> bool:
        """NotIn holds, as in Kubernetes, when the key is absent."""
        found = [
            label.value
            for label in labels
            if label.key == self.key and self.source in (ANY_SOURCE, label.source)
        ]
        if self.operator is Operator.EXISTS:
            return bool(found)
        if self.operator is Operator.DOES_NOT_EXIST:
            return not found
        within = any(value in self.values for value in found)
        return within if self.operator is Operator.IN else not within

    @property
    def is_plain(self) -> bool:
        """Whether it asks for exactly one label."""
        one = self.operator is Operator.IN and len(self.values) == 1
        return one and self.source != ANY_SOURCE

    @property
    def key_text(self) -> str:
        return self.key if self.source == ANY_SOURCE else f"{self.source}:{self.key}"

    def __str__(self) -> str:
        if self.operator is Operator.IN and len(self.values) == 1:
            return f"{self.key_text}={next(iter(self.values))}"
        if self.operator is Operator.EXISTS:
            return f"{self.key_text} present"
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"{self.key_text} absent"
        word = "in" if self.operator is Operator.IN else "not in"
        return f"{self.key_text} {word} ({', '.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements hold. No requirement: everything is selected."""

    requirements: tuple[Requirement, ...] = ()
    # The labels without which nothing holds are looked up at once; what is left is asked in turn.
    _needed: Labels = field(init=False, repr=False, compare=False)
    _others: tuple[Requirement, ...] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = [r for r in self.requirements if r.is_plain]
        needed = frozenset(Label(r.source, r.key, value) for r in plain for value in r.values)
        object.__setattr__(self, "_needed", needed)
        others = tuple(r for r in self.requirements if not r.is_plain)
        object.__setattr__(self, "_others", others)
        object.__setattr__(self, "_hash", hash(self.requirements))

    def __hash__(self) -> int:
        """Selectors are looked up far more often than they are made."""
        return self._hash

    def matches(self, labels: Labels) -> bool:
        if not self._needed <= labels:
            return False
        return all(requirement.holds(labels) for requirement in self._others)

    def has_key(self, key: str) -> bool:
        """Whether the key is named with the Kubernetes source or with none."""
        return any(r.key == key and r.source in (ANY_SOURCE, K8S) for r in self.requirements)

    def has_key_prefix(self, prefix: str) -> bool:
        return any(
            r.key.startswith(prefix) and r.source in (ANY_SOURCE, K8S) for r in self.requirements
        )

    def has_source(self, source: str) -> bool:
        return any(r.source == source for r in self.requirements)

    def also(self, *requirements: Requirement) -> Selector:
        return Selector((*self.requirements, *requirements))

    def without(self, source: str, key: str) -> Selector:
        kept = tuple(r for r in self.requirements if (r.source, r.key) != (source, key))
        return Selector(kept)

    def __str__(self) -> str:
        return ", ".join(map(str, self.requirements)) or "everything"


def label_is(source: str, key: str, value: str = "") -> Requirement:
    return Requirement(source, key, Operator.IN, frozenset({value}))


_NAME_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_PREFIX_PART = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*\Z")


def split_selector_key(text: str) -> tuple[str, str]:
    """(source, key) of a selector's key; the source is ANY_SOURCE when the text names none."""
    source, colon, key = text.partition(":")
    return (source or ANY_SOURCE, key) if colon else (ANY_SOURCE, text)


def key_problem(key: str) -> str | None:
    """What is wrong with a label key by Kubernetes' rules, or None."""
    if key.startswith(NAMESPACE_LABELS_PREFIX):
        key = key.removeprefix(NAMESPACE_LABELS_PREFIX)
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _PREFIX_PART.match(prefix)):
        return f"{prefix!r} is not a DNS name, as the part before '/' of a label key must be"
    if len(name) > 63 or not _NAME_PART.match(name):
        return f"{key!r} is not a label key: at most 63 letters, digits, '-', '_' and '.'"
    return None


def value_problem(value: str) -> str | None:
    """What is wrong with a label value by Kubernetes' rules, or None."""
    if value and (len(value) > 63 or not _NAME_PART.match(value)):
        return f"{value!r} is not a label value: at most 63 letters, digits, '-', '_' and '.'"
    return None
