"""The maps: their kinds, keys, values and sizes; and the programs that use them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fqdnwall.datapath.layout import Layout
from fqdnwall.datapath.layouts.dns import (
    DnsExchange,
    DnsLearned,
    DnsNameKey,
    DnsNode,
    DnsStatsKey,
    PlaceKey,
)
from fqdnwall.datapath.layouts.structs import (
    ENDPOINT_SLOTS,
    Counter,
    CtKey,
    CtValue,
    EndpointAddress,
    EndpointInfo,
    EndpointRecord,
    EventBudget,
    FragmentKey,
    FragmentValue,
    IdentityRecord,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    LearnedValue,
    NodeConfig,
    PolicyKey,
    PolicyValue,
    RuleKey,
)


class MapType(IntEnum):
    """BPF map types that we use, by the kernel's numbers."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    HASH_OF_MAPS = 13
    RINGBUF = 27

    @property
    def c_name(self) -> str:
        return self.name.lower()

    @property
    def per_cpu(self) -> bool:
        return self in (MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


NO_PREALLOC = 1  # BPF_F_NO_PREALLOC


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map: what the kernel is asked for, and what bcc compiles against.

    ``key`` and ``value`` are a ``Layout`` or the name of a C scalar; ``default`` is the largest
    number of entries (bytes, for a ring buffer) unless the configuration says otherwise.
    """

    name: str
    kind: MapType
    key: type[Layout] | str
    value: type[Layout] | str
    default: int
    flags: int = 0

    @property
    def key_size(self) -> int:
        return 0 if self.kind is MapType.RINGBUF else _size(self.key)

    @property
    def value_size(self) -> int:
        return 0 if self.kind is MapType.RINGBUF else _size(self.value)

    def c(self) -> str:
        key, value = _c_type(self.key), _c_type(self.value)
        if self.kind is MapType.HASH_OF_MAPS:
            return f'BPF_TABLE("hash_of_maps${POLICY_SHAPE.name}", {key}, int, {self.name}, 1);'
        if self.kind is MapType.RINGBUF:
            return f"BPF_RINGBUF_OUTPUT({self.name}, 1);"
        entries = self.default if self.kind in (MapType.ARRAY, MapType.PERCPU_ARRAY) else 1
        return (
            f'BPF_F_TABLE("{self.kind.c_name}", {key}, {value}, {self.name}, {entries}, '
            f"{self.flags});"
        )


SCALAR_SIZES = {"u8": 1, "u32": 4, "u64": 8}


def _size(of: type[Layout] | str) -> int:
    return SCALAR_SIZES[of] if isinstance(of, str) else of.size()


def _c_type(of: type[Layout] | str) -> str:
    return of if isinstance(of, str) else f"struct {of.C_NAME}"


POLICY_SHAPE = MapSpec("policy_shape", MapType.LPM_TRIE, PolicyKey, PolicyValue, 16384, NO_PREALLOC)
"""What every policy's own map looks like."""

MAPS: tuple[MapSpec, ...] = (
    MapSpec("config", MapType.ARRAY, "u32", NodeConfig, 1),
    MapSpec("endpoints", MapType.HASH, "u32", EndpointInfo, 4096),
    MapSpec("endpoint_ips", MapType.HASH, EndpointAddress, "u8", 16384),
    MapSpec("ipcache", MapType.LPM_TRIE, IpcacheKey, IpcacheValue, 512000, NO_PREALLOC),
    MapSpec("learned", MapType.HASH, LearnedKey, LearnedValue, 524288, NO_PREALLOC),
    MapSpec("conntrack", MapType.LRU_HASH, CtKey, CtValue, 131072),
    MapSpec("fragments", MapType.LRU_HASH, FragmentKey, FragmentValue, 8192),
    MapSpec("rule_stats", MapType.LRU_PERCPU_HASH, RuleKey, Counter, 16384),
    MapSpec("drop_stats", MapType.PERCPU_ARRAY, "u32", Counter, 512),
    MapSpec("endpoint_stats", MapType.PERCPU_ARRAY, "u32", Counter, 4 * ENDPOINT_SLOTS),
    MapSpec("budgets", MapType.LRU_HASH, "u32", EventBudget, 4096),
    MapSpec("events_lost", MapType.PERCPU_ARRAY, "u32", "u64", 1),
    MapSpec("events", MapType.RINGBUF, "u32", "u32", 1 << 20),
    MapSpec("answers", MapType.HASH, PlaceKey, DnsLearned, 1 << 20, NO_PREALLOC),
    MapSpec("dns_names", MapType.LPM_TRIE, DnsNameKey, DnsNode, 65536, NO_PREALLOC),
    MapSpec("dns_exchanges", MapType.LRU_HASH, PlaceKey, DnsExchange, 65536),
    MapSpec("dns_stats", MapType.LRU_PERCPU_HASH, DnsStatsKey, "u64", 16384),
    MapSpec("dns_budgets", MapType.LRU_HASH, "u32", EventBudget, 4096),
    MapSpec("identities", MapType.HASH, "u32", IdentityRecord, 65536, NO_PREALLOC),
    MapSpec("records", MapType.HASH, "u32", EndpointRecord, 4096, NO_PREALLOC),
    MapSpec("policies", MapType.HASH_OF_MAPS, "u32", "u32", 4096),
)

TAIL_CALLS = {"dns_query": 0, "dns_answer": 1, "dns_records": 2, "dns_learn": 3, "dns_error": 4}
"""Index in the programs' own `calls` array."""
CALLS = "calls"
SK_BUFF_PLACES = "sk_buff_places"
"""A map of the programs alone, with one `SkBuffPlaces`."""
PROGRAMS = ("from_endpoint", "to_endpoint", *TAIL_CALLS)
