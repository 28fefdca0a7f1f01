"""``ipBlock`` speaks of addresses wherever they are; Cilium's CIDRs speak of the outside."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from fqdnwall.ipcache.desired import key_of
from policies import Policy
from tests.agent.world import HOST, World, network_policy, policy

ONE, TWO = ip_address("172.16.0.1"), ip_address("172.16.0.2")
LOCAL_SCOPE = 24


@pytest.fixture
def world() -> World:
    world = World()
    world.set_hosts([HOST])
    world.add(1)
    world.add(2)
    return world


def verdict(world: World, address: object) -> str:
    """Of the second endpoint's connection to the address."""
    return world.verdicts()[2, address, 6, 443]  # type: ignore[index]


@pytest.mark.parametrize(
    ("said", "to_endpoint", "to_host"),
    [
        (network_policy("block", "b", "172.16.0.0/16"), "allow", "drop"),
        (network_policy("block", "b", "0.0.0.0/0"), "allow", "allow"),
        (network_policy("block", "b", "0.0.0.0/0", "172.16.0.0/24"), "drop", "allow"),
        (policy("cidr", "b", "egress: [{toCIDR: [0.0.0.0/0]}]"), "drop", "drop"),
    ],
    ids=["holds it", "holds all", "excepts it", "Cilium's"],
)
def test_which_prefixes_reach_endpoints_and_the_host(
    world: World, said: Policy, to_endpoint: str, to_host: str
) -> None:
    world.set_policies([said])
    assert verdict(world, ONE) == to_endpoint
    assert verdict(world, HOST) == to_host


def test_an_endpoint_in_a_block_is_still_who_it_is(world: World) -> None:
    peers = policy("peers", "b", "egress: [{toEndpoints: [{matchLabels: {app: a}}]}]")
    world.set_policies([peers, network_policy("block", "a", "172.16.0.0/16")])
    assert verdict(world, ONE) == "allow"


def test_the_identity_of_an_address_in_a_block_is_not_of_the_outside(world: World) -> None:
    world.set_policies([network_policy("block", "b", "0.0.0.0/0")])
    for address in (ONE, TWO, HOST):
        value = world.maps.ipcache.get(key_of(ip_network(address)))
        assert value is not None
        assert value.identity >> LOCAL_SCOPE == 0


def test_the_block_goes_with_its_policy(world: World) -> None:
    before = world.says()
    world.set_policies([network_policy("block", "b", "0.0.0.0/0")])
    world.set_policies([])
    assert world.says() == before
