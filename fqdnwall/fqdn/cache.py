"""What was learned: (endpoint, name, address) → until when.

The kernel's learned map is a function of this cache: ``slots`` gives, for one endpoint and
address, the identities and expiries that the map should hold now. Every bound evicts the entry
that is used least or ends first, counts it, and tells the caller which addresses to write again.
Times are seconds of the clock that is given (the kernel's boot clock).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from cachetools import TLRUCache

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Key:
    endpoint: int
    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class Record:
    """One address of one name. ``identity`` is 0 when no selector matches the name."""

    key: Key
    identity: int
    ttl_seconds: int
    learned_at: float
    expires_at: float
    source: str  # "proxy" or "kernel"


KERNEL = "kernel"
"""The source of what the kernel learned by itself, into a map of its own."""

Place = tuple[int, Address]
"""(endpoint, address): what one entry of the learned map is about."""


def _expiry(_key: Key, record: Record, _now: float) -> float:
    return record.expires_at


class _Bounded(TLRUCache[Key, Record]):
    """Tells of every record that goes by itself: run out, or evicted for want of room."""

    def __init__(
        self, maxsize: int, timer: Callable[[], float], gone: Callable[[Record, bool], None]
    ) -> None:
        super().__init__(maxsize, _expiry, timer=timer)
        self._gone = gone

    def expire(self, time: float | None = None) -> list[tuple[Key, Record]]:
        expired = list(super().expire(time))
        for _, record in expired:
            self._gone(record, False)
        return expired

    def popitem(self) -> tuple[Key, Record]:
        key, record = super().popitem()
        self._gone(record, True)
        return key, record


class NameCache:
    """``capacity`` records in all, ``per_name`` addresses for one name of one endpoint."""

    def __init__(
        self, clock: Callable[[], float], capacity: int = 200_000, per_name: int = 10_000
    ) -> None:
        self._per_name = per_name
        self._records = _Bounded(capacity, clock, self._gone)
        self._by_name: defaultdict[tuple[int, str], dict[Address, Key]] = defaultdict(dict)
        self._by_place: defaultdict[Place, dict[str, Key]] = defaultdict(dict)
        self._stale: set[Place] = set()
        self.capacity = capacity
        self.evicted = 0
        self.changes = 0
        """Grows with every record that comes or goes."""

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        """Learn, or learn again: the later expiry holds."""
        key = record.key
        known = self._records.get(key)
        if known is not None and known.identity == record.identity:
            if known.expires_at >= record.expires_at:
                return
        elif known is None:
            self._make_room(key)
        self.changes += 1
        self._records[key] = record
        self._by_name[key.endpoint, key.name][key.address] = key
        self._by_place[key.endpoint, key.address][key.name] = key
        self._stale.add((key.endpoint, key.address))

    def get(self, key: Key) -> Record | None:
        return self._records.get(key)

    def take_stale(self) -> set[Place]:
        """Places whose entry in the kernel's map may differ from ``slots`` since last asked."""
        self._records.expire()
        stale, self._stale = self._stale, set()
        return stale

    def slots(self, place: Place) -> tuple[tuple[int, float], ...]:
        """(identity, expiry) of each set of selectors that the address stands for, latest first.

        Without what the kernel learned. What must be merged to fit is for the caller: see
        ``fqdnwall.fqdn.identities``.
        """
        latest: dict[int, float] = {}
        for key in self._by_place.get(place, {}).values():
            record = self._records.get(key)
            if record is not None and record.identity and record.source != KERNEL:
                latest[record.identity] = max(record.expires_at, latest.get(record.identity, 0))
        return tuple(sorted(latest.items(), key=lambda slot: -slot[1]))

    def names_of(self, endpoint: int, address: Address) -> tuple[str, ...]:
        """Names under which the endpoint learned the address, the latest first."""
        keys = self._by_place.get((endpoint, address), {}).values()
        found = [record for key in keys if (record := self._records.get(key)) is not None]
        return tuple(r.key.name for r in sorted(found, key=lambda r: -r.learned_at))

    def names(self, endpoint: int) -> tuple[str, ...]:
        return tuple(name for owner, name in self._by_name if owner == endpoint)

    def records(self) -> Iterator[Record]:
        """Every live record."""
        for keys in list(self._by_name.values()):
            for key in list(keys.values()):
                record = self._records.get(key)
                if record is not None:
                    yield record

    def rename(self, endpoint: int, identity_of: Callable[[str], int]) -> None:
        """Give every name of an endpoint the identity that its policy has for it now."""
        for record in [r for r in self.records() if r.key.endpoint == endpoint]:
            identity = identity_of(record.key.name)
            if identity != record.identity:
                # What the kernel learned under another identity is ours to hold from now on.
                self.put(replace(record, identity=identity, source="proxy"))

    def forget(self, keys: Iterable[Key]) -> int:
        """Drop records, whatever their time; how many there were."""
        count = 0
        for key in list(keys):
            if self._records.pop(key, None) is not None:
                count += 1
            self._unlink(key)
        return count

    def _make_room(self, key: Key) -> None:
        addresses = self._by_name.get((key.endpoint, key.name), {})
        if len(addresses) < self._per_name:
            return
        live = [record for k in addresses.values() if (record := self._records.get(k)) is not None]
        if len(live) >= self._per_name:
            first = min(live, key=lambda record: record.expires_at)
            self.evicted += 1
            self.forget([first.key])

    def _gone(self, record: Record, evicted: bool) -> None:
        self.evicted += evicted
        self._unlink(record.key)

    def _unlink(self, key: Key) -> None:
        self.changes += 1
        self._stale.add((key.endpoint, key.address))
        addresses = self._by_name.get((key.endpoint, key.name), {})
        addresses.pop(key.address, None)
        if not addresses:
            self._by_name.pop((key.endpoint, key.name), None)
        names = self._by_place.get((key.endpoint, key.address), {})
        names.pop(key.name, None)
        if not names:
            self._by_place.pop((key.endpoint, key.address), None)
