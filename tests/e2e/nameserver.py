"""A name server and its client, both the test's own, with a guard between them.

The test holds both ends of every conversation: it sends what it likes from inside the container,
takes what reaches the server, and answers what it likes. Nothing here knows what is right.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import dnslib

from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.lab import Lab, world
from tests.lab.container import Container
from tests.lab.lab import IFA_F_NODAD
from tests.lab.namespaces import Namespace
from tests.lab.node import Node

V4, V6 = "198.51.100.66", "2001:db8:53::66"
STRANGER_V4 = "198.51.100.67"
"""Another server of the same net, which no policy lets anybody ask."""
PATIENCE_SECONDS = 10.0


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def socket_in(namespace: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that belongs to `namespace`, whoever uses it."""
    with namespace.entered():
        made = socket.socket(family, kind, protocol)
    made.settimeout(PATIENCE_SECONDS)
    return made


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as it came to the server."""

    payload: bytes
    server: socket.socket
    client: tuple[str, int]

    @property
    def ident(self) -> bytes:
        return self.payload[:2]

    def say(self, message: bytes) -> None:
        """Answers with these octets under the query's id."""
        self.raw(self.ident + message[2:])

    def raw(self, octets: bytes) -> None:
        self.server.sendto(octets, self.client)


class Nameserver:
    """UDP and TCP on port 53 of `V4` and `V6`, in the lab's internet."""

    def __init__(self, lab: Lab) -> None:
        with lab.internet.netlink() as netlink:
            for address in (V4, STRANGER_V4):
                netlink.addr("add", index=1, address=address, prefixlen=32)
            netlink.addr("add", index=1, address=V6, prefixlen=128, flags=IFA_F_NODAD)
        self.udp = {address: socket_in(lab.internet, family_of(address), socket.SOCK_DGRAM)
                    for address in (V4, STRANGER_V4, V6)}  # fmt: skip
        self.tcp = socket_in(lab.internet, socket.AF_INET, socket.SOCK_STREAM)
        for address, udp in self.udp.items():
            udp.bind((address, 53))
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((V4, 53))
        self.tcp.listen(16)

    def take(self, at: str = V4) -> Asked:
        """The next query; TimeoutError when none comes."""
        payload, client = self.udp[at].recvfrom(65535)
        return Asked(payload, self.udp[at], client)

    def close(self) -> None:
        for each in (*self.udp.values(), self.tcp):
            each.close()


@dataclass
class Victim:
    """A guarded container, its neighbour, and the name server that they may ask.

    `path` is who settles DNS: "kernel" or "proxy".
    """

    path: str
    node: Node
    box: Container
    neighbour: Container
    server: Nameserver
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 20)))
    _idents: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 16)))

    @property
    def other(self) -> Victim:
        """The neighbour as the victim: nothing of its policy is about what comes in."""
        return Victim(self.path, self.node, self.neighbour, self.box, self.server,
                      self._numbers, self._idents)  # fmt: skip

    def address(self) -> str:
        """An address of the lab's web that nobody has heard of yet."""
        return str(world.FRESH_V4[0x8000 + next(self._numbers)])

    def ident(self) -> int:
        return next(self._idents)

    @contextlib.contextmanager
    def client(self, server: str = V4) -> Iterator[socket.socket]:
        """A UDP socket in the container, connected to the name server."""
        with socket_in(self.box.namespace, family_of(server), socket.SOCK_DGRAM) as udp:
            udp.connect((server, 53))
            yield udp

    def hears(self, udp: socket.socket, query: bytes) -> bytes:
        """The first message that a stub resolver takes for the answer: id and question agree."""
        while True:
            got = udp.recv(65535)
            same = got[:2] == query[:2] and got[12 : len(query)].lower() == query[12:].lower()
            if len(got) > 12 and got[2] & 0x80 and same:
                return got

    def converse(self, query: bytes, answer: bytes, server: str = V4) -> bytes:
        """The query goes out, the server says `answer` to it; what the client gets."""
        with self.client(server) as udp:
            udp.send(query)
            self.server.take(server).say(answer)
            return udp.recv(65535)

    def learn(self, name: str, *addresses: str, ttl: int = 300) -> None:
        """An honest exchange."""
        message = m.Message(name)
        for address in addresses:
            message.address(name, address, ttl)
        got = self.converse(m.query(name, ident=self.ident()), message.pack())
        assert addresses_in(got) == set(addresses)

    def never_asks(self, udp: socket.socket, *queries: bytes) -> None:
        """None of these reaches the server: an honest one behind them is the first that does."""
        for query in queries:
            udp.send(query)
        self.next_is_honest(udp)

    def next_is_honest(self, udp: socket.socket) -> None:
        """What is asked now is what the server gets next, and its answer what the client does."""
        name = f"honest{self.ident()}.example.com"
        query = m.query(name, ident=self.ident())
        udp.send(query)
        asked = self.server.take(udp.getpeername()[0])
        assert asked.payload[12:] == query[12:], asked.payload
        asked.say(m.Message(name).address(name, self.address()).pack())
        assert addresses_in(self.hears(udp, query))

    def to_box(self, packet: bytes) -> bool:
        """Puts an IP packet on the container's wire from the host's end, past the host's own
        firewall, whosever source it claims; whether it was let through."""
        return put(self.node.lab.host, self.box.host_link, self.box.namespace, "eth0", packet)

    def from_box(self, *packets: bytes) -> None:
        """Puts IP packets on the wire at the container's end."""
        for packet in packets:
            put(self.box.namespace, "eth0", self.node.lab.host, self.box.host_link, packet)

    def opened(self, *addresses: str, namespace: Namespace | None = None) -> set[str]:
        """Which of these the container (or `namespace`) can connect to, on port 80.

        Two connections that are open to anybody are begun after the others, one after the other:
        when both stand, the others had their time.
        """
        inside = namespace or self.box.namespace
        with contextlib.ExitStack() as stack:
            tried = {address: stack.enter_context(begin(inside, address)) for address in addresses}
            for _ in range(2):
                with socket_in(inside, socket.AF_INET, socket.SOCK_STREAM) as control:
                    control.connect((str(world.OPEN_ADDRESS_V4), 80))
            _, writable, _ = select.select([], list(tried.values()), [], 0)
            return {
                address
                for address, tcp in tried.items()
                if tcp in writable and not tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            }

    def until_closed(self, addresses: Iterable[str]) -> None:
        """Returns when no new connection to any of them comes about."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.opened(*addresses):
            assert time.monotonic() < deadline, "it stays open"


def begin(namespace: Namespace, address: str) -> socket.socket:
    """A connection to port 80 that is on its way."""
    tcp = socket_in(namespace, family_of(address), socket.SOCK_STREAM)
    tcp.setblocking(False)
    tcp.connect_ex((address, 80))
    return tcp


def put(source: Namespace, link: str, target: Namespace, other_link: str, packet: bytes) -> bool:
    """Sends `packet` as it is from `link` to the other end; False where a program on `link`
    drops it."""
    with target.netlink() as netlink:
        (other,) = netlink.get_links(ifname=other_link)
    frame = bytes.fromhex(other.get("address").replace(":", "")) + p.framed(packet)[6:]
    with socket_in(source, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        try:
            raw.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return False
    return True


def addresses_in(message: bytes) -> set[str]:
    """The addresses in the answer section, as any client would read it; none where it cannot."""
    try:
        read = dnslib.DNSRecord.parse(message)
    except dnslib.DNSError:
        return set()
    return {str(ip_address(str(each.rdata))) for each in read.rr if each.rtype in (m.A, m.AAAA)}


def rcode(message: bytes) -> int:
    """Of any message that has a header."""
    flags: int = struct.unpack("!H", message[2:4])[0]
    return flags & 15
