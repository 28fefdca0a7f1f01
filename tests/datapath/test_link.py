"""The link below policy: ARP and neighbour discovery work, for the endpoint's own addresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fqdnwall.datapath.layouts import DropReason, EndpointFlag
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, Bench, Outcome, entry
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

GATEWAY6, LOCAL6, ALL_NODES, SOLICITED = "fd09::1", "fe80::2", "ff02::1", "ff02::1:ff00:1"
NEIGHBOUR6, ON_UPLINK6, ON_BRIDGE6 = "fd09::9", "fd77::9", "fd66::9"
INVALID_SOURCE, FORBIDDEN = DropReason.INVALID_SOURCE_IP, DropReason.FORBIDDEN_ICMP6
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137


def test_arp_passes_for_the_endpoints_own_addresses(bench: Bench) -> None:
    for operation in (1, 2):
        assert bench.send(p.arp(CLIENT4, "10.9.0.1", operation=operation)).passed
        spoofed = bench.send(p.arp("10.9.0.3", "10.9.0.1", operation=operation))
        assert spoofed.reason is INVALID_SOURCE
    assert bench.send(p.arp("0.0.0.0", CLIENT4)).passed, "a probe (RFC 5227)"
    assert bench.receive(p.arp("10.9.0.1", CLIENT4)).passed


@pytest.mark.parametrize(
    "fields",
    [{"hardware": 6}, {"protocol": 0x86DD}, {"sizes": (8, 4)}, {"sizes": (6, 16)}],
    ids=str,
)
def test_arp_that_is_not_for_ipv4_on_ethernet_is_refused(
    bench: Bench, fields: dict[str, int]
) -> None:
    frame = p.arp(CLIENT4, "10.9.0.1", **fields)  # type: ignore[arg-type]
    assert bench.send(frame).reason is DropReason.INVALID_PACKET
    assert bench.receive(frame).reason is DropReason.INVALID_PACKET


def test_arp_that_ends_early_is_refused(bench: Bench) -> None:
    whole = p.arp(CLIENT4, "10.9.0.1")
    for length in range(14, len(whole)):
        assert bench.send(whole[:length]).reason is DropReason.INVALID_PACKET


@pytest.mark.parametrize("kind", [RS, NS, NA])
@pytest.mark.parametrize("source", [CLIENT6, LOCAL6, "::"])
def test_the_endpoint_may_look_for_neighbours_and_answer_for_itself(
    bench: Bench, kind: int, source: str
) -> None:
    assert bench.send(p.neighbour(source, SOLICITED, kind, CLIENT6)).passed


def test_the_endpoint_may_not_speak_for_others(bench: Bench) -> None:
    assert bench.send(p.neighbour(NEIGHBOUR6, SOLICITED, NS, GATEWAY6)).reason is INVALID_SOURCE
    assert bench.send(p.neighbour(CLIENT6, ALL_NODES, NA, GATEWAY6)).reason is INVALID_SOURCE
    assert bench.send(p.neighbour(CLIENT6, ALL_NODES, NA, CLIENT6)).passed
    assert bench.send(p.neighbour(CLIENT6, ALL_NODES, NA, LOCAL6)).passed


@pytest.mark.parametrize("kind", [RA, REDIRECT])
def test_the_endpoint_is_no_router(bench: Bench, kind: int) -> None:
    assert bench.send(p.neighbour(LOCAL6, ALL_NODES, kind)).reason is FORBIDDEN
    assert bench.receive(p.neighbour("fe80::1", ALL_NODES, kind)).passed


@pytest.mark.parametrize("kind", [RS, RA, NS, NA, REDIRECT])
@pytest.mark.parametrize("hops", [0, 1, 64, 254])
def test_discovery_that_has_crossed_a_router_is_refused(bench: Bench, kind: int, hops: int) -> None:
    frame = p.neighbour(CLIENT6, ALL_NODES, kind, CLIENT6, hop_limit=hops)
    assert bench.send(frame).reason is FORBIDDEN
    assert bench.receive(frame).reason is FORBIDDEN


def test_an_advertisement_without_its_target_is_refused(bench: Bench) -> None:
    for size in range(16):
        frame = p.neighbour(CLIENT6, ALL_NODES, NA, body=p.packed(CLIENT6)[:size])
        assert bench.send(frame).reason is DropReason.INVALID_PACKET
        assert bench.send(frame + p.packed(CLIENT6)).reason is DropReason.INVALID_PACKET


def test_discovery_in_fragments_is_refused(bench: Bench) -> None:
    """RFC 6980."""
    message = p.icmp(CLIENT6, ALL_NODES, NS, body=p.packed(GATEWAY6))
    inner = p.fragment_header(message, 1, more=True)
    frame = p.framed(p.ipv6(CLIENT6, ALL_NODES, inner, hop_limit=255))
    assert bench.send(frame).reason is FORBIDDEN
    assert bench.receive(frame).reason is FORBIDDEN


@pytest.mark.parametrize("kind", [130, 131, 132, 143])
def test_listener_reports_stay_on_the_link(bench: Bench, kind: int) -> None:
    def report(source: str, destination: str, hops: int = 1) -> bytes:
        message = p.icmp(source, destination, kind, body=bytes(16))
        router_alert = p.extension(p.HOP_BY_HOP, message, body=b"\5\2\0\0\1\0")
        return p.framed(p.ipv6(source, destination, router_alert, hop_limit=hops))

    for ask in (bench.send, bench.receive):
        assert ask(report(LOCAL6, "ff02::16")).passed
        assert ask(report("::", "ff05::123")).passed
        assert ask(report(LOCAL6, "ff02::16", 2)).reason is FORBIDDEN
    # A router makes 1 of 2: what comes from afar has a global source.
    assert bench.receive(report(SERVER6, CLIENT6)).reason is FORBIDDEN
    assert bench.receive(report(SERVER6, ALL_NODES)).reason is FORBIDDEN
    assert bench.send(report(CLIENT6, SERVER6)).reason is FORBIDDEN
    assert bench.send(report(LOCAL6, LOCAL6)).reason is FORBIDDEN


@dataclass(frozen=True, slots=True)
class Host:
    """A host that routes: an endpoint's veth, a bridge and an uplink."""

    namespace: Namespace
    veth: int
    bridge: int

    def send(self, bench: Bench, frame: bytes, *, bridged: bool = False) -> Outcome:
        bench.endpoint(self.veth, bridge=self.bridge if bridged else 0)
        with self.namespace.entered():
            return bench.send(frame, ifindex=self.veth)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    namespace = Namespace.create("bench", {})
    try:
        with namespace.netlink() as netlink:
            index = {}
            for name, peer in (("veth", "inside"), ("uplink", "outside")):
                netlink.link("add", ifname=name, kind="veth", peer={"ifname": peer})
                (index[peer],) = netlink.link_lookup(ifname=peer)
                netlink.link("set", index=index[peer], state="up")
            netlink.link("add", ifname="bridge", kind="bridge")
            for name, address in (
                ("veth", GATEWAY6),
                ("uplink", "fd77::1"),
                ("bridge", "fd66::1"),
            ):
                (index[name],) = netlink.link_lookup(ifname=name)
                netlink.link("set", index=index[name], state="up")
                netlink.addr("add", index=index[name], address=address, prefixlen=64, flags=2)
            netlink.route("add", dst="default", gateway="fd77::2", oif=index["uplink"])
        with namespace.entered(), open("/proc/sys/net/ipv6/conf/all/forwarding", "w") as setting:
            setting.write("1")
        yield Host(namespace, index["veth"], index["bridge"])
    finally:
        namespace.close()


@pytest.mark.parametrize("kind", [NS, NA])
@pytest.mark.parametrize(
    ("destination", "bridged", "stays"),
    [
        (GATEWAY6, False, True),
        (NEIGHBOUR6, False, True),
        (LOCAL6, False, True),
        (ON_BRIDGE6, True, True),
        (ON_BRIDGE6, False, False),
        (ON_UPLINK6, False, False),
        (ON_UPLINK6, True, False),
        (SERVER6, False, False),
        (SERVER6, True, False),
        ("ff05::1", False, False),
        ("ff0e::1", False, False),
    ],
)
def test_discovery_that_the_host_would_route_is_for_policy_to_judge(
    bench: Bench, host: Host, kind: int, destination: str, bridged: bool, stays: bool
) -> None:
    frame = p.neighbour(CLIENT6, destination, kind, CLIENT6)
    sent = host.send(bench, frame, bridged=bridged)
    assert sent.reason is (None if stays else DropReason.POLICY_DENIED)


def test_policy_may_allow_discovery_to_afar(bench: Bench, host: Host) -> None:
    bench.policy(entry(0, protocol=58, port=NS, port_bits=16))
    assert host.send(bench, p.neighbour(CLIENT6, SERVER6, NS, SERVER6)).passed
    assert not host.send(bench, p.neighbour(CLIENT6, SERVER6, NA, SERVER6)).passed


def test_ordinary_packets_from_a_link_local_address_are_spoofed(bench: Bench) -> None:
    bench.enforce(EndpointFlag(0))
    frame = p.frame(LOCAL6, "fe80::1", p.udp(LOCAL6, "fe80::1", 1, 2))
    assert bench.send(frame).reason is INVALID_SOURCE
    bench.own(LOCAL6)
    assert bench.send(frame).passed


def test_packets_to_a_group_are_judged_one_by_one(bench: Bench) -> None:
    group = p.frame(SERVER4, "224.0.0.251", p.udp(SERVER4, "224.0.0.251", 5353, 5353))
    assert bench.receive(group).reason is DropReason.POLICY_DENIED
    bench.policy(entry(0, direction=0))
    assert bench.receive(group).passed
    assert bench.flows() == []
