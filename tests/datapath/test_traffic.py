"""Real packets between namespaces: what policy allows flows, what it does not stands still."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fqdnwall.datapath import attach, libbpf, loader
from fqdnwall.datapath.layouts import DropReason, EventType
from fqdnwall.netlink.tc import Hook, attach_bpf, detach_bpf
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    INGRESS,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)
from tests.datapath.wire import (
    GATEWAY4,
    GATEWAY6,
    IMPATIENCE_SECONDS,
    PATIENCE_SECONDS,
    NoClsact,
    Wire,
    family_of,
    hears,
    open_socket,
    wired,
)
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

STREAM, DATAGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
CLSACT = {Hook.INGRESS: "from_endpoint", Hook.EGRESS: "to_endpoint"}
NUD_REACHABLE, NUD_FAILED = 0x02, 0x20


@pytest.fixture(scope="module")
def plain_wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def wire(plain_wire: Wire, bench: Bench) -> Iterator[Wire]:
    """Attached, and closed but for what a test allows."""
    bench.endpoint(plain_wire.ifindex)
    assert plain_wire.attach(bench) == "tcx"
    bench.events()
    try:
        yield plain_wire
    finally:
        plain_wire.detach(bench)


def drops(bench: Bench) -> set[DropReason]:
    return {DropReason(e.reason) for e in bench.events() if e.type == EventType.DROP}


def datagram_arrives(wire: Wire, client: str, server: str, wait: float, port: int = 5000) -> bool:
    """Whether a question reaches the server, within ``wait`` seconds, and its answer the client."""
    with (
        open_socket(wire.server, DATAGRAM, (server, port)) as far,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, port))
        near.send(b"question")
        if hears(far, wait) is None:
            return False
        far.sendto(b"answer", near.getsockname())
        return hears(near) == b"answer"


def connects(wire: Wire, client: str, server: str, wait: float) -> bool:
    port = 5001
    with (
        open_socket(wire.server, STREAM, (server, port)) as far,
        open_socket(wire.client, STREAM, (client, 0)) as near,
    ):
        far.listen()
        near.settimeout(wait)
        try:
            near.connect((server, port))
        except TimeoutError:
            return False
        accepted, _ = far.accept()
        with accepted:
            for sender, receiver in ((near, accepted), (accepted, near)):
                sender.sendall(b"x" * 30_000)
                receiver.settimeout(3)
                left = 30_000
                while left:
                    left -= len(receiver.recv(left))
        return True


def echoes(wire: Wire, client: str, server: str, wait: float) -> bool:
    protocol = p.ICMPV6 if ":" in client else p.ICMP
    with open_socket(wire.client, RAW, (client, 0), protocol=protocol) as raw:
        raw.connect((server, 0))
        _, request = p.echo(client, server, 77)
        raw.send(request)
        wanted = 129 if ":" in client else 0
        while (found := hears(raw, wait)) is not None:
            message = found if ":" in client else found[20:]
            if message[0] == wanted and message[4:6] == struct.pack("!H", 77):
                return True
        return False


def sctp_arrives(wire: Wire, client: str, server: str, wait: float) -> bool:
    with (
        open_socket(wire.server, RAW, (server, 0), protocol=p.SCTP) as far,
        open_socket(wire.client, RAW, (client, 0), protocol=p.SCTP) as near,
    ):
        near.sendto(p.sctp(1000, 2000)[1], (server, 0))
        if hears(far, wait) is None:
            return False
        far.sendto(p.sctp(2000, 1000)[1], (client, 0))
        return hears(near) is not None


Way = Callable[[Wire, str, str, float], bool]
WAYS: list[Way] = [datagram_arrives, connects, echoes, sctp_arrives]
every_way = pytest.mark.parametrize("arrives", WAYS, ids=["udp", "tcp", "icmp", "sctp"])


@both_families
@every_way
def test_what_policy_allows_flows_both_ways(
    bench: Bench, wire: Wire, client: str, server: str, arrives: Way
) -> None:
    bench.policy(entry(0))
    assert arrives(wire, client, server, PATIENCE_SECONDS)
    assert drops(bench) <= {DropReason.INVALID_SOURCE_IP}, "of the client's own link-local packets"


@both_families
@every_way
def test_what_policy_does_not_allow_stands_still(
    bench: Bench, wire: Wire, client: str, server: str, arrives: Way
) -> None:
    assert not arrives(wire, client, server, IMPATIENCE_SECONDS)
    assert DropReason.POLICY_DENIED in drops(bench)


@both_families
def test_a_connection_from_outside_needs_an_ingress_rule(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    with open_socket(wire.client, STREAM, (client, 5002)) as listener:
        listener.listen()
        for allowed in (False, True):
            if allowed:
                bench.policy(entry(0, direction=INGRESS, protocol=6, port=5002))
            with open_socket(wire.server, STREAM, (server, 0)) as caller:
                caller.settimeout(PATIENCE_SECONDS if allowed else IMPATIENCE_SECONDS)
                if allowed:
                    caller.connect((client, 5002))
                else:
                    with pytest.raises(TimeoutError):
                        caller.connect((client, 5002))


@both_families
def test_neighbours_find_each_other_though_nothing_is_allowed(
    bench: Bench, wire: Wire, client: str, server: str
) -> None:
    gateway = GATEWAY6 if ":" in client else GATEWAY4
    for namespace, target in ((wire.client, gateway), (wire.host, client)):
        with namespace.netlink() as netlink:
            for found in netlink.get_neighbours(family=family_of(client), dst=target):
                netlink.neigh("del", dst=target, ifindex=found["ifindex"])
        with (
            open_socket(namespace, DATAGRAM, ("::" if ":" in client else "", 0))
            if (":" in client)
            else open_socket(namespace, DATAGRAM, ("0.0.0.0", 0)) as sock
        ):
            sock.sendto(b"who are you", (target, 9))
        assert neighbour_state(namespace, target) & NUD_REACHABLE


def neighbour_state(namespace: Namespace, address: str) -> int:
    """The state, once resolution is over."""
    deadline = time.monotonic() + 3
    state = 0
    while time.monotonic() < deadline:
        with namespace.netlink() as netlink:
            for found in netlink.get_neighbours(family=family_of(address), dst=address):
                state = found["state"]
        if state & (NUD_REACHABLE | NUD_FAILED):
            break
        time.sleep(0.01)
    return state


def test_without_the_programs_everything_flows(bench: Bench, wire: Wire) -> None:
    assert not datagram_arrives(wire, CLIENT4, SERVER4, IMPATIENCE_SECONDS)
    wire.detach(bench)
    assert datagram_arrives(wire, CLIENT4, SERVER4, PATIENCE_SECONDS)
    with wire.host.entered():
        assert list(attach.attached(bench.datapath)) == []


def test_attaching_again_swaps_the_programs_in_place(bench: Bench, wire: Wire) -> None:
    assert wire.attach(bench) == "tcx"
    assert list(attach.attached(bench.datapath)) == [wire.ifindex]
    assert not datagram_arrives(wire, CLIENT4, SERVER4, IMPATIENCE_SECONDS)


@both_families
def test_the_programs_guard_as_clsact_filters_too(
    bench: Bench, plain_wire: Wire, client: str, server: str
) -> None:
    """As on kernels before 6.6, which have no tcx."""
    wire = plain_wire
    bench.endpoint(wire.ifindex)
    with wire.host.entered():
        for hook, name in CLSACT.items():
            attach_bpf(wire.ifindex, hook, bench.datapath.programs[name], name)
    try:
        assert not datagram_arrives(wire, client, server, IMPATIENCE_SECONDS)
        bench.policy(entry(0))
        assert datagram_arrives(wire, client, server, PATIENCE_SECONDS)
        assert echoes(wire, client, server, PATIENCE_SECONDS)
    finally:
        with wire.host.entered():
            for hook in CLSACT:
                detach_bpf(wire.ifindex, hook)
    bench.policy()
    assert datagram_arrives(wire, client, server, PATIENCE_SECONDS)


def test_the_guard_stands_when_whoever_loaded_it_has_gone(bench: Bench, wire: Wire) -> None:
    """Another process's view: only pins, taken over by a second load."""
    bench.policy(entry(0, protocol=17, port=5000))
    other = loader.load(bench.instance, _sizes(bench))
    try:
        with wire.host.entered():
            assert attach.attach(other, wire.ifindex, NoClsact()) == "tcx"
    finally:
        other.close()
    assert datagram_arrives(wire, CLIENT4, SERVER4, PATIENCE_SECONDS)
    assert not datagram_arrives(wire, CLIENT4, SERVER4, IMPATIENCE_SECONDS, 5005)


def _sizes(bench: Bench) -> dict[str, int]:
    return {name: libbpf.map_info(fd).max_entries for name, fd in bench.datapath.maps.items()}


@pytest.mark.slow
def test_a_link_of_an_interface_that_is_gone_is_replaced(bench: Bench) -> None:
    with wired() as first:
        bench.endpoint(first.ifindex)
        first.attach(bench)
        with first.host.netlink() as netlink:
            netlink.link("del", index=first.ifindex)
    with wired() as second:
        assert second.ifindex == first.ifindex
        second.attach(bench)
        try:
            assert not datagram_arrives(second, CLIENT4, SERVER4, IMPATIENCE_SECONDS)
        finally:
            second.detach(bench)


def frames_sent(wire: Wire, *frames: bytes) -> None:
    """The endpoint puts frames of its own making on the wire."""
    with wire.client.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with tap:
        tap.bind(("eth0", 0))
        for frame in frames:
            tap.send(wire.mac + frame[6:])


def counted(bench: Bench, reason: DropReason) -> int:
    found = bench.maps.packet_counters().get((reason, True))
    return found.packets if found else 0


def test_frames_that_end_in_their_ip_header_are_dropped(bench: Bench, wire: Wire) -> None:
    bench.policy(entry(0))
    before = counted(bench, DropReason.INVALID_PACKET)
    whole = [p.frame(c, s, p.udp(c, s, 1, 2)) for c, s in PAIRS]
    short = [frame[:length] for frame in whole for length in range(14, 34)]
    frames_sent(wire, *short)
    assert counted(bench, DropReason.INVALID_PACKET) - before == len(short)


def test_a_tagged_frame_is_dropped(bench: Bench, wire: Wire) -> None:
    bench.policy(entry(0))
    frame = p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 1, 5000))
    for tag in (0, 5):
        before = counted(bench, DropReason.VLAN_FILTERED)
        frames_sent(wire, frame[:12] + struct.pack("!HH", 0x8100, tag) + frame[12:])
        assert counted(bench, DropReason.VLAN_FILTERED) - before == 1


def test_the_endpoint_cannot_bring_a_mark_in(bench: Bench, wire: Wire) -> None:
    """Crossing into another namespace clears marks, on which MARK_UPSTREAM relies."""
    with open_socket(wire.client, DATAGRAM, (CLIENT4, 0), mark=0x0A00) as sock:
        sock.sendto(b"x", (SERVER4, 5000))
    assert DropReason.POLICY_DENIED in drops(bench)


def test_large_datagrams_in_fragments_flow(bench: Bench, wire: Wire) -> None:
    bench.policy(entry(0, protocol=17, port=5003))
    for client, server in PAIRS:
        with (
            open_socket(wire.server, DATAGRAM, (server, 5003)) as far,
            open_socket(wire.client, DATAGRAM, (client, 0)) as near,
        ):
            near.sendto(b"x" * 4000, (server, 5003))
            far.settimeout(3)
            payload, source = far.recvfrom(5000)
            assert len(payload) == 4000
            far.sendto(b"y" * 4000, source)
            near.settimeout(3)
            assert len(near.recv(5000)) == 4000


def test_an_unreachable_port_is_told_to_the_client(bench: Bench, wire: Wire) -> None:
    bench.policy(entry(0, protocol=17))
    for client, server in PAIRS:
        with open_socket(wire.client, DATAGRAM, (client, 0)) as near:
            near.connect((server, 4999))
            near.send(b"anybody")
            with pytest.raises(ConnectionRefusedError):
                near.recv(100)


def test_a_connection_is_cut_and_resumes_with_policy(bench: Bench, wire: Wire) -> None:
    bench.policy(entry(0))
    with (
        open_socket(wire.server, STREAM, (SERVER4, 5004)) as far,
        open_socket(wire.client, STREAM, (CLIENT4, 0)) as near,
    ):
        far.listen()
        near.connect((SERVER4, 5004))
        accepted, _ = far.accept()
        with accepted:
            near.send(b"one")
            assert hears(accepted) == b"one"
            bench.policy()
            near.send(b"two")
            accepted.send(b"three")
            assert hears(accepted, IMPATIENCE_SECONDS) is None
            assert hears(near, IMPATIENCE_SECONDS) is None
            bench.policy(entry(0))
            assert hears(accepted) == b"two"
            assert hears(near) == b"three"


def test_pins_are_all_that_holds_the_datapath(bench: Bench, wire: Wire) -> None:
    names = {entry.name for entry in (loader.ROOT / bench.instance).iterdir()}
    assert {"from_endpoint", "to_endpoint", "links", "conntrack"} <= names
    links = sorted(os.listdir(Path(bench.datapath.pins, "links")))
    assert links == [f"{wire.ifindex}-from_endpoint", f"{wire.ifindex}-to_endpoint"]
