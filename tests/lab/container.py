"""A namespace behind the lab's host, as a container engine makes it: veth, routes, masquerading.

It is what `fqdnwall endpoint add` is pointed at, and the plain-routing side of the benchmarks.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from tests.lab.namespaces import Namespace

MASQUERADE = """\
table inet fqwlab {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "uplink0" masquerade
  }
}
"""


@dataclass(frozen=True, slots=True)
class Container:
    """`namespace` has `address_v4` and `address_v6`; the host's end of its veth is `host_link`."""

    namespace: Namespace
    host_link: str
    address_v4: str
    address_v6: str

    @classmethod
    def connect(cls, namespace: Namespace, host: Namespace, number: int) -> Container:
        """Joins `namespace` to `host` by a veth pair; the host forwards and masquerades for it."""
        container = cls(
            namespace,
            f"veth{number}",
            f"172.31.{number}.2",
            f"fd00:fab:{number:x}::2",
        )
        gateway_v4, gateway_v6 = f"172.31.{number}.1", f"fd00:fab:{number:x}::1"
        with host.netlink() as netlink:
            netlink.link(
                "add",
                ifname=container.host_link,
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": namespace.fd},
            )
            index = netlink.link_lookup(ifname=container.host_link)[0]
            netlink.addr("add", index=index, address=gateway_v4, prefixlen=24)
            netlink.addr("add", index=index, address=gateway_v6, prefixlen=64, flags=2)
            netlink.link("set", index=index, state="up")
        with namespace.netlink() as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            netlink.addr("add", index=index, address=container.address_v4, prefixlen=24)
            netlink.addr("add", index=index, address=container.address_v6, prefixlen=64, flags=2)
            netlink.link("set", index=index, state="up")
            netlink.route("add", dst="default", gateway=gateway_v4)
            netlink.route("add", dst="::/0", gateway=gateway_v6, family=socket.AF_INET6)
        host.write_setting("ipv4/ip_forward", "1")
        host.write_setting("ipv6/conf/all/forwarding", "1")
        load_nftables(host, "table inet fqwlab\ndelete table inet fqwlab\n" + MASQUERADE)
        return container


def load_nftables(host: Namespace, rules: str) -> None:
    """Loads nftables rules in `host`, all or nothing."""
    process = host.start(["nft", "-f", "-"], stdin=-1)
    process.communicate(rules)
    if process.returncode != 0:
        raise RuntimeError(f"nft refused:\n{rules}")
