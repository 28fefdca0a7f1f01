"""What a datapath holds outlives the one who loaded it, also when its maps are to be larger."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fqdnwall.datapath import loader
from fqdnwall.datapath.layouts import (
    EndpointInfo,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
)
from fqdnwall.datapath.maps import Maps

pytestmark = pytest.mark.kernel
SIZES = {"conntrack": 64, "learned": 64, "answers": 64, "ipcache": 64, "endpoints": 16}
KEY = LearnedKey(1, b"\1" * 16)
VALUE = LearnedValue((LearnedSlot(7, 0, 1 << 60), *[LearnedSlot(0, 0, 0)] * 3))


@pytest.fixture
def instance() -> Iterator[str]:
    name = f"test-taken-over-{os.getpid()}"
    yield name
    loader.unload(name)


def test_a_map_that_gets_another_size_keeps_what_it_holds(instance: str) -> None:
    first = loader.load(instance, SIZES)
    maps = Maps(first.maps)
    maps.learned.put(KEY, VALUE)
    maps.ipcache.put(IpcacheKey(128, b"\2" * 16), IpcacheValue(5, 0, bytes(16)))
    maps.endpoints.put(3, EndpointInfo(1, 256, 1, 1, 0))
    first.close()
    second = loader.load(instance, {**SIZES, "learned": 128, "ipcache": 32, "endpoints": 16})
    try:
        maps = Maps(second.maps)
        assert maps.learned.get(KEY) == VALUE
        assert len(maps.ipcache) == 1
        assert maps.endpoints.get(3) == EndpointInfo(1, 256, 1, 1, 0)
    finally:
        second.close()


def test_counters_of_an_endpoint_begin_at_zero(instance: str) -> None:
    datapath = loader.load(instance, {**SIZES, "endpoint_stats": 64})
    try:
        maps = Maps(datapath.maps)
        maps.clear_endpoint_counters(3)
        assert maps.endpoint_counter(3, dropped=True, egress=True).packets == 0
        maps.clear_endpoint_counters(1000)
        assert maps.endpoint_counter(1000, dropped=False, egress=True).packets == 0
    finally:
        datapath.close()


def test_an_instance_that_nobody_loaded_guards_nothing(instance: str) -> None:
    assert loader.guarded_interfaces(instance) == []
    loader.unload(instance)
