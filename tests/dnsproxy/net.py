"""Three namespaces for the proxy's shells, client, proxy and server, with no BPF anywhere.

    client 10.77.1.2, fd77:1::2 ── proxy ── 10.77.2.2, fd77:2::2 server

What `bpf_sk_assign` does in the product, policy routing does here: whatever comes into the proxy's
namespace, from either side, is delivered locally, and the listeners are on the wildcard address and
the asked port. Original destinations, transparent upstream sockets and raw replies are the real
thing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.namespaces import Namespace

CLIENT_V4, CLIENT_V6 = "10.77.1.2", "fd77:1::2"
SERVER_V4, SERVER_V6 = "10.77.2.2", "fd77:2::2"
PORT = 53
ENDPOINT = 7

_LOCAL_TABLE = 77


@dataclass(frozen=True, slots=True)
class Net:
    client: Namespace
    proxy: Namespace
    server: Namespace

    def client_socket(self, family: int, kind: int) -> socket.socket:
        with self.client.entered():
            return socket.socket(family, kind)

    def server_socket(self, family: int, kind: int, port: int = PORT) -> socket.socket:
        """Bound to the server's address; listening if it is a stream."""
        address = SERVER_V6 if family == socket.AF_INET6 else SERVER_V4
        with self.server.entered():
            sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        return sock


@contextlib.contextmanager
def net(mtu: int = 1500, intercept: bool = True) -> Iterator[Net]:
    """The namespaces, gone at the end. Without `intercept` the proxy's one merely forwards."""
    with contextlib.ExitStack() as stack:
        spaces = []
        for role in ("client", "proxy", "server"):
            namespace = Namespace.create(f"dnsproxy {role}", {})
            stack.callback(namespace.close)
            with (
                namespace.entered(),
                open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as file,
            ):
                file.write("0")  # link-local addresses too are usable at once
            spaces.append(namespace)
        made = Net(*spaces)
        _join(made.client, made.proxy, "client", 1, mtu)
        _join(made.server, made.proxy, "server", 2, mtu)
        _forward(made.proxy)
        if intercept:
            _deliver_locally(made.proxy)
        yield made


def _join(leaf: Namespace, proxy: Namespace, name: str, net_number: int, mtu: int) -> None:
    """A veth pair; the leaf has .2 and ::2, the proxy's side .1 and ::1."""
    with proxy.netlink() as netlink:
        netlink.link(
            "add",
            ifname=name,
            kind="veth",
            peer={"ifname": "eth0", "net_ns_fd": leaf.fd},
        )
        index = netlink.link_lookup(ifname=name)[0]
        netlink.link("set", index=index, state="up", mtu=mtu)
        _address(netlink, index, net_number, 1)
    with leaf.netlink() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.link("set", index=index, state="up", mtu=mtu)
        _address(netlink, index, net_number, 2)
        netlink.route("add", dst="default", gateway=f"10.77.{net_number}.1")
        netlink.route("add", dst="default", family=socket.AF_INET6, gateway=f"fd77:{net_number}::1")


def _address(netlink: object, index: int, net_number: int, host: int) -> None:
    add = netlink.addr  # type: ignore[attr-defined]
    add("add", index=index, address=f"10.77.{net_number}.{host}", prefixlen=24)
    # IFA_F_NODAD: usable at once
    add("add", index=index, address=f"fd77:{net_number}::{host}", prefixlen=64, flags=0x02)


def _forward(proxy: Namespace) -> None:
    with proxy.entered():
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            with open(f"/proc/sys/net/{path}", "w") as file:
                file.write("1")


def _deliver_locally(proxy: Namespace) -> None:
    with proxy.netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            everything = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
            netlink.route(
                "add",
                dst=everything,
                family=family,
                type="local",
                scope=254 if family == socket.AF_INET else 0,  # host
                oif=1,
                table=_LOCAL_TABLE,
            )
            for interface in ("client", "server"):
                netlink.rule(
                    "add",
                    family=family,
                    iifname=interface,
                    table=_LOCAL_TABLE,
                    priority=100,
                )
