"""The proxy's path with real packets: neither side sees that it is there.

    client ─▶ from_endpoint ─ assigned ─▶ proxy's listener (on loopback, any port)
    client ◀─ to_endpoint ◀─ mark ─ raw packets, or the accepted socket, with the server's address
    server ◀─ proxy's upstream socket, with the client's address

The upstream's answer comes back in one of two ways. The kernel looks for the socket of a packet
before it routes it (early demux), finds the upstream's, and then refuses to forward a packet that
has a socket. So either that look is turned off, and the packet goes on

    server ─▶ to_endpoint ─ turned round ─▶ from_endpoint ─ assigned ─▶ the upstream socket

or a rule marks what is for a transparent socket, and the packet never reaches the endpoint's
interface. The latter works whatever the host's own firewall thinks of packets that pass twice.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from fqdnwall.datapath.layouts import CtFlag, DropReason, EventType, Mark, Verdict
from fqdnwall.netlink.masquerade import add_masquerade
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, Bench, entry
from tests.datapath.wire import (
    IMPATIENCE_SECONDS,
    OUTER4,
    OUTER6,
    Wire,
    hears,
    open_socket,
    original_destination,
    send_raw,
    wired,
)

pytestmark = pytest.mark.kernel

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
REDIRECT = (
    entry(0, Verdict.REDIRECT, protocol=17, port=53),
    entry(0, Verdict.REDIRECT, protocol=6, port=53),
)
PROXY_PORT = 5353
LISTENER = {CLIENT4: "127.0.0.1", CLIENT6: "::1"}
OUTER = {CLIENT4: OUTER4, CLIENT6: OUTER6}


def no_early_demux(wire: Wire) -> None:
    wire.set("ipv4/ip_early_demux", "0")  # of both families


def masquerade(wire: Wire) -> None:
    with wire.host.entered():
        add_masquerade("guard", (ip_address(CLIENT4), ip_address(CLIENT6)), "endpoint")


HOSTS: dict[str, list[Callable[[Wire], None]]] = {
    "turned round": [no_early_demux],
    "turned round, masqueraded": [no_early_demux, masquerade],
    "socket rule, masqueraded, strict": [
        Wire.deliver_to_transparent_sockets,
        masquerade,
        Wire.refuse_strangers,
    ],
}


ODD_HOSTS = [pytest.param(host, marks=pytest.mark.slow) for host in list(HOSTS)[1:]]


@pytest.fixture(scope="module", params=[next(iter(HOSTS)), *ODD_HOSTS])
def proxy_wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    with wired() as wire:
        wire.deliver_locally()
        for prepare in HOSTS[request.param]:
            prepare(wire)
        yield wire


@pytest.fixture
def wire(proxy_wire: Wire, bench: Bench) -> Iterator[Wire]:
    bench.endpoint(proxy_wire.ifindex)
    bench.configure(dns_port=PROXY_PORT)
    bench.policy(*REDIRECT)
    proxy_wire.attach(bench)
    bench.events()
    try:
        yield proxy_wire
    finally:
        proxy_wire.detach(bench)


def listener(wire: Wire, kind: socket.SocketKind, client: str) -> socket.socket:
    """The proxy's; what it accepts carries its mark."""
    place = (LISTENER[client], PROXY_PORT)
    sock = open_socket(wire.host, kind, place, transparent=True, mark=Mark.FROM_PROXY)
    if kind is STREAM:
        sock.listen()
    return sock


def upstream(wire: Wire, kind: socket.SocketKind, client: str, port: int = 0) -> socket.socket:
    return open_socket(wire.host, kind, (client, port), transparent=True, mark=Mark.FROM_PROXY)


@both_families
def test_a_datagram_reaches_the_listener_with_its_original_destination(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        listener(wire, DATAGRAM, client) as proxy,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
        open_socket(wire.server, DATAGRAM, (server, 53)) as far,
    ):
        for number in range(3):
            near.sendto(b"query %d" % number, (server, 53))
            payload, source, destination = original_destination(proxy)
            assert payload == b"query %d" % number
            assert source == near.getsockname()[:2]
            assert destination == (server, 53)
        assert hears(far, IMPATIENCE_SECONDS) is None
    assert CtFlag.PROXY in bench.flow_flags()


@both_families
def test_a_raw_answer_comes_from_the_server_as_far_as_the_client_can_tell(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        listener(wire, DATAGRAM, client) as proxy,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        for number in range(3):
            near.send(b"query")
            _, source, _ = original_destination(proxy)
            text = b"answer %d" % number
            answer = p.ip(server, client, p.udp(server, client, 53, source[1], text))
            send_raw(wire.host, answer, client, Mark.FROM_PROXY)
            assert hears(near) == text


@both_families
def test_an_answer_without_the_proxys_mark_does_not_arrive(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        listener(wire, DATAGRAM, client) as proxy,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        near.send(b"query")
        _, source, _ = original_destination(proxy)
        forged = p.ip(server, client, p.udp(server, client, 53, source[1], b"forged"))
        send_raw(wire.host, forged, client, 0)
        send_raw(wire.server, forged, client, Mark.FROM_PROXY)
        assert hears(near, IMPATIENCE_SECONDS) is None
    reasons = {event.reason for event in bench.events() if event.type == EventType.DROP}
    assert DropReason.PROXY_SPOOFED in reasons


@both_families
def test_a_connection_is_the_proxys_and_looks_like_the_servers(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        listener(wire, STREAM, client) as proxy,
        open_socket(wire.client, STREAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        accepted, source = proxy.accept()
        with accepted:
            accepted.settimeout(3)
            assert source[:2] == near.getsockname()[:2]
            assert accepted.getsockname()[:2] == (server, 53)
            assert near.getpeername()[:2] == (server, 53)
            for number in range(3):
                near.sendall(b"query %d" % number)
                assert hears(accepted) == b"query %d" % number
                accepted.sendall(b"answer %d" % number)
                assert hears(near) == b"answer %d" % number
            near.shutdown(socket.SHUT_WR)
            assert hears(accepted) == b""
            accepted.sendall(b"the last word")
            assert hears(near) == b"the last word"
        assert hears(near) == b""
    closed = CtFlag.LOCAL_CLOSING | CtFlag.REMOTE_CLOSING
    assert closed in bench.flow_flags()


@both_families
def test_a_connection_follows_another_from_the_same_port(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    """The second meets the TIME_WAIT of the first, and is let in when its SYN is repeated."""
    with listener(wire, STREAM, client) as proxy:
        for _ in range(2):
            with open_socket(wire.client, STREAM, (client, 41000)) as near:
                near.connect((server, 53))
                accepted, _ = proxy.accept()
                accepted.sendall(b"x")
                accepted.close()
                assert hears(near) == b"x"
                assert hears(near) == b""


@both_families
@pytest.mark.parametrize("same_port", [False, True], ids=["own port", "the client's port"])
def test_the_upstreams_answer_reaches_the_proxys_socket_and_not_the_client(
    bench: Bench, wire: Wire, client: str, server: str, same_port: bool
) -> None:
    with (
        listener(wire, DATAGRAM, client) as proxy,
        open_socket(wire.server, DATAGRAM, (server, 53)) as far,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        near.send(b"query")
        _, source, destination = original_destination(proxy)
        with upstream(wire, DATAGRAM, client, source[1] if same_port else 0) as asking:
            asking.connect(destination)
            for number in range(3):
                asking.send(b"query %d" % number)
                far.settimeout(3)
                payload, seen_source = far.recvfrom(100)
                assert payload == b"query %d" % number
                far.sendto(b"answer %d" % number, seen_source)
                assert hears(asking) == b"answer %d" % number
        assert hears(near, IMPATIENCE_SECONDS) is None


@both_families
def test_an_upstream_connection_runs_from_the_clients_address(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        open_socket(wire.server, STREAM, (server, 53)) as far,
        upstream(wire, STREAM, client) as asking,
    ):
        far.listen()
        asking.connect((server, 53))
        accepted, source = far.accept()
        with accepted:
            accepted.settimeout(3)
            assert source[0] in (client, OUTER[client])
            for number in range(3):
                asking.sendall(b"query %d" % number)
                assert hears(accepted) == b"query %d" % number
                accepted.sendall(b"answer %d" % number)
                assert hears(asking) == b"answer %d" % number
            asking.shutdown(socket.SHUT_WR)
            assert hears(accepted) == b""
        assert hears(asking) == b""
    assert bench.flows() == []


@both_families
def test_large_upstream_answers_run(bench: Bench, wire: Wire, client: str, server: str) -> None:
    """Segments of many kilobytes, as offloading makes them, are assigned as one."""
    with (
        open_socket(wire.server, STREAM, (server, 53)) as far,
        upstream(wire, STREAM, client) as asking,
    ):
        far.listen()
        asking.connect((server, 53))
        accepted, _ = far.accept()
        with accepted:
            for _ in range(20):
                accepted.sendall(b"x" * 20_000)
                left = 20_000
                while left:
                    left -= len(asking.recv(left))


@both_families
def test_a_strangers_packet_is_not_turned_round(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        open_socket(wire.server, DATAGRAM, (server, 54)) as stranger,
        upstream(wire, DATAGRAM, client) as asking,
    ):
        asking.connect((server, 53))
        stranger.sendto(b"forged", asking.getsockname()[:2])
        assert hears(asking, IMPATIENCE_SECONDS) is None


@both_families
def test_with_the_proxy_dead_queries_are_dropped_with_a_reason(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with (
        open_socket(wire.server, DATAGRAM, (server, 53)) as far,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.sendto(b"query", (server, 53))
        assert hears(far, IMPATIENCE_SECONDS) is None
    reasons = {event.reason for event in bench.events() if event.type == EventType.DROP}
    assert DropReason.PROXY_LOOKUP_FAILED in reasons


def test_a_local_resolver_on_every_address_does_not_get_the_clients_queries(
    bench: Bench, wire: Wire
) -> None:
    with (
        open_socket(wire.host, DATAGRAM, ("0.0.0.0", 53)) as resolver,
        open_socket(wire.host, STREAM, ("0.0.0.0", 53)) as tcp_resolver,
        listener(wire, DATAGRAM, CLIENT4) as proxy,
        listener(wire, STREAM, CLIENT4) as tcp_proxy,
        open_socket(wire.client, DATAGRAM, (CLIENT4, 0)) as near,
        open_socket(wire.client, STREAM, (CLIENT4, 0)) as tcp_near,
    ):
        tcp_resolver.listen()
        near.sendto(b"query", (SERVER4, 53))
        assert hears(proxy) == b"query"
        assert hears(resolver, 0.01) is None
        tcp_near.connect((SERVER4, 53))
        tcp_proxy.accept()[0].close()
