from __future__ import annotations

import multiprocessing
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqdnwall.netlink import sysctl
from fqdnwall.netlink.routes import routes
from fqdnwall.sandbox.forwarding import Change, Forwarding, forwarding_changes
from tests.lab.namespaces import Namespace
from tests.sandbox.host import Host, eventually

pytestmark = pytest.mark.kernel

V4 = "ipv4/conf/up0/forwarding"
ALL4, ALL6 = "ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"


@pytest.fixture
def inside(host: Host) -> Iterator[Host]:
    """This thread is in the host's namespace."""
    with host.namespace.entered():
        yield host


def taken(directory: Path, *changes: Change) -> Forwarding:
    forwarding = Forwarding(directory)
    forwarding.take(changes)
    return forwarding


def test_what_was_changed_is_given_back(inside: Host, tmp_path: Path) -> None:
    forwarding = taken(tmp_path, Change(V4, "1"))
    assert sysctl.read(V4) == "1"
    forwarding.release()
    forwarding.release()
    assert sysctl.read(V4) == "0"
    assert list((tmp_path / "sysctl").iterdir()) == []


def test_what_was_so_before_stays_so(inside: Host, tmp_path: Path) -> None:
    sysctl.write(V4, "1")
    taken(tmp_path, Change(V4, "1")).release()
    assert sysctl.read(V4) == "1"


def test_the_last_of_several_gives_back_whichever_it_is(inside: Host, tmp_path: Path) -> None:
    first, second = taken(tmp_path, Change(V4, "1")), taken(tmp_path, Change(V4, "1"))
    first.release()
    assert sysctl.read(V4) == "1"
    second.release()
    assert sysctl.read(V4) == "0"


def _take_and_die(directory: Path, name: str = V4) -> None:
    Forwarding(directory).take([Change(name, "1")])


def test_what_a_dead_user_changed_is_given_back_by_the_next(inside: Host, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert sysctl.read(V4) == "1"
    survivor = Forwarding(tmp_path)
    survivor.restore_leftovers()
    assert sysctl.read(V4) == "0"


def test_a_dead_users_original_is_not_mistaken_for_the_hosts_own(
    inside: Host, tmp_path: Path
) -> None:
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    taken(tmp_path, Change(V4, "1")).release()
    assert sysctl.read(V4) == "0"


def test_a_value_that_somebody_changed_since_is_not_overwritten(
    inside: Host, tmp_path: Path
) -> None:
    name = "ipv6/conf/up0/accept_ra"
    forwarding = taken(tmp_path, Change(name, "2"))
    sysctl.write(name, "0")
    forwarding.release()
    assert sysctl.read(name) == "0"


def test_forwarding_that_somebody_else_came_to_need_stays_on(inside: Host, tmp_path: Path) -> None:
    forwarding = taken(tmp_path, *forwarding_changes(0, ipv6=True))
    sysctl.write(ALL4, "1")  # as a container engine does when it starts
    forwarding.release()
    assert sysctl.read(V4) == "1"


def test_an_interface_that_is_gone_at_the_end_is_no_error(inside: Host, tmp_path: Path) -> None:
    forwarding = taken(tmp_path, Change(V4, "1"), Change(ALL4, "1"))
    with inside.namespace.netlink() as netlink:
        netlink.link("del", index=netlink.link_lookup(ifname="up0")[0])
    forwarding.release()
    assert sysctl.read(ALL4) == "0"


def test_only_interfaces_that_lead_somewhere_are_switched_on(inside: Host, tmp_path: Path) -> None:
    with inside.namespace.netlink() as netlink:
        netlink.link("add", ifname="idle0", kind="veth", peer={"ifname": "idle1"})
    changed = {change.path for change in forwarding_changes(0, ipv6=True)}
    assert V4 in changed
    assert not any("idle" in path or "/lo/" in path or "/all/" in path for path in changed)


def advertise(host: Host) -> None:
    """A router advertisement from the server: default route for 30 minutes (RFC 4861 §4.2)."""
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    with (
        host.server.entered(),
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw,
    ):
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        scope = socket.if_nametoindex("srv0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, scope)
        raw.sendto(advertisement, ("ff02::1", 0, 0, scope))


def advertised_routes() -> int:
    return sum(route.from_ra and route.is_default for route in routes())


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.17, which has no force_forwarding."""
    read = sysctl.read
    monkeypatch.setattr(
        sysctl, "read", lambda name: None if "force_forwarding" in name else read(name)
    )


@pytest.mark.slow
def test_becoming_an_ipv6_router_keeps_the_default_route_that_was_advertised(
    inside: Host, tmp_path: Path, old_kernel: None
) -> None:
    def received() -> bool:
        advertise(inside)
        return advertised_routes() == 1

    eventually(received)
    forwarding = taken(tmp_path, *forwarding_changes(0, ipv6=True))
    assert sysctl.read(ALL6) == "1"
    assert sysctl.read("ipv6/conf/up0/accept_ra") == "2"
    assert advertised_routes() == 1
    forwarding.release()
    assert sysctl.read(ALL6) == "0"
    assert sysctl.read("ipv6/conf/up0/accept_ra") == "1"
    assert advertised_routes() == 1


def test_interfaces_that_forwarded_by_themselves_do_so_afterwards(
    inside: Host, tmp_path: Path, old_kernel: None
) -> None:
    own = "ipv6/conf/up0/forwarding"
    sysctl.write(own, "1")
    taken(tmp_path, *forwarding_changes(0, ipv6=True)).release()
    assert sysctl.read(ALL6) == "0"
    assert sysctl.read(own) == "1"
    assert sysctl.read("ipv6/conf/lo/forwarding") == "0"


def test_two_namespaces_have_separate_books(inside: Host, tmp_path: Path) -> None:
    ours = taken(tmp_path, Change(ALL4, "1"))
    with inside.server.entered():
        taken(tmp_path, Change(ALL4, "1")).release()
        assert sysctl.read(ALL4) == "0"
    assert sysctl.read(ALL4) == "1"
    ours.release()
    assert sysctl.read(ALL4) == "0"


def test_the_books_of_a_namespace_that_ended_are_closed(inside: Host, tmp_path: Path) -> None:
    ended = Namespace.create("ended", {})
    context = multiprocessing.get_context("fork")
    with ended.entered():
        process = context.Process(target=_take_and_die, args=(tmp_path, ALL4))
        process.start()
    process.join()
    assert len(list((tmp_path / "sysctl").glob("*.json"))) == 1
    ended.close()
    taken(tmp_path, Change(V4, "1")).release()
    assert list((tmp_path / "sysctl").iterdir()) == []
