"""From any state to any state: the maps say what today's inputs say, whatever came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fqdnwall.datapath.maps import MapFull
from tests.agent.world import ADDRESSES, HOST, POLICIES, RESOLVER, SUBJECTS, World

NAMES = ("api.example.com", "www.example.com", "api-1.example.net", "a.b.example.com", "other.org")

Step = tuple[str, Any]

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(
        st.just("policies"),
        st.lists(st.integers(0, len(POLICIES) - 1), unique=True, max_size=4),
    ),
    st.tuples(st.just("hosts"), st.lists(st.sampled_from([HOST, ADDRESSES[0]]), unique=True)),
    st.tuples(
        st.just("resolvers"), st.lists(st.sampled_from([RESOLVER, ADDRESSES[4]]), unique=True)
    ),
    st.tuples(st.just("toggle"), st.sampled_from(sorted(SUBJECTS))),
    st.tuples(
        st.just("learn"),
        st.tuples(
            st.sampled_from(sorted(SUBJECTS)),
            st.sampled_from(NAMES),
            st.sampled_from(ADDRESSES),
            st.integers(1, 60),
        ),
    ),
    st.tuples(st.just("time"), st.integers(1, 40)),
    st.tuples(st.just("restart"), st.none()),
)
AT_ONCE: st.SearchStrategy[Step] = st.tuples(
    st.just("together"),
    st.lists(STEPS.filter(lambda step: step[0] in ("policies", "hosts", "resolvers")), min_size=2),
)
POLICY_NUMBERS = st.integers(0, len(POLICIES) - 1)
LEARNED = st.tuples(
    st.just("learn"),
    st.tuples(
        st.sampled_from(sorted(SUBJECTS)),
        st.sampled_from(NAMES),
        st.sampled_from(ADDRESSES),
        st.integers(1, 60),
    ),
)
START: st.SearchStrategy[list[Step]] = st.tuples(
    st.tuples(st.just("resolvers"), st.just([RESOLVER])),
    st.tuples(st.just("policies"), st.lists(POLICY_NUMBERS, unique=True, min_size=1, max_size=4)),
    st.tuples(st.just("toggle"), st.just(1)),
    st.tuples(st.just("toggle"), st.sampled_from([2, 3])),
    LEARNED,
    LEARNED,
).map(list)
STATES = st.one_of(
    st.lists(STEPS, max_size=6),
    st.tuples(START, st.lists(STEPS, max_size=4)).map(lambda both: both[0] + both[1]),
)
QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def take(world: World, step: Step) -> None:
    what, argument = step
    match what:
        case "together":
            with world.firewall.batch():
                for each in argument:
                    take(world, each)
        case "policies":
            world.set_policies([POLICIES[at] for at in argument])
        case "hosts":
            world.set_hosts(argument)
        case "resolvers":
            world.set_resolvers(argument)
        case "toggle":
            (world.remove if argument in world.guarded else world.add)(argument)
        case "learn":
            which, name, address, ttl = argument
            if which in world.guarded:
                world.learn(which, name, address, ttl)
        case "time":
            world.pass_time(argument)
        case "restart":
            world.restart()


@QUICK
@given(STATES, st.booleans())
def test_maps_are_a_function_of_what_is_wanted_now(steps: list[Step], per_endpoint: bool) -> None:
    world = World(per_endpoint=per_endpoint)
    for step in steps:
        take(world, step)
    world.pass_time(0)
    assert world.says() == world.from_scratch().says()


@settings(QUICK, max_examples=500)
@given(STATES, STEPS | AT_ONCE)
@pytest.mark.slow
def test_every_packet_meets_the_old_policy_or_the_new_one(steps: list[Step], last: Step) -> None:
    world = World()
    for step in steps:
        take(world, step)
    before = world.verdicts()
    during: list[dict[Any, str]] = []
    world.maps.journal.watch = lambda: during.append(world.verdicts())
    if last[0] == "time":
        return
    take(world, last)
    world.maps.journal.watch = lambda: None
    after = world.verdicts()
    for seen in during:
        for flow, verdict in seen.items():
            assert verdict in (before[flow], after[flow]), (
                flow,
                before[flow],
                verdict,
                after[flow],
            )


@QUICK
@given(STATES, STEPS, st.integers(1, 30))
def test_a_full_map_leaves_the_former_state_in_force(
    steps: list[Step], last: Step, fail_at: int
) -> None:
    world = World()
    for step in steps:
        take(world, step)
    world.pass_time(0)
    before = world.says()
    if last[0] in ("time", "restart"):
        return
    world.maps.journal.fail_at = fail_at
    try:
        take(world, last)
    except MapFull:
        world.maps.journal.fail_at = 0
        world.pass_time(0)
        assert world.says() == before
    finally:
        world.maps.journal.fail_at = 0
    world.pass_time(0)
    assert world.says() == world.from_scratch().says()


@pytest.mark.parametrize("which", sorted(SUBJECTS))
def test_what_is_removed_leaves_nothing(world: World, which: int) -> None:
    world.set_policies(POLICIES)
    world.set_resolvers([RESOLVER])
    world.add(which)
    world.learn(which, "api.example.com", ADDRESSES[0], 60)
    world.remove(which)
    world.set_policies([])
    world.set_resolvers([])
    maps = world.maps
    for table in (maps.endpoints, maps.ipcache, maps.learned, maps.dns_names, maps.identities):
        assert table.content == {}, table.name
    assert maps.policies.of == {}
    assert maps.policies.opened == {}
    assert maps.owners == set()
    assert list(maps.records.content) == [0], "the last number given"


def each_put_fails(prepare: Callable[[World], None], act: Callable[[World], None]) -> int:
    """Let the first write fail, then the second and so on; how many there were."""
    for fail_at in range(1, 1000):
        world = World()
        prepare(world)
        before = world.says()
        world.maps.journal.fail_at = fail_at
        try:
            act(world)
        except MapFull:
            world.maps.journal.fail_at = 0
            world.pass_time(0)
            assert world.says() == before, fail_at
            continue
        if world.maps.journal.fail_at:
            return fail_at - 1
    raise AssertionError("it never succeeds")


def test_whichever_write_finds_no_room_a_change_of_policy_is_whole_or_not_at_all() -> None:
    def prepare(world: World) -> None:
        world.set_resolvers([RESOLVER])
        world.set_policies(POLICIES[:4])
        for which in SUBJECTS:
            world.add(which)
        world.learn(1, "api.example.com", ADDRESSES[0], 60)

    assert each_put_fails(prepare, lambda world: world.set_policies(POLICIES[3:])) > 5
    assert each_put_fails(prepare, lambda world: world.set_policies(POLICIES[:1])) >= 1


def test_whichever_write_finds_no_room_an_endpoint_is_added_whole_or_not_at_all() -> None:
    def prepare(world: World) -> None:
        world.set_resolvers([RESOLVER])
        world.set_policies(POLICIES)
        world.add(1)

    assert each_put_fails(prepare, lambda world: world.add(2)) > 3
