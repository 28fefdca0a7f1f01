"""What was learned: (endpoint, name, address) → until when.

The kernel's learned map is a function of this cache: ``slots`` gives, for one endpoint and
address, the identities and expiries that the map should hold now. Every bound evicts the entry
that is used least or ends first, counts it, and tells the caller which addresses to write again.
Times are seconds of the clock that is given (the kernel's boot clock).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any, TypeVar

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


PROXY = "proxy"
KERNEL = "kernel"
"""The source of what the kernel learned by itself, into a map of its own."""

Place = tuple[int, Address]
"""(endpoint, address): what one entry of the learned map is about."""


NAMES_TOLD = 16
"""An address has at most so many names in an event; the cache listing shows them all."""

_K = TypeVar("_K")
_L = TypeVar("_L")


def _expiry(_key: Key, record: Record, _now: float) -> float:
    return record.expires_at


class _Bounded(TLRUCache[Key, Record]):
    """Tells of every record that goes by itself: run out, or evicted for want of room."""

    def __init__(
        self, maxsize: int, timer: Callable[[], float], gone: Callable[[Record, bool], None]
    ) -> None:
        super().__init__(maxsize, _expiry, timer=timer)
        self._gone = gone

    @contextmanager
    def frozen(self) -> Iterator[float]:
        """One moment for everything within: nothing runs out between two looks."""
        timer: Any = self.timer
        with timer as now:
            yield now

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
    """``capacity`` records in all, ``per_name`` addresses for one name of one endpoint.

    What is asked for while a packet waits (``put``, ``slots``, ``names_of``) costs the same whether
    an address has one name or a hundred thousand.
    """

    def __init__(
        self, clock: Callable[[], float], capacity: int = 200_000, per_name: int = 10_000
    ) -> None:
        self._clock = clock
        self._per_name = per_name
        self._records = _Bounded(capacity, clock, self._gone)
        self._by_name: defaultdict[int, dict[str, dict[Address, Key]]] = defaultdict(dict)
        self._by_place: defaultdict[Place, dict[str, Key]] = defaultdict(dict)
        """In the order of learning, as are the addresses of a name."""
        self._latest: dict[Place, dict[int, float]] = {}
        """The latest expiry of each identity; what has run out may still be in it."""
        self._unsure: set[Place] = set()
        """Where the record with the latest expiry was taken away before its time."""
        self._fading: dict[Place, dict[int, float]] = {}
        self._held: Counter[int] = Counter()
        self._stale: set[Place] = set()
        self.capacity = capacity
        self.evicted = 0
        self.changes = 0
        """Grows with every record that comes or goes."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def identities(self) -> Set[int]:
        """Those that records refer to."""
        return self._held.keys()

    def put(self, record: Record) -> None:
        """Learn, or learn again: the later expiry holds. What has run out already is not kept."""
        with self._records.frozen() as now:
            if record.expires_at > now:
                self._put(record)

    def _put(self, record: Record) -> None:
        key, place = record.key, (record.key.endpoint, record.key.address)
        known = self._records.get(key)
        same = known is not None and known.identity == record.identity
        if known is None:
            self._make_room(key)
        elif same and known.expires_at >= record.expires_at:
            return
        sure = place not in self._unsure
        self.forget([key])
        self.changes += 1
        self._stale.add(place)
        self._records[key] = record
        self._by_name[key.endpoint].setdefault(key.name, {})[key.address] = key
        self._by_place[place][key.name] = key
        self._held[record.identity] += 1
        if _enforced(record):
            latest = self._latest.setdefault(place, {})
            latest[record.identity] = max(record.expires_at, latest.get(record.identity, 0.0))
            if same and sure:  # what was taken away is surpassed
                self._unsure.discard(place)

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
        if place in self._unsure:
            self._look_again(place)
        now = self._clock()
        live = dict(self._latest.get(place, {}))
        for identity, expiry in self._fading.get(place, {}).items():
            live[identity] = max(expiry, live.get(identity, 0.0))
        found = [(identity, expiry) for identity, expiry in live.items() if expiry > now]
        return tuple(sorted(found, key=lambda slot: -slot[1]))

    def names_of(self, endpoint: int, address: Address, limit: int = NAMES_TOLD) -> tuple[str, ...]:
        """Names under which the endpoint learned the address, the latest first."""
        keys = self._by_place.get((endpoint, address), {})
        live = (key.name for key in reversed(keys.values()) if key in self._records)
        return tuple(islice(live, limit))

    def records(self, endpoint: int | None = None) -> Iterator[Record]:
        """Every live record, or every one of one endpoint."""
        owners = list(self._by_name) if endpoint is None else [endpoint]
        for owner in owners:
            for keys in list(self._by_name.get(owner, {}).values()):
                for key in list(keys.values()):
                    record = self._records.get(key)
                    if record is not None:
                        yield record

    def endpoints(self) -> tuple[int, ...]:
        """Those that anything was learned for."""
        return tuple(self._by_name)

    def rename(self, endpoint: int, identity_of: Callable[[str], int]) -> None:
        """Give every name of an endpoint the identity that its policy will have for it.

        An address keeps the one that it had, too, until ``fade``: whichever policy a packet meets
        in between knows the address.
        """
        for record in list(self.records(endpoint)):
            identity = identity_of(record.key.name)
            if identity == record.identity:
                continue
            if _enforced(record):
                fading = self._fading.setdefault((endpoint, record.key.address), {})
                latest = fading.get(record.identity, 0.0)
                fading[record.identity] = max(record.expires_at, latest)
            # What the kernel learned under another identity is ours to hold from now on.
            self.put(replace(record, identity=identity, source=PROXY))

    def fade(self) -> None:
        """The policies that knew addresses by their names' former identities are gone."""
        self._stale |= self._fading.keys()
        self._fading.clear()

    def forget(self, keys: Iterable[Key]) -> int:
        """Drop records, whatever their time; how many there were."""
        count = 0
        for key in list(keys):
            record = self._records.pop(key, None)
            if record is not None:
                count += 1
                self._unlink(record)
        return count

    def _look_again(self, place: Place) -> None:
        latest: dict[int, float] = {}
        for key in self._by_place.get(place, {}).values():
            record = self._records.get(key)
            if record is not None and _enforced(record):
                latest[record.identity] = max(record.expires_at, latest.get(record.identity, 0.0))
        self._latest[place] = latest
        self._unsure.discard(place)

    def _make_room(self, key: Key) -> None:
        """The address of the name that was learned longest ago gives way to a new one."""
        addresses = self._by_name.get(key.endpoint, {}).get(key.name, {})
        if len(addresses) < self._per_name:
            return
        self._records.expire()
        if len(addresses) >= self._per_name:
            self.evicted += 1
            self.forget([next(iter(addresses.values()))])

    def _gone(self, record: Record, evicted: bool) -> None:
        self.evicted += evicted
        self._unlink(record)

    def _unlink(self, record: Record) -> None:
        key = record.key
        place = (key.endpoint, key.address)
        self.changes += 1
        self._stale.add(place)
        self._held[record.identity] -= 1
        if not self._held[record.identity]:
            del self._held[record.identity]
        _take(self._by_name[key.endpoint], key.name, key.address)
        if not self._by_name[key.endpoint]:
            del self._by_name[key.endpoint]
        _take(self._by_place, place, key.name)
        if place not in self._by_place:
            self._latest.pop(place, None)
            self._unsure.discard(place)
        elif _enforced(record):
            latest = self._latest[place].get(record.identity)
            if latest is not None and record.expires_at >= latest:
                self._unsure.add(place)


def _enforced(record: Record) -> bool:
    """Whether the record has a part in the kernel's map that is ours to write."""
    return bool(record.identity) and record.source != KERNEL


def _take(index: MutableMapping[_K, dict[_L, Key]], outer: _K, inner: _L) -> None:
    """Take an entry off; nothing empty stays behind."""
    entries = index[outer]
    del entries[inner]
    if not entries:
        del index[outer]
