"""The kernel's maps as dictionaries, that count writes, fill up when told to, and judge packets.

``FakeMaps`` has what ``Firewall`` uses of ``fqdnwall.datapath.maps.Maps``. ``verdict`` is the
kernel's lookup (bpf/lib/policy.h) over what the maps hold at that moment, so that a test may ask it
after every single write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from fqdnwall.agent.moves import is_outside
from fqdnwall.datapath.layouts import (
    EndpointAddress,
    EndpointFlag,
    EndpointInfo,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    PolicyKey,
    PolicyValue,
    RuleKey,
    Verdict,
    address_bytes,
)
from fqdnwall.datapath.maps import MapFull

Address = IPv4Address | IPv6Address


@dataclass
class Journal:
    """Every write in its order. ``fail_at`` is the number of the write that finds a map full."""

    writes: list[tuple[str, str, object]] = field(default_factory=list)
    fail_at: int = 0
    watch: Callable[[], None] = lambda: None

    def begin(self, what: str, how: str, key: object) -> None:
        if how == "put" and self.fail_at:
            self.fail_at -= 1
            if not self.fail_at:
                raise MapFull(f"{what} is full")
        self.writes.append((what, how, key))

    def puts(self) -> int:
        return sum(how == "put" for _, how, _ in self.writes)


class FakeTable:
    """A hash map, and with ``prefix_length`` in its keys a trie."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.content: dict[Any, Any] = {}
        self._journal = journal

    def get(self, key: Any) -> Any:
        if isinstance(key, IpcacheKey):
            return self._longest(key)
        return self.content.get(key)

    def put(self, key: Any, value: Any) -> None:
        self._journal.begin(self.name, "put", key)
        self.content[key] = value
        self._journal.watch()

    def delete(self, key: Any) -> bool:
        self._journal.begin(self.name, "delete", key)
        found = self.content.pop(key, None) is not None
        self._journal.watch()
        return found

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(list(self.content.items()))

    def _longest(self, wanted: IpcacheKey) -> IpcacheValue | None:
        best: tuple[int, IpcacheValue] | None = None
        for key, value in self.content.items():
            fits = key.prefix_length <= wanted.prefix_length and same_bits(
                key.address, wanted.address, key.prefix_length
            )
            if fits and (best is None or key.prefix_length > best[0]):
                best = (key.prefix_length, value)
        return best[1] if best else None


def same_bits(one: bytes, other: bytes, count: int) -> bool:
    shift = 8 * len(one) - count
    return int.from_bytes(one, "big") >> shift == int.from_bytes(other, "big") >> shift


class FakePolicies:
    """Inner maps by descriptor; an inner map lives while it is open or in use."""

    def __init__(self, journal: Journal) -> None:
        self.inner: dict[int, dict[PolicyKey, PolicyValue]] = {}
        self.of: dict[int, int] = {}
        self.opened: dict[int, int] = {}
        self._journal = journal
        self._next = 100

    def build(self, entries: Iterable[tuple[PolicyKey, PolicyValue]]) -> int:
        self._journal.begin("inner", "put", None)
        return self._open(dict(entries))

    def close(self, fd: int) -> None:
        del self.opened[fd]

    def add(self, fd: int, entries: Iterable[tuple[PolicyKey, PolicyValue]]) -> None:
        for key, value in entries:
            self._journal.begin("inner", "put", key)
            self.inner[self.opened[fd]][key] = value
            self._journal.watch()

    def take(self, fd: int, keys: Iterable[PolicyKey]) -> None:
        for key in keys:
            self._journal.begin("inner", "delete", key)
            self.inner[self.opened[fd]].pop(key, None)
            self._journal.watch()

    def set(self, endpoint: int, fd: int) -> None:
        self._journal.begin("policies", "put", endpoint)
        self.of[endpoint] = self.opened[fd]
        self._journal.watch()

    def delete(self, endpoint: int) -> bool:
        self._journal.begin("policies", "delete", endpoint)
        return self.of.pop(endpoint, None) is not None

    def endpoints(self) -> list[int]:
        return list(self.of)

    def open(self, endpoint: int) -> int | None:
        if endpoint not in self.of:
            return None
        self._next += 1
        self.opened[self._next] = self.of[endpoint]
        return self._next

    def read(self, fd: int) -> dict[PolicyKey, PolicyValue]:
        return dict(self.inner[self.opened[fd]])

    def entries(self, endpoint: int) -> list[tuple[PolicyKey, PolicyValue]]:
        return list((self.content(endpoint) or {}).items())

    def content(self, endpoint: int) -> Mapping[PolicyKey, PolicyValue] | None:
        return self.inner[self.of[endpoint]] if endpoint in self.of else None

    def _open(self, entries: dict[PolicyKey, PolicyValue]) -> int:
        self._next += 1
        number = len(self.inner)
        self.inner[number] = entries
        self.opened[self._next] = number
        return self._next


class FakeMaps:
    def __init__(self) -> None:
        self.journal = Journal()
        tables = ("endpoints", "identities", "records", "ipcache", "learned", "answers")
        for name in (*tables, "dns_names"):
            setattr(self, name, FakeTable(name, self.journal))
        self.policies = FakePolicies(self.journal)
        self.owners: set[EndpointAddress] = set()

    endpoints: FakeTable
    identities: FakeTable
    records: FakeTable
    ipcache: FakeTable
    learned: FakeTable
    answers: FakeTable
    dns_names: FakeTable

    def own(self, owned: EndpointAddress) -> None:
        self.journal.begin("endpoint_ips", "put", owned)
        self.owners.add(owned)

    def disown(self, owned: EndpointAddress) -> None:
        self.owners.discard(owned)

    def owned(self) -> set[EndpointAddress]:
        return set(self.owners)

    def counted_rules(self) -> list[RuleKey]:
        return []

    def clear_endpoint_counters(self, endpoint: int) -> None:
        pass

    def verdict(
        self, ifindex: int, remote: Address, protocol: int, port: int, now_ns: int = 0
    ) -> str:
        """What becomes of an endpoint's new flow to ``remote``."""
        info = self.endpoints.content.get(ifindex)
        if info is None:
            return "drop"
        policy = self.policies.content(info.id)
        default = "drop" if info.flags & EndpointFlag.ENFORCE_EGRESS else "allow"
        if policy is None:
            return default
        best: tuple[int, int, bool, PolicyValue] | None = None
        for identity in (0, *self._identities(info, remote, now_ns)):
            found = longest_entry(policy, identity, protocol, port)
            if found is not None:
                rank = (found.precedence, found.l4_prefix, identity != 0)
                if best is None or rank > best[:3]:
                    best = (*rank, found)
        return default if best is None else _WORDS[Verdict(best[3].verdict)]

    def _identities(self, info: EndpointInfo, remote: Address, now_ns: int) -> Iterator[int]:
        value = self.ipcache.get(IpcacheKey(128, address_bytes(remote)))
        identity = value.identity if value else 9 if remote.version == 4 else 10
        yield identity
        if not is_outside(identity):
            return
        key = LearnedKey(info.scope, address_bytes(remote))
        for table in (self.learned, self.answers):
            learned = table.content.get(key)
            for slot in learned.slots if learned else ():
                if slot.identity and slot.expires > now_ns:
                    yield slot.identity


_WORDS = {Verdict.ALLOW: "allow", Verdict.DENY: "drop", Verdict.REDIRECT: "proxy"}


def longest_entry(
    policy: Mapping[PolicyKey, PolicyValue], identity: int, protocol: int, port: int
) -> PolicyValue | None:
    """The longest egress entry of an identity that covers the packet."""
    for bits in range(16, -1, -1):
        covered = port >> (16 - bits) << (16 - bits) if bits else 0
        key = PolicyKey(48 + bits, identity, 1, protocol, covered)
        if key in policy:
            return policy[key]
    return policy.get(PolicyKey(40, identity, 1, 0, 0))
