"""The policies that are in force: one inner map for each distinct policy, swapped in whole.

Endpoints to whom the same applies share a map. ``put`` is the only way in which what policy says
changes: it builds the new map beside the old one and swaps it in, endpoint by endpoint. ``inherit``
and ``take`` write to maps in use, and only what no packet can meet: entries of identities that no
address has yet, or any more.

Invariant: ``Held.entries`` is what the kernel's map holds.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from fqdnwall.datapath.layouts import PolicyKey, PolicyValue
from fqdnwall.datapath.maps import MapFull, Policies

PolicyMap = dict[PolicyKey, PolicyValue]


@dataclass(slots=True, eq=False)
class Held:
    """An inner map in use."""

    fd: int
    entries: PolicyMap
    users: set[int]


class PoliciesInForce:
    """What the kernel's ``policies`` map holds."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._of: dict[int, Held] = {}

    def of(self, endpoint: int) -> Held | None:
        return self._of.get(endpoint)

    def __iter__(self) -> Iterator[Held]:
        """Each map once."""
        return iter({id(held): held for held in self._of.values()}.values())

    def adopt(self, endpoint: int) -> None:
        """Take over the policy that an earlier agent left for the endpoint, if there is one."""
        fd = self._policies.open(endpoint)
        if fd is not None:
            self._of[endpoint] = Held(fd, self._policies.read(fd), {endpoint})

    def put(self, endpoints: Set[int], entries: PolicyMap) -> frozenset[int]:
        """Let this be the policy of all these endpoints; those whose policy that changes.

        Raises MapFull; then some have the new policy and the others still have their old one.
        """
        held = self._found(endpoints, entries)
        if held is None:
            held = Held(self._policies.build(entries.items()), dict(entries), set())
        moved = set()
        try:
            for endpoint in sorted(endpoints):
                if self._of.get(endpoint) is not held:
                    self._policies.set(endpoint, held.fd)
                    self._move(endpoint, held)
                    moved.add(endpoint)
        finally:
            if not held.users:
                self._policies.close(held.fd)
        return frozenset(moved)

    def add(self, endpoints: Set[int], entries: PolicyMap, new: PolicyMap) -> bool:
        """Add entries of identities that no address has to a map that only these use.

        Whether that is possible: ``entries`` is the map with them. Raises MapFull, and then the map
        is as it was.
        """
        maps = {id(held): held for e in endpoints if (held := self._of.get(e)) is not None}
        if any(held.users - endpoints or held.entries | new != entries for held in maps.values()):
            return False
        for held in maps.values():
            self._add(held, new)
        return True

    def inherit(self, held: Held, parents: Mapping[int, int]) -> None:
        """Judge identities that no address has as others (``parents``) are. Raises MapFull."""
        if not parents:
            return
        policies = by_identity(held.entries)
        new = {
            _rekeyed(key, identity): value
            for identity, parent in parents.items()
            for key, value in policies.get(parent, {}).items()
        }
        former = [_rekeyed(key, i) for i in parents for key in policies.get(i, {})]
        self._remove(held, [key for key in former if key not in new])
        self._add(held, {k: v for k, v in new.items() if held.entries.get(k) != v})

    def take(self, identities: Set[int]) -> None:
        """Forget identities that no address has any more."""
        for held in self:
            self._remove(held, [key for key in held.entries if key.identity in identities])

    def remove(self, endpoint: int) -> None:
        """The endpoint is gone, and its policy with it."""
        self._policies.delete(endpoint)
        self.release(endpoint)

    def release(self, endpoint: int) -> None:
        """Know nothing of the endpoint any more; in the kernel its policy stays."""
        held = self._of.pop(endpoint, None)
        if held is not None:
            self._drop(endpoint, held)

    def _found(self, endpoints: Set[int], entries: PolicyMap) -> Held | None:
        """A map that one of them has already and that none but they use."""
        for endpoint in sorted(endpoints):
            held = self._of.get(endpoint)
            if held is not None and held.users <= endpoints and held.entries == entries:
                return held
        return None

    def _move(self, endpoint: int, held: Held) -> None:
        former = self._of.get(endpoint)
        self._of[endpoint] = held
        held.users.add(endpoint)
        if former is not None:
            self._drop(endpoint, former)

    def _drop(self, endpoint: int, held: Held) -> None:
        held.users.discard(endpoint)
        if not held.users:
            self._policies.close(held.fd)

    def _remove(self, held: Held, keys: list[PolicyKey]) -> None:
        self._policies.take(held.fd, keys)
        for key in keys:
            del held.entries[key]

    def _add(self, held: Held, new: PolicyMap) -> None:
        try:
            self._policies.add(held.fd, new.items())
        except MapFull:
            with contextlib.suppress(MapFull):
                self._policies.take(held.fd, [key for key in new if key not in held.entries])
                changed = {key: held.entries[key] for key in new if key in held.entries}
                self._policies.add(held.fd, changed.items())
            raise
        held.entries |= new


def _rekeyed(key: PolicyKey, identity: int) -> PolicyKey:
    return PolicyKey(key.prefix_length, identity, key.direction, key.protocol, key.port)


def by_identity(entries: PolicyMap) -> Mapping[int, PolicyMap]:
    """What each identity's entries say, under keys of no identity's."""
    found: defaultdict[int, PolicyMap] = defaultdict(dict)
    for key, value in entries.items():
        found[key.identity][_rekeyed(key, 0)] = value
    return found
