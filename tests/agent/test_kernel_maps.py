"""The same with the kernel's own maps: their tries, their sizes, their way of being full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from fqdnwall.datapath.layouts import MAPS, POLICY_SHAPE, MapType
from fqdnwall.datapath.loader import create
from fqdnwall.datapath.maps import MapFull, Maps
from tests.agent.test_any_state import STATES, Step, take
from tests.agent.world import ADDRESSES, POLICIES, RESOLVER, World, policy

pytestmark = pytest.mark.kernel
SMALL = {"conntrack": 64, "learned": 64, "ipcache": 64, "answers": 64, "dns_names": 256}


@contextmanager
def maps(**sizes: int) -> Iterator[Maps]:
    """Maps that no program uses."""
    chosen = {**SMALL, **sizes}
    fds = {
        spec.name: create(spec, chosen.get(spec.name, min(spec.default, 4096)))
        for spec in MAPS
        if spec.kind is not MapType.RINGBUF
    }
    fds["events"] = -1
    try:
        yield Maps(fds)
    finally:
        for fd in fds.values():
            if fd >= 0:
                os.close(fd)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(STATES)
def test_the_kernels_maps_are_a_function_of_what_is_wanted_now(steps: list[Step]) -> None:
    with maps() as real:
        world = World(maps=real)
        for step in steps:
            take(world, step)
        world.pass_time(0)
        assert world.says() == world.from_scratch().says()


@pytest.mark.parametrize(
    ("name", "size"), [("ipcache", 3), ("endpoints", 1), ("policies", 1), ("records", 2)]
)
def test_a_map_that_is_full_leaves_the_former_state_in_force(name: str, size: int) -> None:
    with maps(**{name: size}) as real:
        world = World(maps=real)
        world.set_resolvers([RESOLVER])
        world.add(2)
        before = world.says()
        with pytest.raises(MapFull):
            world.add(1)
        assert world.says() == before
        assert set(world.firewall.endpoints) == set(world.guarded.values())


def test_a_full_map_of_learned_addresses_refuses_the_answer_and_nothing_else() -> None:
    with maps(learned=2) as real:
        world = World(maps=real)
        world.set_resolvers([RESOLVER])
        world.set_policies(POLICIES[:1])
        world.add(1)
        world.learn(1, "api.example.com", ADDRESSES[0], 30)
        world.learn(1, "api.example.com", ADDRESSES[1], 60)
        before = world.says()
        with pytest.raises(MapFull):
            world.learn(1, "api.example.com", ADDRESSES[2], 60)
        world.pass_time(0)
        assert world.says() == before
        world.now += 31  # no collection needed: what has run out makes room at once
        world.learn(1, "api.example.com", ADDRESSES[2], 60)


def test_a_policy_that_is_too_large_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fqdnwall.datapath.maps.POLICY_SHAPE", replace(POLICY_SHAPE, default=20))
    with maps() as real:
        world = World(maps=real)
        world.set_policies(POLICIES[3:4])
        world.add(1)
        before = world.says()
        prefixes = ", ".join(f"10.{i}.0.0/24" for i in range(21))
        with pytest.raises(MapFull):
            world.set_policies([policy("many", "a", f"egress: [{{toCIDR: [{prefixes}]}}]")])
        assert world.says() == before
