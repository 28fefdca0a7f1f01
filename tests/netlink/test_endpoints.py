from __future__ import annotations

import os

import pytest

from fqdnwall.netlink import (
    AmbiguousInterface,
    NoSuchInterface,
    NotANamespace,
    find_by_interface,
    find_by_namespace,
    find_by_pid,
)
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel


def join(host: Namespace, other: Namespace, outer: str, inner: str, address: str = "") -> None:
    """A veth between the two, as a container engine would leave it."""
    with host.netlink() as ours, other.netlink() as theirs:
        ours.link("add", ifname=outer, kind="veth", peer={"ifname": inner, "net_ns_fd": other.fd})
        ours.link("set", index=ours.link_lookup(ifname=outer)[0], state="up")
        index = theirs.link_lookup(ifname=inner)[0]
        theirs.link("set", index=index, state="up")
        if address:
            theirs.addr("add", index=index, address=address, prefixlen=24)
            theirs.addr("add", index=index, address="2001:db8::7", prefixlen=64, flags=2)


def test_a_namespace_leads_to_its_veth_on_the_host(host: Namespace, other: Namespace) -> None:
    join(host, other, "vethabc", "eth0", "10.1.2.3")
    veth = find_by_namespace(other.path)
    assert (veth.ifname, veth.inner_ifname) == ("vethabc", "eth0")
    assert [str(address) for address in veth.inner_addresses[:2]] == [
        "10.1.2.3/24",
        "2001:db8::7/64",
    ]
    with host.netlink() as socket:
        assert veth.ifindex == socket.link_lookup(ifname="vethabc")[0]
    assert veth.mac != veth.inner_mac


def test_pid_and_interface_lead_to_the_same_veth(host: Namespace, other: Namespace) -> None:
    join(host, other, "vethabc", "eth0", "10.1.2.3")
    process = other.start(["sleep", "100"])
    ways = (
        find_by_namespace(other.path),
        find_by_pid(process.pid),
        find_by_interface("vethabc"),
    )
    assert len({(veth.ifindex, veth.inner_ifindex, veth.inner_mac) for veth in ways}) == 1
    assert {str(veth.inner_addresses[0]) for veth in ways} == {"10.1.2.3/24"}


def test_several_veths_are_listed_for_a_choice(host: Namespace, other: Namespace) -> None:
    join(host, other, "vethabc", "eth0", "10.1.2.3")
    join(host, other, "vethdef", "eth1")
    with pytest.raises(AmbiguousInterface) as raised:
        find_by_namespace(other.path)
    message = str(raised.value)
    assert "--interface" in message
    assert "vethabc (inside: eth0, 10.1.2.3/24, 2001:db8::7/64" in message
    assert "vethdef (inside: eth1" in message


def test_a_veth_to_a_third_namespace_does_not_count(host: Namespace, other: Namespace) -> None:
    third = Namespace.create("third", {})
    join(third, other, "vethabc", "eth0", "10.1.2.3")
    join(host, third, "vethabc", "eth9")  # same name, and likely the same index
    with pytest.raises(NoSuchInterface, match="has no veth whose other side is on this host"):
        find_by_namespace(other.path)
    third.close()


def test_a_namespace_without_a_veth_is_an_error(host: Namespace, other: Namespace) -> None:
    with pytest.raises(NoSuchInterface, match="has no veth"):
        find_by_namespace(other.path)


def test_the_hosts_own_namespace_is_refused(host: Namespace) -> None:
    with pytest.raises(NotANamespace, match="the host's own"):
        find_by_pid(os.getpid())


def test_an_interface_that_is_missing_or_no_veth_is_an_error(host: Namespace) -> None:
    with pytest.raises(NoSuchInterface, match="interface nope: there is none"):
        find_by_interface("nope")
    with pytest.raises(NoSuchInterface, match="interface lo: not a veth"):
        find_by_interface("lo")


def test_a_veth_with_both_ends_on_the_host_is_an_error(host: Namespace) -> None:
    with host.netlink() as socket:
        socket.link("add", ifname="va", kind="veth", peer={"ifname": "vb"})
    with pytest.raises(NoSuchInterface, match="its peer is not in another namespace"):
        find_by_interface("va")
