"""Identities: the same labels have the same number for as long as anything holds it.

Numbers follow Cilium: reserved ones have fixed labels, endpoints take cluster-wide numbers (256 to
65535), CIDRs and FQDN selector sets node-local ones (``1 << 24`` and up). A digest of the labels
is kept beside the kernel's maps, so that a new agent gives the numbers that the maps hold already.
Pure: the caller stores what ``allocate`` and ``release`` report.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import chain
from typing import Final

from policies import Identity, Label, Labels
from policies.labels import RESERVED_LABELS


class Scope(Enum):
    """Where a number is unique: its first and last value."""

    CLUSTER = (256, 65535)
    LOCAL = (1 << 24 | 1, 1 << 24 | 65535)


class IdentitiesExhausted(Exception):
    """Every number of the scope is taken."""


class Allocator:
    """``known`` are numbers that an earlier agent gave: they are given again to the same labels,
    and to no others while there is a free one."""

    def __init__(self, known: Mapping[Labels, Identity] | None = None) -> None:
        self._known = dict(known or {})
        self._remembered = set(self._known.values())
        self._labels: dict[Identity, Labels] = dict(RESERVED_LABELS)
        self._numbers: dict[Labels, Identity] = {
            labels: identity for identity, labels in RESERVED_LABELS.items()
        }
        self._next = {scope: scope.value[0] for scope in Scope}

    @property
    def identities(self) -> Mapping[Identity, Labels]:
        """All that are in use, the reserved ones included."""
        return self._labels

    def labels_of(self, identity: int) -> Labels:
        """Empty for a number that nobody holds."""
        return self._labels.get(Identity(identity), frozenset())

    def find(self, labels: Labels) -> Identity | None:
        return self._numbers.get(labels)

    def allocate(self, labels: Labels, scope: Scope) -> Identity:
        """The labels' number. Raises IdentitiesExhausted."""
        found = self._numbers.get(labels)
        if found is not None:
            return found
        known = self._known.pop(labels, None)
        if known is not None:
            self._remembered.discard(known)
        identity = self._free(scope) if known is None else known
        self._numbers[labels] = identity
        self._labels[identity] = labels
        return identity

    def release(self, identity: Identity) -> None:
        """Give back a number; the same labels get it again as long as it is free."""
        labels = self._labels.get(identity)
        if labels is not None and identity not in RESERVED_LABELS:
            del self._labels[identity]
            del self._numbers[labels]
            self._known[labels] = identity
            self._remembered.add(identity)

    def _free(self, scope: Scope) -> Identity:
        first, last = scope.value
        start = self._next[scope]
        for candidate in chain(range(start, last + 1), range(first, start)):
            if candidate not in self._labels and candidate not in self._remembered:
                self._next[scope] = candidate + 1
                return Identity(candidate)
        for labels, identity in self._known.items():
            if first <= identity <= last:
                del self._known[labels]
                self._remembered.discard(identity)
                return identity
        raise IdentitiesExhausted(f"all {last - first + 1} {scope.name.lower()} identities")


def label_texts(labels: Labels) -> tuple[str, ...]:
    """As people read them, sorted."""
    return tuple(sorted(str(label) for label in labels))


KUBE_DNS: Final[Labels] = frozenset(
    {
        Label("k8s", "k8s-app", "kube-dns"),
        Label("k8s", "io.kubernetes.pod.namespace", "kube-system"),
        Label("k8s", "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "kube-system"),
        Label("k8s", "io.cilium.k8s.policy.cluster", "default"),
    }
)
"""Outside a cluster the configured resolvers carry these, so that published policies hold."""
