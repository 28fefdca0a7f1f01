"""A real wire for the bench: three namespaces, and the programs on the middle one's interface.

    client ── eth0 ════ endpoint ── host ── uplink ════ eth0 ── server
             10.9.0.2   10.9.0.1           192.0.2.1    192.0.2.80
             fd09::2    fd09::1         2001:db8::1     2001:db8::80

Sockets are opened inside a namespace and used from outside; everything is one thread, because the
kernel does the other side's part by itself.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fqdnwall.datapath import attach
from fqdnwall.datapath.layouts import Mark
from fqdnwall.netlink.routes import add_local_delivery
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, Bench
from tests.lab.namespaces import Namespace

GATEWAY4, GATEWAY6, OUTER4, OUTER6 = "10.9.0.1", "fd09::1", "192.0.2.1", "2001:db8::1"
TABLE = 777
PATIENCE_SECONDS = 3.0
IMPATIENCE_SECONDS = 0.15
TENTATIVE = 0x40  # IFA_F_TENTATIVE
IP_HDRINCL, IP_TRANSPARENT, IP_RECVORIGDSTADDR = 3, 19, 20
IPV6_HDRINCL, IPV6_RECVORIGDSTADDR, IPV6_TRANSPARENT = 36, 74, 75


class NoClsact:
    """A kernel without tcx has no place in these tests."""

    def attach(self, ifindex: int, from_endpoint_fd: int, to_endpoint_fd: int) -> None:
        raise AssertionError("tcx links are expected on this kernel")

    def detach(self, ifindex: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Wire:
    """The three namespaces; ``ifindex`` is the host side of the client's interface."""

    client: Namespace
    host: Namespace
    server: Namespace
    ifindex: int
    mac: bytes

    def attach(self, bench: Bench) -> str:
        with self.host.entered():
            return attach.attach(bench.datapath, self.ifindex, NoClsact())

    def detach(self, bench: Bench) -> None:
        with self.host.entered():
            attach.detach(bench.datapath, self.ifindex, NoClsact())

    def set(self, name: str, value: str) -> None:
        """A setting of the host's namespace, for example ``ipv4/conf/all/rp_filter``."""
        with self.host.entered():
            Path("/proc/sys/net", name).write_text(value)

    def deliver_locally(self) -> None:
        """The rule and route that bring assigned packets to their sockets."""
        with self.host.entered():
            add_local_delivery("endpoint", Mark.TO_PROXY, Mark.MASK, TABLE)

    def nft(self, text: str) -> None:
        """Rules for the host, as the nft tool reads them; ``{family}`` is ip, then ip6."""
        for family in ("ip", "ip6"):
            result = self.host.run(["nft", text.replace("{family}", family)])
            assert result.returncode == 0, result.stderr

    def deliver_to_transparent_sockets(self) -> None:
        """Deliver an upstream's answer to its socket before the host forwards it."""
        self.nft(
            "add table {family} guard-sockets; "
            "add chain {family} guard-sockets upstream "
            "{ type filter hook prerouting priority mangle; }; "
            'add rule {family} guard-sockets upstream iifname != "endpoint" '
            "meta l4proto { tcp, udp } socket transparent 1 "
            f"meta mark set meta mark and {~Mark.MASK & 0xFFFFFFFF:#x} or {Mark.TO_PROXY:#x}"
        )
        with self.host.entered():
            add_local_delivery(None, Mark.TO_PROXY, Mark.MASK, TABLE + 1)

    def refuse_strangers(self) -> None:
        """A host's own firewall: what connection tracking calls invalid goes no further."""
        self.nft(
            "add table {family} strict; "
            "add chain {family} strict input { type filter hook input priority filter; }; "
            "add chain {family} strict forward { type filter hook forward priority filter; }; "
            "add rule {family} strict input ct state invalid drop; "
            "add rule {family} strict forward ct state invalid drop"
        )
        self.set("ipv4/conf/all/rp_filter", "1")


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_socket(
    namespace: Namespace,
    kind: socket.SocketKind,
    local: tuple[str, int],
    *,
    protocol: int = 0,
    transparent: bool = False,
    mark: int = 0,
) -> socket.socket:
    """A bound socket of the namespace, which waits `PATIENCE_SECONDS` at most."""
    family = family_of(local[0])
    with namespace.entered():
        sock = socket.socket(family, kind, protocol)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent and family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    elif transparent:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    sock.bind(local)
    sock.settimeout(PATIENCE_SECONDS)
    return sock


def hears(sock: socket.socket, patience_seconds: float = PATIENCE_SECONDS) -> bytes | None:
    """The next datagram, or None when none comes."""
    sock.settimeout(patience_seconds)
    try:
        return sock.recv(4096)
    except TimeoutError:
        return None
    finally:
        sock.settimeout(PATIENCE_SECONDS)


def original_destination(listener: socket.socket) -> tuple[bytes, tuple[str, int], tuple[str, int]]:
    """A datagram that was assigned to ``listener``, its source and where it was sent to."""
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    else:
        listener.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
    payload, control, _, source = listener.recvmsg(4096, 256)
    for _, kind, raw in control:
        (port,) = struct.unpack_from("!H", raw, 2)
        if kind == IPV6_RECVORIGDSTADDR:
            return payload, source[:2], (socket.inet_ntop(socket.AF_INET6, raw[8:24]), port)
        if kind == IP_RECVORIGDSTADDR:
            return payload, source[:2], (socket.inet_ntop(socket.AF_INET, raw[4:8]), port)
    raise AssertionError("no original destination")


def send_raw(namespace: Namespace, packet: bytes, destination: str, mark: int) -> None:
    """A whole IP packet with somebody else's source address."""
    with namespace.entered():
        raw = socket.socket(family_of(destination), socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        if raw.family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        raw.sendto(packet, (destination, 0))


def _pair(host: Namespace, name: str, far: Namespace) -> tuple[int, int]:
    """A veth pair between the host and ``far``: indices of both ends, both up."""
    with host.netlink() as netlink:
        netlink.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": far.fd})
        (near_index,) = netlink.link_lookup(ifname=name)
        netlink.link("set", index=near_index, state="up")
    with far.netlink() as netlink:
        (far_index,) = netlink.link_lookup(ifname="eth0")
        netlink.link("set", index=far_index, state="up")
    return near_index, far_index


def _address(namespace: Namespace, index: int, *addresses: str) -> None:
    with namespace.netlink() as netlink:
        for address in addresses:
            nodad = {"flags": 2} if ":" in address else {}
            bits = 64 if ":" in address else 24
            netlink.addr("add", index=index, address=address, prefixlen=bits, **nodad)


def _wait_until_up(namespace: Namespace, *indices: int) -> None:
    """The kernel notices in its own time that the other end is up, and makes an address then.

    Without a link-local address of its own, a router looks for no neighbours.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    with namespace.netlink() as netlink:
        for index in indices:
            while not any(
                address.get("address").startswith("fe80:") and not address["flags"] & TENTATIVE
                for address in netlink.get_addr(index=index, family=socket.AF_INET6)
            ):
                assert time.monotonic() < deadline, f"{namespace.role} does not come up"
                time.sleep(0.01)


@contextmanager
def wired() -> Iterator[Wire]:
    """The namespaces with addresses and routes; nothing is attached."""
    made: list[Namespace] = []
    try:
        for role in ("client", "host", "server"):
            made.append(Namespace.create(role, {}))
            with made[-1].entered():  # or the first packets wait for duplicates to be looked for
                for scope in ("all", "default"):
                    Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0")
        client, host, server = made
        with host.entered():
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", name).write_text("1")
        near, inside = _pair(host, "endpoint", client)
        uplink, outside = _pair(host, "uplink", server)
        _address(client, inside, CLIENT4, CLIENT6)
        _address(host, near, GATEWAY4, GATEWAY6)
        _address(host, uplink, OUTER4, OUTER6)
        _address(server, outside, SERVER4, SERVER6)
        for namespace, gateways in ((client, (GATEWAY4, GATEWAY6)), (server, (OUTER4, OUTER6))):
            with namespace.netlink() as netlink:
                for gateway in gateways:
                    family = family_of(gateway)
                    netlink.route("add", dst="default", gateway=gateway, family=family)
        with host.netlink() as netlink:
            (link,) = netlink.get_links(near)
        _wait_until_up(client, inside)
        _wait_until_up(server, outside)
        _wait_until_up(host, near, uplink)
        mac = bytes.fromhex(link.get("address").replace(":", ""))
        yield Wire(client, host, server, near, mac)
    finally:
        for namespace in reversed(made):
            with suppress(TimeoutError):
                namespace.close()
