"""A checksum that a device writes later must not change what policy has looked at.

The endpoint sends through a packet socket with PACKET_VNET_HDR, which says where the checksum goes
and from where it counts; the last two octets of each frame are chosen so that it comes out as what
the sender wants to stand there. The uplink computes no checksums, so the kernel writes them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from fqdnwall.datapath.layouts import DnsPath, DropReason, Verdict
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, entry
from tests.datapath.dnsbench import DnsBench
from tests.datapath.test_dns_traffic import offload
from tests.datapath.wire import (
    GATEWAY4,
    IMPATIENCE_SECONDS,
    Wire,
    hears,
    open_socket,
    wired,
)

pytestmark = pytest.mark.kernel

DATAGRAM = socket.SOCK_DGRAM
SOL_PACKET, PACKET_VNET_HDR, NEEDS_CSUM = 263, 15, 1
OPEN, SHUT = 5000, 6000
ETHERNET, IPV4, IPV6 = 14, 20, 40
OPTION = b"\xfd\xe9\0\2\0\0"
"""Of EDNS, for local use: its two octets are free."""


@pytest.fixture(scope="module")
def plain_wire() -> Iterator[Wire]:
    with wired() as wire:
        offload(wire.host, "uplink", on=False)
        yield wire


@pytest.fixture
def wire(plain_wire: Wire, dns: DnsBench) -> Iterator[Wire]:
    dns.endpoint(plain_wire.ifindex)
    plain_wire.attach(dns)
    try:
        yield plain_wire
    finally:
        plain_wire.detach(dns)


def datagram(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """With no checksum: over IPv4 a receiver wants none."""
    _, udp = p.udp(source, destination, 1234, port, payload)
    return p.frame(source, destination, (17, udp[:6] + b"\0\0" + udp[8:]))


def chosen(frame: bytes, start: int, wanted: int) -> bytes:
    """Its last two octets such that the checksum from ``start`` on is ``wanted``."""
    rest = 0xFFFF - p.checksum(frame[start:-2])
    return frame[:-2] + struct.pack("!H", ((wanted ^ 0xFFFF) - rest) % 0xFFFF)


def send(wire: Wire, frame: bytes, start: int, at: int) -> None:
    """A device is to write at ``at`` the checksum of all from ``start`` on."""
    with wire.client.netlink() as netlink:
        (link,) = netlink.get_links(netlink.link_lookup(ifname="eth0")[0])
    mine = bytes.fromhex(link.get("address").replace(":", ""))
    with wire.client.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind(("eth0", int.from_bytes(frame[12:14], "big")))
    with sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        header = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, start, at - start)
        sock.send(header + wire.mac + mine + frame[12:])


def invalid(dns: DnsBench) -> int:
    """Packets of the endpoint that were dropped as such, since the bench was made."""
    found = dns.maps.packet_counters().get((DropReason.INVALID_PACKET, True))
    return found.packets if found else 0


def test_a_port_is_not_another_one_on_the_wire(dns: DnsBench, wire: Wire) -> None:
    dns.policy(entry(0, Verdict.ALLOW, protocol=17, port=OPEN))
    before, l4 = invalid(dns), ETHERNET + IPV4
    with open_socket(wire.server, DATAGRAM, (SERVER4, SHUT)) as shut:
        frame = chosen(datagram(CLIENT4, SERVER4, OPEN, b"hello.\0\0"), l4, SHUT)
        send(wire, frame, l4, l4 + 2)
        assert hears(shut, IMPATIENCE_SECONDS) is None
    assert invalid(dns) == before + 1


@pytest.mark.parametrize("at", [ETHERNET + 24 + 14, ETHERNET + 8 + 14], ids=["to", "from"])
def test_an_address_is_not_another_one_on_the_wire(dns: DnsBench, wire: Wire, at: int) -> None:
    """Nothing sums up the header of IPv6. The kernel itself minds what is before its addresses."""
    dns.policy(entry(0, Verdict.ALLOW, protocol=17, port=OPEN))
    before = invalid(dns)
    send(wire, chosen(datagram(CLIENT6, SERVER6, OPEN, b"hello.\0\0"), at, 0x81), at, at)
    assert invalid(dns) == before + 1


def test_a_name_is_not_another_one_on_the_wire(dns: DnsBench, wire: Wire) -> None:
    """The query goes to the proxy, which gets it as it is and asks for what it has read."""
    dns.rules("xx.example.com")
    query = m.query("xx.example.com", additional=(m.opt(OPTION),))
    frame = datagram(CLIENT4, SERVER4, 53, query)
    at = ETHERNET + IPV4 + 8 + 12 + 1
    start = at - (len(frame) - at) % 2
    before = dns.paths().get(DnsPath.ODD, 0)
    with open_socket(wire.server, DATAGRAM, (SERVER4, 53)) as server:
        send(wire, chosen(frame, start, int.from_bytes(b"ev", "big")), start, at)
        assert hears(server, IMPATIENCE_SECONDS) is None
    assert dns.paths()[DnsPath.ODD] == before + 1
    assert dns.exchanges() == []


def test_what_an_icmp_message_quotes_is_not_another_flow_on_the_wire(
    dns: DnsBench, wire: Wire
) -> None:
    dns.policy(entry(0, Verdict.ALLOW, protocol=1))
    before, l4 = invalid(dns), ETHERNET + IPV4
    echo = p.icmp(CLIENT4, SERVER4, 8, rest=b"\0\1\0\1", body=bytes(40))
    send(wire, chosen(p.frame(CLIENT4, SERVER4, echo), l4, 7), l4, l4 + 30)
    assert invalid(dns) == before + 1


def test_arp_is_not_written_into(dns: DnsBench, wire: Wire) -> None:
    before = invalid(dns)
    target = ETHERNET + 24
    send(wire, p.arp(CLIENT4, GATEWAY4) + bytes(18), target - 4, target)
    assert invalid(dns) == before + 1


@pytest.mark.parametrize(
    ("client", "server", "l4"),
    [(CLIENT4, SERVER4, ETHERNET + IPV4), (CLIENT6, SERVER6, ETHERNET + IPV6)],
    ids=["v4", "v6"],
)
def test_a_checksum_in_its_own_place_passes(
    dns: DnsBench, wire: Wire, client: str, server: str, l4: int
) -> None:
    dns.policy(entry(0, Verdict.ALLOW, protocol=17, port=OPEN))
    with open_socket(wire.server, DATAGRAM, (server, OPEN)) as receiver:
        pseudo = p.checksum(p._pseudo(client, server, 17, 13)) ^ 0xFFFF
        frame = datagram(client, server, OPEN, b"hello")
        frame = frame[: l4 + 6] + struct.pack("!H", pseudo) + frame[l4 + 8 :]
        send(wire, frame, l4, l4 + 6)
        assert hears(receiver) == b"hello"


def test_a_tunnels_checksum_passes_behind_what_policy_reads(dns: DnsBench, wire: Wire) -> None:
    dns.policy(entry(0, Verdict.ALLOW, protocol=17, port=OPEN))
    l4 = ETHERNET + IPV4
    with open_socket(wire.server, DATAGRAM, (SERVER4, OPEN)) as receiver:
        frame = chosen(datagram(CLIENT4, SERVER4, OPEN, b"inner packet\0\0"), l4 + 8, 0x4142)
        send(wire, frame, l4 + 8, l4 + 8 + 4)
        assert (hears(receiver) or b"").startswith(b"inneABpacket")
