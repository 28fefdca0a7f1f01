"""Where the listeners are, and who may not share them."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from dnsproxy.sockets import ListenError, Listeners, Ports, open_listeners, original_destination
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel


@pytest.fixture
def empty() -> Iterator[Namespace]:
    """The test's thread is in a namespace with nothing but loopback."""
    namespace = Namespace.create("dnsproxy sockets", {})
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()


@contextlib.contextmanager
def opened(ipv4: str | None, ipv6: str | None, port: int = 0) -> Iterator[Listeners]:
    listeners = open_listeners(ipv4, ipv6, port)
    try:
        yield listeners
    finally:
        listeners.close()


@pytest.mark.usefixtures("empty")
def test_four_listeners_on_loopback_share_one_number() -> None:
    with opened("127.0.0.1", "::1") as listeners:
        port = listeners.ports.udp_ipv4
        assert listeners.ports == Ports(port, port, port, port)
        assert {sock.getsockname()[0] for sock in (*listeners.udp, *listeners.tcp)} == {
            "127.0.0.1",
            "::1",
        }
        for sock in (*listeners.udp, *listeners.tcp):
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


@pytest.mark.usefixtures("empty")
def test_host_without_ipv6_has_two_listeners() -> None:
    with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as file:
        file.write("1")
    with opened("127.0.0.1", "::1") as listeners:
        port = listeners.ports.udp_ipv4
        assert listeners.ports == Ports(port, port, None, None)


@pytest.mark.usefixtures("empty")
def test_taken_port_is_an_error_that_names_it_and_leaks_nothing() -> None:
    with opened("127.0.0.1", None) as first:
        port = first.ports.tcp_ipv4
        assert port is not None
        with pytest.raises(ListenError, match=str(port)):
            open_listeners("127.0.0.1", "::1", port)
    with opened("127.0.0.1", "::1", port) as listeners:
        assert listeners.ports == Ports(port, port, port, port)


@pytest.mark.usefixtures("empty")
def test_nothing_to_listen_on_is_an_error() -> None:
    with pytest.raises(ListenError):
        open_listeners(None, None, 0)


def test_original_destination_of_both_families() -> None:
    ipv4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 53) + bytes([192, 0, 2, 1])
    assert original_destination(ipv4 + b"\x00" * 8) == ("192.0.2.1", 53)
    ipv6 = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 5353, 0)
    ipv6 += socket.inet_pton(socket.AF_INET6, "2001:db8::1") + b"\x00" * 4
    assert original_destination(ipv6) == ("2001:db8::1", 5353)
