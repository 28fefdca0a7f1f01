"""Typed views on the pinned maps: layouts in, layouts out.

A ``Table`` is one hash or LPM map. ``Policies`` makes one inner map for each distinct policy and
swaps it in whole. Reads of large tables go in batches where the kernel has them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from fqdnwall.datapath import libbpf, loader
from fqdnwall.datapath.layout import Layout
from fqdnwall.datapath.layouts import (
    ENDPOINT_SLOTS,
    MAPS,
    POLICY_SHAPE,
    Counter,
    CtKey,
    CtValue,
    DnsLearned,
    DnsNameKey,
    DnsNode,
    DnsPath,
    DnsStatsKey,
    EndpointAddress,
    EndpointInfo,
    EndpointRecord,
    EventBudget,
    IdentityRecord,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    MapSpec,
    NodeConfig,
    PlaceKey,
    PolicyKey,
    PolicyValue,
    RuleKey,
)

K = TypeVar("K", bound=Layout)
V = TypeVar("V", bound=Layout)

SPECS: Mapping[str, MapSpec] = {spec.name: spec for spec in MAPS}


FULL = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})
"""How the kernel says that a map holds all it may."""


class MapFull(Exception):
    """The map holds as many entries as it may."""


@contextlib.contextmanager
def _full_is_said() -> Iterator[None]:
    """Raises MapFull in the place of the OSError that means it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise MapFull(str(error)) from error
        raise


class Table(Generic[K, V]):
    """A map from one layout to another. Raises MapFull or OSError."""

    def __init__(self, fd: int, key: type[K], value: type[V]) -> None:
        self.fd = fd
        self._key = key
        self._value = value

    def get(self, key: K) -> V | None:
        raw = libbpf.lookup(self.fd, key.pack(), self._value.size())
        return None if raw is None else self._value.unpack(raw)

    def put(self, key: K, value: V) -> None:
        with _full_is_said():
            libbpf.update(self.fd, key.pack(), value.pack())

    def put_many(self, items: Iterable[tuple[K, V]]) -> None:
        with _full_is_said():
            libbpf.update_batch(self.fd, [(key.pack(), value.pack()) for key, value in items])

    def delete(self, key: K) -> bool:
        return libbpf.delete(self.fd, key.pack())

    def items(self) -> Iterator[tuple[K, V]]:
        for key, value in self._raw_items():
            yield self._key.unpack(key), self._value.unpack(value)

    def __len__(self) -> int:
        return sum(1 for _ in libbpf.keys(self.fd, self._key.size()))

    def _raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        return libbpf.all_items(self.fd, self._key.size(), self._value.size())


class Answers:
    """What the kernel has learned of answers that it read itself; user space only takes away."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def items(self) -> Iterator[tuple[LearnedKey, LearnedValue]]:
        """Each address once, with every identity that it carries, be its time over or not."""
        found: dict[LearnedKey, list[LearnedSlot]] = {}
        for raw_key, raw in self._raw_items():
            entry = DnsLearned.unpack(raw)
            key = LearnedKey(PlaceKey.unpack(raw_key).owner, entry.address)
            found.setdefault(key, []).append(LearnedSlot(entry.identity, 0, entry.expires))
        for key, slots in found.items():
            yield key, LearnedValue(tuple(slots))

    def collect(self, before: int) -> int:
        """Delete entries whose time ended before that (ns); how many they were.

        One that the kernel learned again just then is put back: see ``libbpf.take``.
        """
        gone = 0
        for raw_key, raw in list(self._raw_items()):
            if _expires(raw) >= before:
                continue
            taken = libbpf.take(self.fd, raw_key, DnsLearned.size())
            if taken is not None and _expires(taken) >= before:
                with contextlib.suppress(OSError):  # it was learned once more
                    libbpf.update(self.fd, raw_key, taken, libbpf.BPF_NOEXIST)
                continue
            gone += 1
        return gone

    def _raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        return libbpf.all_items(self.fd, PlaceKey.size(), DnsLearned.size())


def _expires(raw: bytes) -> int:
    """The expiry in the octets of a DnsLearned."""
    return int.from_bytes(raw[-8:], "little")


class Numbered(Generic[V]):
    """A hash map from a number (u32) to a layout."""

    def __init__(self, fd: int, value: type[V]) -> None:
        self.fd = fd
        self._value = value

    def put(self, number: int, value: V) -> None:
        with _full_is_said():
            libbpf.update(self.fd, _u32(number), value.pack())

    def get(self, number: int) -> V | None:
        raw = libbpf.lookup(self.fd, _u32(number), self._value.size())
        return None if raw is None else self._value.unpack(raw)

    def delete(self, number: int) -> bool:
        return libbpf.delete(self.fd, _u32(number))

    def items(self) -> Iterator[tuple[int, V]]:
        for key in libbpf.keys(self.fd, 4):
            raw = libbpf.lookup(self.fd, key, self._value.size())
            if raw is not None:
                yield int.from_bytes(key, "little"), self._value.unpack(raw)


class Policies:
    """endpoint id → a whole policy, in an inner map that endpoints may share."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @staticmethod
    def build(entries: Iterable[tuple[PolicyKey, PolicyValue]]) -> int:
        """A new inner map with these entries; the caller owns its fd. Raises MapFull."""
        items = [(key.pack(), value.pack()) for key, value in entries]
        if len(items) > POLICY_SHAPE.default:
            raise MapFull(f"a policy of {len(items)} entries; {POLICY_SHAPE.default} fit")
        with _full_is_said():
            fd = loader.create(POLICY_SHAPE, POLICY_SHAPE.default)
            try:
                libbpf.update_batch(fd, items)
            except OSError:
                os.close(fd)
                raise
        return fd

    @staticmethod
    def close(policy_fd: int) -> None:
        """Let go of an inner map; it lives on for as long as an endpoint has it."""
        os.close(policy_fd)

    @staticmethod
    def add(policy_fd: int, entries: Iterable[tuple[PolicyKey, PolicyValue]]) -> None:
        """Entries for identities that no packet can have yet. Raises MapFull."""
        Table(policy_fd, PolicyKey, PolicyValue).put_many(entries)

    @staticmethod
    def take(policy_fd: int, keys: Iterable[PolicyKey]) -> None:
        """Take off entries of identities that no packet has any more."""
        for key in keys:
            libbpf.delete(policy_fd, key.pack())

    def set(self, endpoint: int, policy_fd: int) -> None:
        """Swap the endpoint's policy: every packet sees the old one or the new one."""
        with _full_is_said():
            libbpf.update(self.fd, _u32(endpoint), _u32(policy_fd))

    def delete(self, endpoint: int) -> bool:
        return libbpf.delete(self.fd, _u32(endpoint))

    def endpoints(self) -> list[int]:
        """Those that have a policy."""
        return [int.from_bytes(key, "little") for key in libbpf.keys(self.fd, 4)]

    def open(self, endpoint: int) -> int | None:
        """The inner map of an endpoint; the caller owns its fd."""
        raw = libbpf.lookup(self.fd, _u32(endpoint), 4)
        return None if raw is None else libbpf.map_by_id(int.from_bytes(raw, "little"))

    @staticmethod
    def read(policy_fd: int) -> dict[PolicyKey, PolicyValue]:
        """What an inner map holds."""
        return dict(Table(policy_fd, PolicyKey, PolicyValue).items())

    def entries(self, endpoint: int) -> list[tuple[PolicyKey, PolicyValue]]:
        """What the kernel holds for the endpoint."""
        fd = self.open(endpoint)
        if fd is None:
            return []
        try:
            return list(self.read(fd).items())
        finally:
            os.close(fd)


class Maps:
    """Every map of one instance."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = fds
        self.endpoints = Numbered(fds["endpoints"], EndpointInfo)
        self.identities = Numbered(fds["identities"], IdentityRecord)
        self.records = Numbered(fds["records"], EndpointRecord)
        self.policies = Policies(fds["policies"])
        self.ipcache = Table(fds["ipcache"], IpcacheKey, IpcacheValue)
        self.learned = Table(fds["learned"], LearnedKey, LearnedValue)
        self.answers = Answers(fds["answers"])
        self.dns_names = Table(fds["dns_names"], DnsNameKey, DnsNode)
        self.conntrack = Table(fds["conntrack"], CtKey, CtValue)

    def set_config(self, config: NodeConfig) -> None:
        libbpf.update(self.fds["config"], _u32(0), config.pack())

    def config(self) -> NodeConfig:
        return NodeConfig.unpack(
            libbpf.lookup(self.fds["config"], _u32(0), NodeConfig.size())
            or bytes(NodeConfig.size())
        )

    def own(self, owned: EndpointAddress) -> None:
        """Let the endpoint send from the address. Raises MapFull."""
        with _full_is_said():
            libbpf.update(self.fds["endpoint_ips"], owned.pack(), b"\x01")

    def disown(self, owned: EndpointAddress) -> None:
        libbpf.delete(self.fds["endpoint_ips"], owned.pack())

    def owned(self) -> set[EndpointAddress]:
        keys = libbpf.keys(self.fds["endpoint_ips"], EndpointAddress.size())
        return {EndpointAddress.unpack(key) for key in keys}

    def packet_counters(self) -> dict[tuple[int, bool], Counter]:
        """(drop reason or 0, from the endpoint?) → packets and bytes over all CPUs; no zeros."""
        out = {}
        for index in range(SPECS["drop_stats"].default):
            total = self._sum("drop_stats", _u32(index))
            if total is not None and total.packets:
                out[index // 2, bool(index % 2)] = total
        return out

    def rule_counters(self) -> dict[RuleKey, Counter]:
        """How often each rule decided on a new flow or a drop."""
        out = {}
        for key in libbpf.keys(self.fds["rule_stats"], RuleKey.size()):
            total = self._sum("rule_stats", key)
            if total is not None:
                out[RuleKey.unpack(key)] = total
        return out

    def counted_rules(self) -> list[RuleKey]:
        """Rules that ``rule_counters`` knows."""
        keys = libbpf.keys(self.fds["rule_stats"], RuleKey.size())
        return [RuleKey.unpack(key) for key in keys]

    def endpoint_counter(self, endpoint: int, *, dropped: bool, egress: bool) -> Counter:
        """An endpoint's packets and bytes; egress is what it sends."""
        index = endpoint % ENDPOINT_SLOTS * 4 + dropped * 2 + egress
        return self._sum("endpoint_stats", _u32(index)) or Counter(0, 0)

    def clear_endpoint_counters(self, endpoint: int) -> None:
        """Let a new endpoint begin at zero."""
        zeros = bytes(Counter.size() * libbpf.cpus())
        for index in range(4):
            key = _u32(endpoint % ENDPOINT_SLOTS * 4 + index)
            with contextlib.suppress(OSError):  # an instance with few endpoints has fewer slots
                libbpf.update(self.fds["endpoint_stats"], key, zeros)

    def dns_counters(self) -> dict[tuple[int, DnsPath], int]:
        """(endpoint, path) → DNS messages that went that way."""
        out = {}
        for raw in libbpf.keys(self.fds["dns_stats"], DnsStatsKey.size()):
            values = libbpf.lookup(self.fds["dns_stats"], raw, 8 * libbpf.cpus())
            if values is not None:
                key = DnsStatsKey.unpack(raw)
                out[key.endpoint, DnsPath(key.path)] = _sum_u64(values)
        return out

    def events_lost(self) -> int:
        """Records that found the ring buffer full."""
        return _sum_u64(libbpf.lookup(self.fds["events_lost"], _u32(0), 8 * libbpf.cpus()) or b"")

    def events_suppressed(self) -> int:
        """Records above an endpoint's budget."""
        total = 0
        for fd in (self.fds["budgets"], self.fds["dns_budgets"]):
            for key in libbpf.keys(fd, 4):
                raw = libbpf.lookup(fd, key, EventBudget.size())
                total += EventBudget.unpack(raw).suppressed if raw else 0
        return total

    def _sum(self, name: str, key: bytes) -> Counter | None:
        size = Counter.size()
        raw = libbpf.lookup(self.fds[name], key, size * libbpf.cpus())
        if raw is None:
            return None
        counters = [Counter.unpack(raw[at : at + size]) for at in range(0, len(raw), size)]
        return Counter(sum(c.packets for c in counters), sum(c.bytes for c in counters))


def _sum_u64(values: bytes) -> int:
    return sum(int.from_bytes(values[at : at + 8], "little") for at in range(0, len(values), 8))


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
