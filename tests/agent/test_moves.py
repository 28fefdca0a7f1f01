"""An address that gets another identity is judged as the old one or as the new one, never else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from fqdnwall.agent.moves import Move, Ways
from policies import Policy
from tests.agent.world import ADDRESSES, HOST, POLICIES, RESOLVER, World, network_policy, policy

BLOCK = network_policy("block", "b", "172.16.0.0/16", "172.16.0.2/32")
EXCEPTED = network_policy("block", "b", "172.16.0.0/16", "172.16.0.0/24")
TO_HOST = policy("to-host", "a", "egress: [{toEntities: [host]}]")
TO_WORLD = policy("to-world", "a", "egress: [{toEntities: [world]}]")
TO_ANYONE = policy("to-anyone", "a", "egress: [{toEntities: [all]}]")
FIRST, SECOND, FRESH, OWN = 300, 301, 302, 999


def at_every_write(world: World, act: Callable[[World], None]) -> None:
    """Asserts that each packet meets the old verdict or the new one."""
    before = world.verdicts()
    during: list[Mapping[object, str]] = []
    world.maps.journal.watch = lambda: during.append(world.verdicts())
    act(world)
    world.maps.journal.watch = lambda: None
    after = world.verdicts()
    assert during
    wrong = {
        (flow, before[flow], verdict, after[flow])
        for seen in during
        for flow, verdict in seen.items()
        if verdict not in (before[flow], after[flow])  # type: ignore[index]
    }
    assert not wrong


@pytest.mark.parametrize(
    ("former", "wanted"),
    [([BLOCK], []), ([], [BLOCK]), ([BLOCK], [EXCEPTED]), ([BLOCK], [POLICIES[7]])],
    ids=["goes", "comes", "changes", "gives way to a selector"],
)
def test_a_block_around_endpoints(world: World, former: list[Policy], wanted: list[Policy]) -> None:
    world.set_resolvers([RESOLVER])
    world.set_policies(former)
    for which in (1, 2):
        world.add(which)
    at_every_write(world, lambda world: world.set_policies(wanted))


@pytest.mark.parametrize(("hosts", "other"), [([HOST], []), ([], [HOST])], ids=["goes", "comes"])
@pytest.mark.parametrize(
    ("former", "wanted"),
    [(TO_HOST, TO_WORLD), (TO_WORLD, TO_HOST), (TO_ANYONE, TO_HOST), (TO_HOST, TO_HOST)],
    ids=["host to world", "world to host", "all to host", "the same"],
)
def test_a_hosts_address_while_policy_changes(
    world: World, hosts: list[object], other: list[object], former: Policy, wanted: Policy
) -> None:
    """Both identities are other addresses' too, and policies before and after know both."""
    world.set_hosts([*hosts, ADDRESSES[4]])  # type: ignore[list-item]
    world.set_policies([former])
    world.add(1)

    def change(world: World) -> None:
        with world.firewall.batch():
            world.set_hosts([*other, ADDRESSES[4]])  # type: ignore[list-item]
            world.set_policies([wanted])

    at_every_write(world, change)


def test_two_addresses_of_one_endpoint_that_were_two_identities_before(world: World) -> None:
    """One of them was in a prefix that policy allows, the other was nobody's."""
    reaching = policy("reaching", "b", "egress: [{toCIDR: [172.16.0.0/16]}]")
    peers = policy("peers", "b", "egress: [{toEndpoints: [{matchLabels: {app: a}}]}]")
    world.set_policies([reaching, peers])
    world.add(2)
    at_every_write(world, lambda world: world.add(1) and None)


def test_what_stood_in_leaves_nothing(world: World) -> None:
    world.set_policies([BLOCK])
    for which in (1, 2):
        world.add(which)
    world.set_policies([])
    labels = [label for found in world.firewall.allocator.identities.values() for label in found]
    assert "fqdnwall" not in {label.source for label in labels}
    assert world.says() == world.from_scratch().says()


def ways(before: set[frozenset[int]], after: set[frozenset[int]]) -> Ways:
    """Of policies that judge these pairs alike; FIRST and SECOND are addresses' now."""
    return Ways(
        {FIRST, SECOND},
        lambda one, two: one == two or frozenset({one, two}) in before,
        lambda one, two: one == two or frozenset({one, two}) in after,
        lambda _: OWN,
    )


PAIR = frozenset({FIRST, SECOND})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [({PAIR}, set(), SECOND), (set(), {PAIR}, FIRST), (set(), set(), OWN)],
    ids=["old policies see no difference", "new policies see none", "both do"],
)
def test_which_identity_stands_in(
    before: set[frozenset[int]], after: set[frozenset[int]], expected: int
) -> None:
    found = ways(before, after)
    assert found.identity(Move(FIRST, SECOND)) == expected
    assert found.parents == ({OWN: FIRST} if expected == OWN else {})


def test_an_identity_that_no_address_has_stands_in_for_one_former_only() -> None:
    found = ways(set(), set())
    assert found.identity(Move(FIRST, FRESH)) == FRESH
    assert found.identity(Move(SECOND, FRESH)) == OWN
    assert found.parents == {FRESH: FIRST, OWN: SECOND}


def test_it_stands_in_for_a_second_that_old_policies_judge_alike() -> None:
    found = ways({PAIR}, set())
    assert found.identity(Move(FIRST, FRESH)) == FRESH
    assert found.identity(Move(SECOND, FRESH)) == FRESH


def test_names_open_no_address_that_is_or_will_be_inside() -> None:
    """An identity of the outside is one that learned names open beside its own rules."""
    outside = 1 << 24 | 1
    found = ways(set(), {frozenset({outside, FIRST})})
    assert found.identity(Move(outside, FIRST)) == OWN
    found = ways({frozenset({FIRST, outside})}, set())
    assert found.identity(Move(FIRST, outside)) == OWN
