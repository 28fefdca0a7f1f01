"""Real queries between namespaces: what the kernel writes into a packet, real receivers take.

Checksums are left to devices that compute none, or computed by the senders; each end may differ. A
receiver verifies what nobody vouches for, and counts what is wrong.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fqdnwall.datapath.layouts import DnsPath
from tests.datapath import messages as m
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6
from tests.datapath.dnsbench import DnsBench
from tests.datapath.test_dns_query import expected_refusal
from tests.datapath.wire import IMPATIENCE_SECONDS, Wire, hears, open_socket, wired
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
UDP_SEGMENT = 103
DATAGRAM = socket.SOCK_DGRAM
NAME, ADDRESS = "www.example.com", "203.0.113.1"


def offload(namespace: Namespace, interface: str, on: bool) -> None:
    """Whether the interface says that it computes checksums: ``ethtool -K … tx``."""
    value = bytearray(struct.pack("=II", ETHTOOL_STXCSUM, on))
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, DATAGRAM)
    with sock:
        pointer = (  # struct ifreq with the value's address
            interface.encode().ljust(16, b"\0") + struct.pack("=Q", _address_of(value)) + bytes(16)
        )
        fcntl.ioctl(sock, SIOCETHTOOL, pointer)


def _address_of(value: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(value))


@contextmanager
def offloads(wire: Wire, near: bool, middle: bool, far: bool) -> Iterator[None]:
    ends = [
        (wire.client, "eth0", near),
        (wire.host, "endpoint", middle),
        (wire.server, "eth0", far),
    ]
    for namespace, interface, on in ends:
        offload(namespace, interface, on)
    try:
        yield
    finally:
        for namespace, interface, _ in ends:
            offload(namespace, interface, True)


def checksum_errors(namespace: Namespace) -> int:
    """Datagrams that the namespace has refused because of their checksum."""
    with namespace.entered():
        four = Path("/proc/net/snmp").read_text().splitlines()
        six = Path("/proc/net/snmp6").read_text().splitlines()
    names, values = (line.split() for line in four if line.startswith("Udp:"))
    found = int(values[names.index("InCsumErrors")])
    return found + sum(int(line.split()[1]) for line in six if line.startswith("Udp6InCsumErrors"))


@pytest.fixture(scope="module")
def plain_wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture
def wire(plain_wire: Wire, dns: DnsBench) -> Iterator[Wire]:
    dns.endpoint(plain_wire.ifindex)
    plain_wire.attach(dns)
    dns.rules("**.example.com")
    try:
        yield plain_wire
    finally:
        plain_wire.detach(dns)


OFFLOADS = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)]


@both_families
@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("middle", [True, False])
def test_a_client_takes_the_refusal(
    dns: DnsBench, wire: Wire, client: str, server: str, near: bool, middle: bool
) -> None:
    with (
        offloads(wire, near, middle, True),
        open_socket(wire.client, DATAGRAM, (client, 0)) as sock,
    ):
        sock.connect((server, 53))
        before = checksum_errors(wire.client)
        for size in range(1, 20):
            for additional in ((), (m.opt(),)):
                query = m.query("e" * size + ".org", ident=size * 77, additional=additional)
                sock.send(query)
                assert hears(sock) == expected_refusal(query)
        assert checksum_errors(wire.client) == before
    assert dns.paths() == {DnsPath.REFUSED: 38}


def exchange(wire: Wire, client: str, server: str, query: bytes, answer: bytes) -> bytes | None:
    """What the client hears when the server answers so."""
    with (
        open_socket(wire.server, DATAGRAM, (server, 53)) as far,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        near.send(query)
        assert hears(far) == query
        far.sendto(answer, near.getsockname())
        return hears(near)


@both_families
@pytest.mark.parametrize(("near", "middle", "far"), OFFLOADS)
def test_a_client_takes_answers_whole_and_truncated(
    dns: DnsBench, wire: Wire, client: str, server: str, near: bool, middle: bool, far: bool
) -> None:
    query = m.query(NAME, additional=(m.opt(do=True),))
    good = m.Message(NAME).address(NAME, ADDRESS).edns().pack()
    with offloads(wire, near, middle, far):
        before = checksum_errors(wire.client)
        assert exchange(wire, client, server, query, good) == good
        heard = exchange(wire, client, server, query, good + b"\0")
        assert heard is not None
        assert heard[2] & 2, "truncated"
        assert checksum_errors(wire.client) == before
    assert dns.paths() == {DnsPath.ALLOWED: 2, DnsPath.ANSWERED: 1, DnsPath.TRUNCATED: 1}
    assert [str(address) for address in dns.learned()] == [ADDRESS]


@both_families
@pytest.mark.parametrize("far", [True, False])
def test_an_answer_that_comes_in_fragments_arrives_truncated(
    dns: DnsBench, wire: Wire, client: str, server: str, far: bool
) -> None:
    answer = m.Message(NAME)
    for number in range(64):
        answer.address(NAME, f"203.0.113.{number}").add(NAME, m.TXT, 60, b"\x63" + b"x" * 99)
    assert len(answer.pack()) > 2000
    with offloads(wire, True, True, far):
        before = checksum_errors(wire.client)
        heard = exchange(wire, client, server, m.query(NAME), answer.pack())
        assert heard is not None
        assert heard[2] & 2
        assert checksum_errors(wire.client) == before
    assert dns.paths() == {DnsPath.ALLOWED: 1, DnsPath.TRUNCATED: 1}
    assert dns.learned() == {}


@both_families
def test_segments_hide_no_query(dns: DnsBench, wire: Wire, client: str, server: str) -> None:
    """One send of several datagrams: the OPT record of the first holds the second."""
    hidden = m.query(".".join(["evil"] * 5) + ".x")
    first = m.query(NAME, counts=(1, 0, 0, 1), tail=m.opt(hidden)[:11])
    assert len(first) == len(hidden)
    with (
        open_socket(wire.server, DATAGRAM, (server, 53)) as far,
        open_socket(wire.client, DATAGRAM, (client, 0)) as near,
    ):
        near.connect((server, 53))
        size = struct.pack("=H", len(first))
        near.sendmsg([first + hidden], [(socket.SOL_UDP, UDP_SEGMENT, size)])
        assert hears(far, IMPATIENCE_SECONDS) is None
    assert dns.paths().get(DnsPath.ODD) == 1
