"""Which identities a peer selects, found through indexes rather than by asking each.

The index is fed one identity at a time, and keeps the answers it has given up to date, so that a
new identity costs one look at each selector in use and nothing for the identities that were there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from ipaddress import ip_network
from typing import TypeVar

from policies.cidrs import contains
from policies.identity import Identity
from policies.labels import (
    ANY_SOURCE,
    CIDR,
    CLUSTER_KEY,
    FQDN,
    IPBLOCK,
    K8S,
    NAMESPACE_KEY,
    RESERVED,
    Label,
    Labels,
    Network,
    Operator,
    Requirement,
    Selector,
)
from policies.model import (
    CidrGroupPeer,
    CidrPeer,
    CloudGroupPeer,
    EntityPeer,
    FqdnPeer,
    LabelPeer,
    NodePeer,
    Peer,
    ServicePeer,
)
from policies.prefixes import PrefixMap

_CLUSTER_ENTITIES = (
    "host",
    "remote-node",
    "health",
    "ingress",
    "init",
    "unmanaged",
    "kube-apiserver",
)
_WORLD = ("world", "world-ipv4", "world-ipv6")
_WHOLE_WORLD = {
    Label(RESERVED, "world-ipv4"): ip_network("0.0.0.0/0"),
    Label(RESERVED, "world-ipv6"): ip_network("::/0"),
}


@lru_cache(maxsize=1 << 16)
def _network(text: str) -> Network:
    return ip_network(text)


class PeerIndex:
    """Identities by label, by prefix and by name."""

    def __init__(
        self,
        identities: Mapping[Identity, Labels],
        cluster_name: str = "default",
        default_local_cluster: bool = True,
    ) -> None:
        self._cluster_name = cluster_name
        self._local_only = default_local_cluster
        self.labels: dict[Identity, Labels] = {}
        self._by_value: dict[tuple[str, str, str], set[Identity]] = {}
        self._by_key: dict[tuple[str, str], set[Identity]] = {}
        self._by_prefix = {CIDR: PrefixMap[set[Identity]](), IPBLOCK: PrefixMap[set[Identity]]()}
        self._foreign: set[Identity] = set()
        self._answers: dict[Peer, set[Identity]] = {}
        # Where to look for the peers that could know an identity: by a label that they need, by
        # the prefix that they are about, or without such a hold.
        self._needing: dict[tuple[str, str, str], dict[Peer, None]] = {}
        self._about = PrefixMap[dict[Peer, None]]()
        self._unspecific: dict[Peer, None] = {}
        for identity, labels in identities.items():
            self._index(identity, labels)

    def selected(self, peer: Peer) -> set[Identity]:
        """The identities that a peer selects; a live set that add() and remove() keep right."""
        answer = self._answers.get(peer)
        if answer is None:
            answer = self._answers[peer] = self._find(peer)
            for place in self._places(peer):
                place[peer] = None
        return answer

    @property
    def answers(self) -> int:
        """For how many peers answers are kept."""
        return len(self._answers)

    def keep_only(self, peers: Set[Peer]) -> None:
        """Stop keeping answers for peers that no policy uses any more."""
        for peer in [peer for peer in self._answers if peer not in peers]:
            del self._answers[peer]
            for place in self._places(peer):
                place.pop(peer, None)
            if isinstance(peer, CidrPeer) and not self._about.get(peer.cidr):
                self._about.drop(peer.cidr)
        self._needing = {key: found for key, found in self._needing.items() if found}

    def add(self, identity: Identity, labels: Labels) -> list[Peer]:
        """Take in a new identity; returns the peers that select it."""
        self._index(identity, labels)
        chosen = [peer for peer in self._asked(labels) if self.selects(peer, labels)]
        for peer in chosen:
            self._answers[peer].add(identity)
        return chosen

    def remove(self, identity: Identity) -> list[Peer]:
        """Let an identity go; returns the peers that selected it."""
        labels = self.labels.pop(identity)
        for key in _value_keys(labels):
            _discard(self._by_value, key, identity)
        for pair in _key_keys(labels):
            _discard(self._by_key, pair, identity)
        for source, prefix in _prefixes(labels):
            members = self._by_prefix[source].get(prefix)
            if members is not None:
                members.discard(identity)
                if not members:
                    self._by_prefix[source].drop(prefix)
        self._foreign.discard(identity)
        chosen = [peer for peer in self._asked(labels) if identity in self._answers[peer]]
        for peer in chosen:
            self._answers[peer].discard(identity)
        return chosen

    def _asked(self, labels: Labels) -> dict[Peer, None]:
        """The peers with an answer that could know an identity with these labels."""
        asked = dict(self._unspecific)
        for _, prefix in _prefixes(labels):
            for peers in self._about.holding(prefix):
                asked.update(peers)
        for key in _value_keys(labels):
            asked.update(self._needing.get(key, {}))
        return asked

    def selects(self, peer: Peer, labels: Labels) -> bool:
        """The same question for one set of labels. References must have been expanded."""
        if isinstance(peer, LabelPeer):
            if self._local_only and not peer.any_cluster and self._is_foreign(labels):
                return False
            return peer.selector.matches(labels)
        if isinstance(peer, CidrPeer):
            return any(_in_cidr(peer, source, prefix) for source, prefix in _prefixes(labels))
        if isinstance(peer, EntityPeer):
            return self._is_entity(peer.entity, labels)
        if isinstance(peer, FqdnPeer):
            return Label(FQDN, peer.selector.text) in labels
        if isinstance(peer, NodePeer):
            return _is_node(labels) and peer.selector.matches(labels)
        _refuse_unexpanded(peer)
        return False

    def _places(self, peer: Peer) -> list[dict[Peer, None]]:
        """Where a peer is put, to be found by the labels of identities that it could know."""
        if isinstance(peer, CidrPeer):
            about = self._about.get(peer.cidr)
            if about is None:
                self._about.put(peer.cidr, about := {})
            return [about]
        keys: list[tuple[str, str, str]] = []
        if isinstance(peer, FqdnPeer):
            keys = [(FQDN, peer.selector.text, "")]
        elif isinstance(peer, LabelPeer):
            needs = [r for r in peer.selector.requirements if r.operator is Operator.IN]
            rarest = min(needs, key=self._commonness, default=None)
            if rarest is not None:
                keys = [(rarest.source, rarest.key, value) for value in sorted(rarest.values)]
        return [self._needing.setdefault(key, {}) for key in keys] or [self._unspecific]

    @staticmethod
    def _commonness(requirement: Requirement) -> tuple[bool, int]:
        """Namespaces are shared by many; other labels tell more apart."""
        return requirement.key == NAMESPACE_KEY, len(requirement.values)

    def _index(self, identity: Identity, labels: Labels) -> None:
        if identity in self.labels:
            raise ValueError(f"identity {identity} is known already")
        self.labels[identity] = labels
        for key in _value_keys(labels):
            self._by_value.setdefault(key, set()).add(identity)
        for pair in _key_keys(labels):
            self._by_key.setdefault(pair, set()).add(identity)
        for source, prefix in _prefixes(labels):
            members = self._by_prefix[source].get(prefix)
            if members is None:
                self._by_prefix[source].put(prefix, members := set())
            members.add(identity)
        if self._is_foreign(labels):
            self._foreign.add(identity)

    def _find(self, peer: Peer) -> set[Identity]:
        if isinstance(peer, LabelPeer):
            found = self._by_selector(peer.selector)
            if self._local_only and not peer.any_cluster and self._foreign:
                found -= self._foreign
            return found
        if isinstance(peer, CidrPeer):
            return self._by_cidr(peer)
        if isinstance(peer, FqdnPeer):
            return set(self._by_value.get((FQDN, peer.selector.text, ""), ()))
        if isinstance(peer, EntityPeer):
            return self._by_entity(peer.entity)
        if isinstance(peer, NodePeer):
            nodes = self._reserved("host") | self._reserved("remote-node")
            return {i for i in nodes if peer.selector.matches(self.labels[i])}
        _refuse_unexpanded(peer)
        return set()

    def _by_cidr(self, peer: CidrPeer) -> set[Identity]:
        found: set[Identity] = set()
        for source in (CIDR, IPBLOCK) if peer.inside else (CIDR,):
            prefixes = self._by_prefix[source]
            members = dict(prefixes.inside(peer.cidr))
            for excepted in peer.excepts:
                for place, _ in prefixes.inside(excepted):
                    members.pop(place, None)
            found.update(*members.values())
        return found

    def _by_selector(self, selector: Selector) -> set[Identity]:
        found: set[Identity] | None = None
        negative: list[Requirement] = []
        for requirement in selector.requirements:
            if requirement.operator in (Operator.NOT_IN, Operator.DOES_NOT_EXIST):
                negative.append(requirement)
                continue
            members = self._having(requirement)
            found = set(members) if found is None else found & members
            if not found:
                return set()
        if found is None:
            found = set(self.labels)
        for requirement in negative:
            found = found - self._having(requirement)
        return found

    def _having(self, requirement: Requirement) -> set[Identity]:
        """Identities with the key, or with the key and one of the values."""
        pair = (requirement.source, requirement.key)
        if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
            return self._by_key.get(pair, set())
        if len(requirement.values) == 1:
            return self._by_value.get((*pair, next(iter(requirement.values))), set())
        found: set[Identity] = set()
        for value in requirement.values:
            found |= self._by_value.get((*pair, value), set())
        return found

    def _reserved(self, name: str) -> set[Identity]:
        return self._by_value.get((RESERVED, name, ""), set())

    def _by_entity(self, entity: str) -> set[Identity]:
        if entity == "all":
            return set(self.labels)
        if entity == "world":
            return set().union(*map(self._reserved, _WORLD))
        if entity == "cluster":
            pods = self._by_key.get((K8S, NAMESPACE_KEY), set()) - self._foreign
            return pods.union(*map(self._reserved, _CLUSTER_ENTITIES))
        return set(self._reserved(entity))

    def _is_entity(self, entity: str, labels: Labels) -> bool:
        if entity == "all":
            return True
        names = {label.key for label in labels if label.source == RESERVED}
        if entity == "world":
            return not names.isdisjoint(_WORLD)
        if entity == "cluster":
            pod = any(label.source == K8S and label.key == NAMESPACE_KEY for label in labels)
            return (pod and not self._is_foreign(labels)) or not names.isdisjoint(_CLUSTER_ENTITIES)
        return entity in names

    def _is_foreign(self, labels: Labels) -> bool:
        return any(
            label.key == CLUSTER_KEY and label.source == K8S and label.value != self._cluster_name
            for label in labels
        )


def _refuse_unexpanded(peer: CidrGroupPeer | ServicePeer | CloudGroupPeer) -> None:
    """Nothing is known of a cloud's groups; other references must have been expanded."""
    if not isinstance(peer, CloudGroupPeer):
        raise TypeError(f"{type(peer).__name__} must be expanded first")


def _is_node(labels: Labels) -> bool:
    return Label(RESERVED, "host") in labels or Label(RESERVED, "remote-node") in labels


def _in_cidr(peer: CidrPeer, source: str, prefix: Network) -> bool:
    if source == IPBLOCK and not peer.inside:
        return False
    return contains(peer.cidr, prefix) and not any(contains(x, prefix) for x in peer.excepts)


def _value_keys(labels: Labels) -> Iterable[tuple[str, str, str]]:
    for label in labels:
        yield label.source, label.key, label.value
        yield ANY_SOURCE, label.key, label.value


def _key_keys(labels: Labels) -> Iterable[tuple[str, str]]:
    for label in labels:
        yield label.source, label.key
        yield ANY_SOURCE, label.key


def _prefixes(labels: Labels) -> list[tuple[str, Network]]:
    """The prefixes that an identity's addresses lie in; world stands for its whole family."""
    own = [
        (label.source, _network(label.key)) for label in labels if label.source in (CIDR, IPBLOCK)
    ]
    if own or any(label.source == FQDN for label in labels):
        return own
    return [(CIDR, whole) for label, whole in _WHOLE_WORLD.items() if label in labels]


_Key = TypeVar("_Key")


def _discard(table: dict[_Key, set[Identity]], key: _Key, identity: Identity) -> None:
    members = table.get(key)
    if members is not None:
        members.discard(identity)
        if not members:
            del table[key]
