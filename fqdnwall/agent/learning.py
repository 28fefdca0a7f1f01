"""Names into identities, and learned addresses into the kernel's map.

Invariant: when ``learn`` returns, the kernel allows what policy allows for the addresses, so that
the proxy may hand the answer out. What the learned map holds for an address is always the function
``NameCache.slots`` of what was learned, whatever the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
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
from fqdnwall.fqdn.cache import KERNEL, Key, NameCache, Place, Record
from fqdnwall.fqdn.identities import fit, labels_for
from policies import Labels, NameSelector, Resolved, fqdn_labels

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

    def scope(self, endpoint_id: int) -> int:
        """Under which an endpoint's learned addresses stand: its own id, or the node's."""
        return endpoint_id if self._firewall.settings.per_endpoint else NODE

    def selectors(self, scope: int) -> tuple[NameSelector, ...]:
        """The ``toFQDNs`` selectors that matter in the scope, each once."""
        endpoints = self._firewall.endpoints
        chosen = endpoints.values() if scope == NODE else [endpoints[scope]]
        found = {s: None for e in chosen if e.resolved for s in e.resolved.fqdn_selectors}
        return tuple(found)

    def expected_labels(self, resolved: Resolved) -> Iterable[Labels]:
        """Of identities worth having before the first name is asked.

        One for each selector, and one for each set of them that the kernel's trees speak of.
        """
        single = {fqdn_labels([selector.text]) for selector in resolved.fqdn_selectors}
        return single | self._firewall.rulesets.expected_labels(
            resolved.dns, resolved.fqdn_selectors
        )

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
        source: str = "proxy",
    ) -> None:
        """Put (address, TTL in seconds) pairs of a name into the kernel's map.

        Raises MapFull when the map has no room; then the answer must not be handed out.
        """
        scope = self.scope(endpoint_id)
        identity = self.identity_of(scope, name)
        now = self._clock()
        for address, ttl in addresses:
            key = Key(scope, name, address)
            self.cache.put(Record(key, identity, ttl, now, now + ttl, source))
            if identity:
                self._write((scope, address))

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
        for address in addresses:
            key = Key(scope, name, address)
            known = self.cache.get(key)
            if known is None or known.source == KERNEL or known.expires_at < at + ttl:
                self.cache.put(Record(key, identity, ttl, at, at + ttl, KERNEL))

    def collect_kernel(self) -> int:
        """Take what has run out off the kernel's own map; how many entries that were."""
        before = int((self._clock() - KEPT_SECONDS) * NS_PER_SECOND)
        return self._firewall.maps.collector.collect(before)

    def collect(self) -> int:
        """Take what has run out off the kernel's map, some at a time; how much is left."""
        self._behind |= self.cache.take_stale()
        for _ in range(min(len(self._behind), COLLECT_AT_ONCE)):
            self._write(self._behind.pop())
        return len(self._behind)

    def policies_changed(self) -> None:
        """Names may have other identities now."""
        self._identities.clear()
        scopes = self._firewall.endpoints if self._firewall.settings.per_endpoint else [NODE]
        for scope in list(scopes):
            self.cache.rename(scope, partial(self._identity_now, scope))
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
        known = {i for i, _ in self._firewall.adopted_identities()}
        for key, value in list(self._firewall.maps.learned.items()):
            place = (key.scope, bytes_address(key.address))
            held = dict(self.cache.slots(place))
            for slot in value.slots:
                expires = slot.expires / NS_PER_SECOND
                if slot.identity in known and expires > max(now, held.get(slot.identity, 0)):
                    name = f"{ADOPTED}{slot.identity}"
                    ttl = int(expires - now)
                    adopted = Key(place[0], name, place[1])
                    self.cache.put(Record(adopted, slot.identity, ttl, now, expires, "proxy"))
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

    def forget(self, matches: Callable[[Record], bool]) -> int:
        """Drop what was learned, as far as it matches; how many addresses that were."""
        count = self.cache.forget([r.key for r in self.cache.records() if matches(r)])
        while self.collect():
            pass
        return count

    def forget_endpoint(self, endpoint_id: int) -> None:
        if self._firewall.settings.per_endpoint:
            self.forget(lambda record: record.key.endpoint == endpoint_id)

    def identities_held(self) -> set[int]:
        """Those that records or expectations refer to, and those in the kernel's map."""
        held = {record.identity for record in self.cache.records()}
        held.update(self._held_by_kernel, *self._merged.values())
        for endpoint in self._firewall.endpoints.values():
            if endpoint.resolved:
                for labels in self.expected_labels(endpoint.resolved):
                    found = self._firewall.allocator.find(labels)
                    held.add(found or 0)
        return held

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
