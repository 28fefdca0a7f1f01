"""Interfaces and their addresses: veth pairs, up, mtu, addresses.

Every function may be called twice with the same arguments, and every undo too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fqdnwall.netlink.errors import NetworkError
from fqdnwall.netlink.rtnetlink import added, index_of, removed, rtnetlink

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_IFF_UP = 1
_IFF_LOOPBACK = 8
_IFA_F_NODAD = 2


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it."""

    index: int
    name: str
    kind: str  # "veth", "bridge", …; empty for a plain device
    up: bool
    loopback: bool
    mtu: int
    mac: str
    peer_index: int | None  # veth: the index in the peer's namespace
    peer_nsid: int | None  # the peer's namespace in ours' numbering; None: our own


def links(netns_fd: int | None = None) -> tuple[Link, ...]:
    """All interfaces of a namespace, by index."""
    with rtnetlink(netns_fd) as socket:
        return tuple(_link(message) for message in socket.get_links())


def link(ifname: str, netns_fd: int | None = None) -> Link | None:
    """The interface of that name, or None."""
    return next((found for found in links(netns_fd) if found.name == ifname), None)


def create_veth(ifname: str, netns_fd: int, inner_name: str, mtu: int = 1500) -> tuple[int, int]:
    """A veth pair: `ifname` here, `inner_name` inside `netns_fd`; both up. Their two indexes.

    Raises NetworkError when `ifname` exists and is not this pair.
    """
    with rtnetlink() as socket:
        peer = {"ifname": inner_name, "net_ns_fd": netns_fd, "mtu": mtu}
        with added():
            socket.link("add", ifname=ifname, kind="veth", mtu=mtu, peer=peer)
        index = index_of(socket, ifname)
    inner = link(inner_name, netns_fd)
    if index is None or inner is None or inner.peer_index != index:
        raise NetworkError(f"interface {ifname} exists already and is not ours")
    set_up(index)
    set_up(inner.index, netns_fd)
    return index, inner.index


def delete_link(ifname: str) -> None:
    """Delete an interface (a veth's peer goes with it)."""
    with rtnetlink() as socket:
        index = index_of(socket, ifname)
        if index is not None:
            with removed():
                socket.link("del", index=index)


def set_up(index: int, netns_fd: int | None = None) -> None:
    """Bring an interface up."""
    with rtnetlink(netns_fd) as socket:
        socket.link("set", index=index, state="up")


def loopback_up(netns_fd: int | None = None) -> None:
    """Bring the loopback interface up: without it nothing is delivered locally."""
    for found in links(netns_fd):
        if found.loopback and not found.up:
            set_up(found.index, netns_fd)


def add_addresses(
    index: int, addresses: Iterable[IPInterface], netns_fd: int | None = None
) -> None:
    """Give an interface addresses, usable at once (no duplicate address detection)."""
    with rtnetlink(netns_fd) as socket:
        for address in addresses:
            options = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
            prefixlen = address.network.prefixlen
            with added():
                socket.addr(
                    "add", index=index, address=str(address.ip), prefixlen=prefixlen, **options
                )


def addresses_of(index: int, netns_fd: int | None = None) -> tuple[IPInterface, ...]:
    """An interface's addresses, link-local ones last. None when there is no such interface."""
    with rtnetlink(netns_fd) as socket:
        found = [
            ipaddress.ip_interface(f"{_address(message)}/{message['prefixlen']}")
            for message in socket.get_addr()
            if message["index"] == index
        ]
    return tuple(sorted(found, key=lambda item: (item.is_link_local, item.version, item.ip.packed)))


def delete_addresses(index: int, addresses: Iterable[IPInterface]) -> None:
    """Take addresses off an interface."""
    with rtnetlink() as socket:
        for address in addresses:
            with removed():
                socket.addr(
                    "del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen
                )


def _address(message: Any) -> str:
    # IFA_LOCAL is the interface's own address on a point-to-point link; IPv6 has IFA_ADDRESS only.
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info else None
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        kind=str(kind or ""),
        up=bool(message["flags"] & _IFF_UP),
        loopback=bool(message["flags"] & _IFF_LOOPBACK),
        mtu=int(message.get_attr("IFLA_MTU") or 0),
        mac=str(message.get_attr("IFLA_ADDRESS") or ""),
        peer_index=message.get_attr("IFLA_LINK"),
        peer_nsid=message.get_attr("IFLA_LINK_NETNSID"),
    )
