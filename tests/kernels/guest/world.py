"""A small world around the node, which is the namespace that this runs in.

box 172.31.1.2 ── node ── world 198.51.100.53 (DNS), 203.0.113.0/24 and 2001:db8::/64 (port 80)
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import socketserver
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord

from tests.lab.namespaces import Namespace

SERVER, SERVER6 = "198.51.100.53", "2001:db8::53"
BOX, BOX_GATEWAY = "172.31.1.2", "172.31.1.1"
BOX6, BOX6_GATEWAY = "fd00:fab:1::2", "fd00:fab:1::1"
UPLINK, UPLINK_GATEWAY = "192.0.2.1", "192.0.2.2"
UPLINK6, UPLINK6_GATEWAY = "2001:db8:ffff::1", "2001:db8:ffff::2"
LOCAL = ("198.51.100.0/24", "203.0.113.0/24", "2001:db8::/64")
CLOSED = "203.0.113.90"
PATIENCE_SECONDS = 5.0
DROPPED_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
IFA_F_NODAD = 2

MANY = tuple(f"203.0.113.{number}" for number in range(100, 130))
HUGE = tuple(f"203.0.113.{number}" for number in range(130, 210))
ZONE: dict[str, tuple[str, ...]] = {
    "api.example.com": ("203.0.113.10", "2001:db8::10"),
    "early.example.com": ("203.0.113.11",),
    "late.example.com": ("203.0.113.12",),
    "many.example.com": MANY,
    "huge.example.com": HUGE,
    "sixth.example.com": ("203.0.113.14",),
    "svc-blue.example.net": ("203.0.113.13",),
    "svc-green.example.net": ("203.0.113.15",),
}
ALIASES = {"www.example.com": "cdn.example.com", "cdn.example.com": "many.example.com"}


def child(role: Callable[[], None], namespace: Namespace | None = None) -> int:
    """A process that does this, and dies with its parent; its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if namespace is None:
            role()
        else:
            with namespace.entered():
                role()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class World:
    """Made whole by its constructor; `close` takes it away."""

    def __init__(self) -> None:
        self.box = Namespace.create("box", {})
        self.internet = Namespace.create("world", {})
        node = Namespace("node", {}, os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        _join(node, "box0", (BOX_GATEWAY, BOX6_GATEWAY), self.box, (BOX, BOX6))
        with node.netlink() as netlink:
            netlink.link("set", index=1, state="up")
        up, up_gateway = (UPLINK, UPLINK6), (UPLINK_GATEWAY, UPLINK6_GATEWAY)
        _join(node, "uplink0", up, self.internet, up_gateway)
        _routes(self.box, (BOX_GATEWAY, BOX6_GATEWAY))
        _routes(self.internet, up)
        _routes(node, up_gateway)
        node.write_setting("ipv4/ip_forward", "1")
        node.write_setting("ipv6/conf/all/forwarding", "1")
        with self.internet.netlink() as netlink:
            for prefix in LOCAL:
                local = {"type": "local", "table": 255, "scope": 254}
                netlink.route("add", dst=prefix, oif=1, family=_family(prefix), **local)
            netlink.addr("add", index=1, address=SERVER6, prefixlen=128, flags=IFA_F_NODAD)
        os.close(node.fd)
        ready, tell = os.pipe()
        self._servers = child(lambda: _serve(tell), self.internet)
        os.close(tell)
        with open(ready, "rb") as said:
            if not said.read(1):
                raise RuntimeError("the servers do not start")

    def close(self) -> None:
        os.kill(self._servers, signal.SIGKILL)
        os.waitpid(self._servers, 0)
        self.box.close()
        self.internet.close()

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False, server: str = SERVER) -> Answer:
        """The answer that the box gets; its rcode is "none" when there is none."""
        query = DNSRecord.question(name, kind)
        with self.box.entered():
            sock = socket.socket(_family(server), socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(PATIENCE_SECONDS)
            try:
                sock.connect((server, 53))
                raw = _over_tcp(sock, query.pack()) if tcp else _over_udp(sock, query.pack())
            except OSError:
                return Answer("none", False, ())
        parsed = DNSRecord.parse(raw)
        addresses = tuple(str(rr.rdata) for rr in parsed.rr if rr.rtype in (QTYPE.A, QTYPE.AAAA))
        return Answer(RCODE.get(parsed.header.rcode), bool(parsed.header.tc), addresses)

    def connect(self, address: str, patience: float = PATIENCE_SECONDS) -> socket.socket | None:
        """A connection from the box to port 80, or None."""
        with self.box.entered():
            sock = socket.socket(_family(address))
        sock.settimeout(patience)
        try:
            sock.connect((address, 80))
        except OSError:
            sock.close()
            return None
        return sock

    def reaches(self, address: str) -> bool:
        sock = self.connect(address)
        return sock is not None and echoes(sock)

    def is_dropped(self, address: str) -> bool:
        """Nothing comes back: not even that it is refused."""
        sock = self.connect(address, DROPPED_SECONDS)
        if sock is not None:
            sock.close()
        return sock is None


@dataclass(frozen=True, slots=True)
class Answer:
    rcode: str
    truncated: bool
    addresses: tuple[str, ...]


def echoes(sock: socket.socket) -> bool:
    """Whether the server sends back what it is sent."""
    try:
        sock.sendall(b"ping")
        return sock.recv(4) == b"ping"
    except OSError:
        return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _over_udp(sock: socket.socket, query: bytes) -> bytes:
    sock.send(query)
    return sock.recv(65535)


def _over_tcp(sock: socket.socket, query: bytes) -> bytes:
    sock.sendall(len(query).to_bytes(2, "big") + query)
    with sock.makefile("rb") as stream:
        return stream.read(int.from_bytes(stream.read(2), "big"))


def _join(
    node: Namespace, name: str, ours: tuple[str, str], other: Namespace, theirs: tuple[str, str]
) -> None:
    with node.netlink() as netlink:
        peer = {"ifname": "eth0", "net_ns_fd": other.fd}
        netlink.link("add", ifname=name, kind="veth", peer=peer)
        _up(netlink, name, ours)
    with other.netlink() as netlink:
        _up(netlink, "eth0", theirs)


def _up(netlink: object, name: str, addresses: tuple[str, str]) -> None:
    index = netlink.link_lookup(ifname=name)[0]  # type: ignore[attr-defined]
    for address, length in zip(addresses, (24, 64), strict=True):
        flags = {"flags": IFA_F_NODAD} if ":" in address else {}
        netlink.addr("add", index=index, address=address, prefixlen=length, **flags)  # type: ignore[attr-defined]
    netlink.link("set", index=index, state="up")  # type: ignore[attr-defined]


def _routes(namespace: Namespace, gateways: tuple[str, str]) -> None:
    with namespace.netlink() as netlink:
        netlink.route("add", dst="default", gateway=gateways[0])
        netlink.route("add", dst="::/0", gateway=gateways[1], family=socket.AF_INET6)


def _serve(ready: int) -> None:
    """DNS at two addresses, and at port 80 of all others whatever one sends; tells when it does."""
    servers = (
        _DnsUdp((SERVER, 53), _UdpHandler),
        _DnsTcp((SERVER, 53), _TcpHandler),
        _DnsUdp6((SERVER6, 53), _UdpHandler),
        _DnsTcp6((SERVER6, 53), _TcpHandler),
        _Echo(("::", 80), _EchoHandler),
    )
    os.write(ready, b"!")
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answer(raw: bytes) -> bytes:
    """What the zone says."""
    query = DNSRecord.parse(raw)
    reply = query.reply()
    name, kind = str(query.q.qname).rstrip(".").lower(), query.q.qtype
    while name in ALIASES:
        reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(ALIASES[name]), ttl=300))
        name = ALIASES[name]
    if name not in ZONE:
        reply.header.rcode = RCODE.NXDOMAIN
    for address in ZONE.get(name, ()):
        if kind == QTYPE.AAAA and ":" in address:
            reply.add_answer(RR(name, QTYPE.AAAA, rdata=AAAA(address), ttl=300))
        if kind == QTYPE.A and ":" not in address:
            reply.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=300))
    return bytes(reply.pack())


class _DnsUdp(socketserver.UDPServer):
    max_packet_size = 65535


class _DnsTcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


class _DnsUdp6(_DnsUdp):
    address_family = socket.AF_INET6


class _DnsTcp6(_DnsTcp):
    address_family = socket.AF_INET6


class _Echo(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # and IPv4 with it
    allow_reuse_address = True


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, sock = self.request
        sock.sendto(answer(query), self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(2):
            reply = answer(self.rfile.read(int.from_bytes(size, "big")))
            self.wfile.write(len(reply).to_bytes(2, "big") + reply)


class _EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while received := self.request.recv(4096):
            self.request.sendall(received)


def policy_folder(folder: Path) -> Path:
    """With the one policy of this world."""
    folder.mkdir(exist_ok=True)
    (folder / "policy.yaml").write_text(POLICY)
    return folder


POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: kernels}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints:
        - matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, "k8s:k8s-app": kube-dns}
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules:
            dns: [{matchPattern: "*.example.com"}, {matchPattern: "svc-*.example.net"}]
    - toFQDNs: [{matchPattern: "*.example.com"}, {matchPattern: "svc-*.example.net"}]
      toPorts: [{ports: [{port: "80"}]}]
"""
