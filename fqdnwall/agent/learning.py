"""Names into identities, and learned addresses into the kernel's map.

Invariant: when ``learn`` returns, the kernel allows what policy allows for the addresses, so that
the proxy may hand the answer out. What the learned map holds for an address is always the function
``NameCache.slots`` of what was learned, whatever the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import TYPE_CHECKING

from cachetools import LRUCache

from fqdnwall.datapath.layouts import (
    LEARNED_SLOTS,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    address_bytes,
    bytes_address,
)
from fqdnwall.datapath.maps import MapFull
from fqdnwall.fqdn.cache import KERNEL, PROXY, Key, NameCache, Place, Record
from fqdnwall.fqdn.identities import fit, labels_for
from fqdnwall.identity.allocator import IdentitiesExhausted
from policies import NameSelector

if TYPE_CHECKING:
    from fqdnwall.agent.firewall import Firewall

Address = IPv4Address | IPv6Address

NS_PER_SECOND = 1_000_000_000
JUDGED_NAMES = 65536
COLLECT_AT_ONCE = 4096
ADOPTED = "~"
"""Begins what stands in the place of a name that is not known: no name begins with it."""
KEPT_SECONDS = 5
NODE = 0
"""The scope of all endpoints together."""


class Learning:
    """What names mean, for one firewall."""

    def __init__(self, firewall: Firewall, clock: Callable[[], float]) -> None:
        self._firewall = firewall
        self._clock = clock
        self.cache = NameCache(clock)
        self._identities: LRUCache[tuple[int, str], int] = LRUCache(JUDGED_NAMES)
        self._behind: set[Place] = set()
        self._held_by_kernel: set[int] = set()
        self._merged: dict[Place, frozenset[int]] = {}
        self._judged_by: dict[int, tuple[NameSelector, ...]] = {}
        self.refused = 0
        """How often the kernel's map had no room."""

    def scope(self, endpoint_id: int) -> int:
        """Under which an endpoint's learned addresses stand: its own id, or the node's."""
        return endpoint_id if self._firewall.settings.per_endpoint else NODE

    def selectors(self, scope: int) -> tuple[NameSelector, ...]:
        """The ``toFQDNs`` selectors that matter in the scope, each once."""
        return self._firewall.selectors(None if scope == NODE else scope)

    def identity_of(self, scope: int, name: str) -> int:
        """The identity of the name's addresses; 0 when no selector matches the name."""
        key = (scope, name)
        known = self._identities.get(key)
        if known is None:
            labels = labels_for(name, self.selectors(scope))
            known = self._firewall.add_identity(labels) if labels else 0
            self._identities[key] = known
        return known

    def learn(
        self,
        endpoint_id: int,
        name: str,
        addresses: Sequence[tuple[Address, int]],
        source: str = PROXY,
    ) -> None:
        """Put (address, TTL in seconds) pairs of a name into the kernel's map.

        Raises MapFull when the map has no room; then the answer must not be handed out.
        """
        scope = self.scope(endpoint_id)
        identity = self.identity_of(scope, name)
        now = self._clock()
        keys = [Key(scope, name, address) for address, _ in addresses]
        for key, (_, ttl) in zip(keys, addresses, strict=True):
            self.cache.put(Record(key, identity, ttl, now, now + ttl, source))
        if not identity:
            return
        try:
            self._write_all(keys)
        except MapFull:
            self.collect()
            try:
                self._write_all(keys)
            except MapFull:
                self.cache.forget(keys)
                raise

    def _write_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._write((key.endpoint, key.address))

    def learned_by_kernel(
        self,
        scope: int,
        name: str,
        identity: int,
        addresses: Sequence[Address],
        ttl: int,
        at: float,
    ) -> None:
        """Note what the kernel has put into its own map; ``at`` is when, on the boot clock."""
        now = self._meant_now(scope, name, identity)
        for address in addresses:
            key = Key(scope, name, address)
            known = self.cache.get(key)
            if now != identity:
                # By a policy that has been replaced meanwhile: what it means now is ours to hold.
                self.cache.put(Record(key, now, ttl, at, at + ttl, PROXY))
                self._behind.add((scope, address))
            elif known is None or known.source == KERNEL or known.expires_at < at + ttl:
                self.cache.put(Record(key, identity, ttl, at, at + ttl, KERNEL))

    def collect_kernel(self) -> int:
        """Take what has run out off the kernel's own map; how many entries that were."""
        before = int((self._clock() - KEPT_SECONDS) * NS_PER_SECOND)
        return self._firewall.maps.answers.collect(before)

    def collect(self) -> int:
        """Take what has run out off the kernel's map, some at a time; how much is left.

        What the map has no room for is tried again the next time.
        """
        refused: set[Place] = set()
        self._behind |= self.cache.take_stale()
        for place in list(islice(self._behind, COLLECT_AT_ONCE)):
            try:
                self._write(place)
            except (MapFull, IdentitiesExhausted):
                refused.add(place)
            else:
                self._behind.discard(place)
        self.refused += len(refused)
        return len(self._behind - refused)

    def policies_change(self) -> None:
        """Names may have other identities; policies that know these come into force next."""
        changed = False
        for scope in self.cache.endpoints():
            selectors = self.selectors(scope)
            if self._judged_by.get(scope) != selectors:
                self._judged_by[scope] = selectors
                self._identities.clear()
                self.cache.rename(scope, partial(self._identity_now, scope))
                changed = True
        if changed:
            self._write_behind()

    def policies_changed(self) -> None:
        """The policies that knew names by their former identities are gone."""
        self.cache.fade()
        self._write_behind()

    def _write_behind(self) -> None:
        while self.collect():
            pass

    def adopt(self, records: Iterable[Record]) -> None:
        """Take over the names that an earlier agent wrote down and the addresses in the map.

        An address that no written name accounts for keeps its identity until its time is over.
        """
        now = self._clock()
        for record in records:
            if record.expires_at > now:
                self.cache.put(record)
        known = self._firewall.adopt_identities()
        for key, value in list(self._firewall.maps.learned.items()):
            place = (key.scope, bytes_address(key.address))
            held = dict(self.cache.slots(place))
            for slot in value.slots:
                expires = slot.expires / NS_PER_SECOND
                if slot.identity in known and expires > max(now, held.get(slot.identity, 0)):
                    name = f"{ADOPTED}{slot.identity}"
                    ttl = int(expires - now)
                    adopted = Key(place[0], name, place[1])
                    self.cache.put(Record(adopted, slot.identity, ttl, now, expires, PROXY))
            self._behind.add(place)
        self._held_by_kernel = {
            slot.identity
            for _, value in self._firewall.maps.answers.items()
            for slot in value.slots
            if slot.expires > now * NS_PER_SECOND
        }

    def _identity_now(self, scope: int, name: str) -> int:
        if name.startswith(ADOPTED):
            return int(name.removeprefix(ADOPTED))
        return self.identity_of(scope, name)

    def _meant_now(self, scope: int, name: str, identity: int) -> int:
        """What the kernel's identity for a name is by today's policies."""
        if scope not in self._firewall.endpoints and not (
            scope == NODE and self._firewall.is_in_force
        ):
            return identity  # an agent that starts has no policies yet
        try:
            return self.identity_of(scope, name)
        except (MapFull, IdentitiesExhausted):
            self.refused += 1
            return identity

    def identities_gone(self) -> None:
        """Numbers were given back: names are judged anew."""
        self._identities.clear()

    def forget(self, matches: Callable[[Record], bool]) -> int:
        """Drop what was learned, as far as it matches; how many addresses that were."""
        count = self.cache.forget([r.key for r in self.cache.records() if matches(r)])
        self._write_behind()
        return count

    def forget_endpoint(self, endpoint_id: int) -> None:
        if self._firewall.settings.per_endpoint:
            self.cache.forget([record.key for record in self.cache.records(endpoint_id)])
            self._judged_by.pop(endpoint_id, None)
            self._write_behind()

    def forget_strangers(self) -> None:
        """Drop what endpoints had learned that are gone."""
        for scope in self.cache.endpoints():
            if scope != NODE and scope not in self._firewall.endpoints:
                self.forget_endpoint(scope)

    def identities_held(self) -> set[int]:
        """Those that records refer to, and those in the kernel's map."""
        return {*self.cache.identities, *self._held_by_kernel}.union(*self._merged.values())

    def _write(self, place: Place) -> None:
        scope, address = place
        slots = fit(
            self.cache.slots(place),
            self._firewall.allocator.labels_of,
            self._firewall.add_identity,
        )
        key = LearnedKey(scope, address_bytes(address))
        self._merged.pop(place, None)
        if not slots:
            self._firewall.maps.learned.delete(key)
            return
        if len(slots) == LEARNED_SLOTS:
            self._merged[place] = frozenset(identity for identity, _ in slots)
        filled = [LearnedSlot(i, 0, int(expires * NS_PER_SECOND)) for i, expires in slots]
        empty = [LearnedSlot(0, 0, 0)] * (LEARNED_SLOTS - len(filled))
        self._firewall.maps.learned.put(key, LearnedValue(tuple(filled + empty)))
