from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.sandbox.plan import (
    MAX_SLOTS,
    PREFIX4,
    PREFIX6,
    Plan,
    capacity,
    clash,
    plan,
    slot_of_interface,
    slot_of_nft_table,
    slot_of_pins,
    slot_of_routing_table,
)
from tests.sandbox.facts import DUAL_STACK, IPV4_ONLY, facts, planned

slots = st.integers(0, MAX_SLOTS - 1)


def everything(of: Plan) -> set[object]:
    """What nobody else may have."""
    addresses = [a.ip for s in of.subnets for a in (s.gateway, s.sandbox, *s.stubs)]
    assert len(set(addresses)) == len(addresses)
    return {of.interface, of.routing_table, of.nft_table, of.pins, *addresses}


@given(slots, slots)
def test_two_slots_share_nothing(one: int, other: int) -> None:
    if one != other:
        assert not everything(planned(one)) & everything(planned(other))


@given(slots)
def test_the_slot_is_told_by_every_name(slot: int) -> None:
    of = planned(slot)
    assert slot_of_interface(of.interface) == slot
    assert slot_of_nft_table(of.nft_table) == slot
    assert slot_of_pins(of.pins) == slot
    assert slot_of_routing_table(of.routing_table) == slot


@pytest.mark.parametrize(
    "name", ["fqw", "fqw01", "fqwx", "eth0", "fqw-1", "fqw99999", "fqw1 ", "fqw²"]
)
def test_a_name_of_somebody_else_is_no_slot(name: str) -> None:
    assert slot_of_interface(name) is None


@given(slots)
def test_interface_names_fit_the_kernel(slot: int) -> None:
    assert len(planned(slot).interface) < 16


@given(slots)
def test_addresses_lie_in_their_block_and_the_blocks_in_the_prefixes(slot: int) -> None:
    of = planned(slot)
    for subnet, prefix in zip(of.subnets, (PREFIX4, PREFIX6), strict=True):
        assert subnet.block.subnet_of(prefix)  # type: ignore[arg-type]
        for address in (subnet.gateway, subnet.sandbox, *subnet.stubs):
            assert address.ip in subnet.block
        assert subnet.gateway.network == subnet.sandbox.network


def test_without_ipv6_on_the_host_the_plan_has_none() -> None:
    of = plan(0, IPV4_ONLY)
    assert of.ipv6 is None
    assert [address.version for address in of.addresses] == [4]


def test_a_block_that_the_host_routes_to_is_a_clash() -> None:
    first, second = plan(0, DUAL_STACK), plan(1, DUAL_STACK)
    host = facts("198.19.0.0/29", "10.0.0.0/8", "0.0.0.0/0")
    assert clash(first, host.destinations) == ipaddress.ip_network("198.19.0.0/29")
    assert clash(second, host.destinations) is None


def test_a_single_address_of_the_host_within_the_block_is_a_clash() -> None:
    assert clash(planned(), facts("fd66:7164:6e77::5/128").destinations) is not None


def test_an_ipv6_clash_does_not_matter_to_an_ipv4_plan() -> None:
    host = facts("fd66:7164:6e77::/64", ipv6=False)
    assert clash(plan(0, host), host.destinations) is None


@pytest.mark.parametrize("wide", ["0.0.0.0/0", "128.0.0.0/1", "::/0", "fc00::/7"])
def test_default_routes_in_any_guise_do_not_clash(wide: str) -> None:
    assert clash(planned(), facts(wide).destinations) is None


def test_the_mtu_is_the_uplinks_but_never_below_what_ipv6_needs() -> None:
    assert plan(0, facts(mtu=1400)).mtu == 1400
    assert plan(0, facts(mtu=576)).mtu == 1280


def test_a_smaller_prefix_has_fewer_slots_and_none_beyond_them() -> None:
    small4, small6 = ipaddress.IPv4Network("10.9.8.0/28"), PREFIX6
    assert capacity(small4, small6) == 2
    assert plan(1, DUAL_STACK, small4, small6).ipv4.block == ipaddress.ip_network("10.9.8.8/29")
    with pytest.raises(ValueError, match="slot 2"):
        plan(2, DUAL_STACK, small4, small6)


def test_a_prefix_without_room_for_one_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="need to hold"):
        capacity(ipaddress.IPv4Network("10.0.0.0/30"), PREFIX6)
