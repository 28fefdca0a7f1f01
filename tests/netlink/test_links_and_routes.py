from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import trio

from fqdnwall.netlink import (
    NetworkError,
    add_local_delivery,
    addresses_of,
    link,
    links,
    remove_local_delivery,
)
from fqdnwall.netlink.links import (
    add_addresses,
    create_veth,
    delete_addresses,
    delete_link,
    loopback_up,
)
from fqdnwall.netlink.routes import add_default_route, local_delivery_tables, routes
from fqdnwall.netlink.watch import LinkWatch
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

MARK, MASK, TABLE = 0x0200, 0x0F00, 0x66710007


def interface(text: str) -> Any:
    return ipaddress.ip_interface(text)


def test_a_veth_is_made_once_however_often_it_is_asked_for(
    host: Namespace, other: Namespace
) -> None:
    first = create_veth("fqw7", other.fd, "eth0", 1400)
    assert create_veth("fqw7", other.fd, "eth0", 1400) == first
    ours, theirs = link("fqw7"), link("eth0", other.fd)
    assert ours is not None
    assert theirs is not None
    assert (ours.index, theirs.index) == first
    assert ours.up
    assert theirs.up
    assert (ours.kind, ours.mtu, theirs.mtu) == ("veth", 1400, 1400)


def test_deleting_a_link_takes_both_ends_and_may_be_repeated(
    host: Namespace, other: Namespace
) -> None:
    create_veth("fqw7", other.fd, "eth0")
    delete_link("fqw7")
    delete_link("fqw7")
    assert link("fqw7") is None
    assert link("eth0", other.fd) is None


def test_somebody_elses_interface_of_that_name_is_not_taken_for_ours(
    host: Namespace, other: Namespace
) -> None:
    with host.netlink() as socket:
        socket.link("add", ifname="fqw7", kind="veth", peer={"ifname": "x"})
    with pytest.raises(NetworkError, match="fqw7 exists already"):
        create_veth("fqw7", other.fd, "eth0")


def test_addresses_come_and_go_and_are_usable_at_once(host: Namespace, other: Namespace) -> None:
    index, _ = create_veth("fqw7", other.fd, "eth0")
    wanted = (interface("198.19.0.0/31"), interface("198.19.0.2/32"), interface("fd66::1/64"))
    for _ in range(2):
        add_addresses(index, wanted)
    assert addresses_of(index)[:3] == wanted
    with host.netlink() as socket:
        tentative = 0x40
        assert not any(
            message.get_attr("IFA_FLAGS") & tentative
            for message in socket.get_addr(family=10)
            if message.get_attr("IFA_ADDRESS") == "fd66::1"
        )
    for _ in range(2):
        delete_addresses(index, wanted)
    assert all(address.is_link_local for address in addresses_of(index))


def test_default_routes_inside_lead_through_the_gateway(host: Namespace, other: Namespace) -> None:
    _, inner = create_veth("fqw7", other.fd, "eth0")
    add_addresses(inner, (interface("198.19.0.1/31"), interface("fd66::2/64")), other.fd)
    for gateway in ("198.19.0.0", "fd66::1"):
        for _ in range(2):
            add_default_route(ipaddress.ip_address(gateway), inner, other.fd)
    defaults = [route for route in routes(other.fd) if route.is_default and not route.local]
    assert sorted(route.destination.version for route in defaults) == [4, 6]
    assert {route.ifindex for route in defaults} == {inner}


def delivered(host: Namespace) -> list[str]:
    rules = host.run(["sh", "-c", "ip rule; ip -6 rule"]).stdout
    found = host.run(["sh", "-c", f"ip route show table {TABLE}; ip -6 route show table {TABLE}"])
    return [
        line
        for line in (rules + found.stdout).splitlines()
        if "0x200" in line or line.startswith("local")
    ]


def test_marked_packets_of_one_interface_are_delivered_locally_in_both_families(
    host: Namespace, other: Namespace
) -> None:
    create_veth("fqw7", other.fd, "eth0")
    for _ in range(2):
        add_local_delivery("fqw7", MARK, MASK, TABLE)
    lines = delivered(host)
    rules = [line for line in lines if "fwmark" in line]
    assert len(rules) == 2
    assert all("fwmark 0x200/0xf00 iif fqw7" in line for line in rules)
    assert [line.split()[:4] for line in lines if line.startswith("local")] == [
        ["local", "default", "dev", "lo"],
        ["local", "default", "dev", "lo"],
    ]
    assert local_delivery_tables() == {TABLE}


def test_undoing_local_delivery_leaves_other_tables_alone_and_may_be_repeated(
    host: Namespace, other: Namespace
) -> None:
    create_veth("fqw7", other.fd, "eth0")
    add_local_delivery("fqw7", MARK, MASK, TABLE)
    add_local_delivery("fqw8", MARK, MASK, TABLE + 1)
    for _ in range(2):
        remove_local_delivery(TABLE)
    assert local_delivery_tables() == {TABLE + 1}
    remove_local_delivery(TABLE + 1)
    assert delivered(host) == []


def test_local_delivery_survives_the_interface_it_was_for_and_is_still_undone(
    host: Namespace, other: Namespace
) -> None:
    create_veth("fqw7", other.fd, "eth0")
    add_local_delivery("fqw7", MARK, MASK, TABLE)
    delete_link("fqw7")
    assert local_delivery_tables() == {TABLE}
    remove_local_delivery(TABLE)
    assert delivered(host) == []


def test_a_rule_of_somebody_else_is_never_counted_or_removed(host: Namespace) -> None:
    assert host.run(["ip", "rule", "add", "fwmark", "0x200", "lookup", str(TABLE)]).returncode == 0
    assert local_delivery_tables() == frozenset()
    remove_local_delivery(TABLE)
    assert "0x200" in host.run(["ip", "rule"]).stdout


def test_a_loopback_that_is_down_is_brought_up(host: Namespace) -> None:
    with host.netlink() as socket:
        socket.link("set", index=1, state="down")
    loopback_up()
    assert links()[0].up


def test_a_link_that_goes_away_wakes_the_watcher(host: Namespace, other: Namespace) -> None:
    create_veth("fqw7", other.fd, "eth0")

    async def watch() -> None:
        with LinkWatch() as watch, trio.fail_after(5):
            delete_link("fqw7")
            await watch.changed()
            while link("fqw7") is not None:
                await watch.changed()

    trio.run(watch)


def test_a_watcher_sleeps_while_nothing_changes(host: Namespace, other: Namespace) -> None:
    async def watch() -> bool:
        with LinkWatch() as watch:
            create_veth("fqw7", other.fd, "eth0")
            await watch.changed()
            while True:
                with trio.move_on_after(0.3) as waited:
                    await watch.changed()
                if waited.cancelled_caught:
                    return True

    assert trio.run(watch)
