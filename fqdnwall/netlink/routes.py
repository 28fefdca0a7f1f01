"""Routes, and the rules that deliver marked packets to this host's own sockets.

The datapath assigns a packet to a local socket and marks it. The routing decision must then say
"local" although the destination is somebody else's address; for each guarded interface:

    ip rule add fwmark MARK/MASK iif IF lookup TABLE
    ip route add local default dev lo table TABLE            (IPv4 and IPv6)

(the arrangement of the kernel's Documentation/networking/tproxy.rst). Rules carry a protocol
number of ours, so that what a dead process left can be told from anybody else's.
"""

from __future__ import annotations

import errno
import ipaddress
import socket as sockets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from fqdnwall.netlink.rtnetlink import added, removed, rtnetlink

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RULE_PROTOCOL = 0xF4  # FRA_PROTOCOL (since 4.17): "made by fqdnwall"; not in rt_protos
RULE_PRIORITY = 20  # after `local` (0), before whatever the host sends elsewhere

_RTN_LOCAL = 2
_RTN_UNICAST = 1
_RTPROT_RA = 9
_SCOPE_HOST = 254
_FAMILIES = {4: sockets.AF_INET, 6: sockets.AF_INET6}


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast or local route of the host."""

    destination: IPNetwork
    ifindex: int | None
    table: int
    local: bool
    from_ra: bool

    @property
    def is_default(self) -> bool:
        """Whether it covers everything."""
        return self.destination.prefixlen == 0


def routes(netns_fd: int | None = None) -> tuple[Route, ...]:
    """Every unicast and local route in every table."""
    found: list[Route] = []
    with rtnetlink(netns_fd) as socket:
        for version, family in _FAMILIES.items():
            for message in _dumped(socket, family):
                if message["type"] not in (_RTN_UNICAST, _RTN_LOCAL):
                    continue
                found.append(_route(message, version))
    return tuple(found)


def add_default_route(gateway: IPAddress, ifindex: int, netns_fd: int | None = None) -> None:
    """A default route through `gateway`, which the interface's own prefix covers."""
    with rtnetlink(netns_fd) as socket, added():
        socket.route(
            "add",
            family=_FAMILIES[gateway.version],
            dst="default",
            gateway=str(gateway),
            oif=ifindex,
        )


def add_local_delivery(
    ifname: str | None, mark: int, mask: int, table: int, versions: Iterable[int] = (4, 6)
) -> None:
    """Deliver packets that enter by `ifname` with `mark` (under `mask`) to local sockets.

    None is any interface: of endpoints behind a bridge, packets enter by the bridge.
    """
    interface = {} if ifname is None else {"iifname": ifname}
    with rtnetlink() as socket:
        for version in versions:
            family = _FAMILIES[version]
            with added():
                socket.route("add", **_everything_local(family, table))
            # Unlike routes, IPv4 rules are not refused as duplicates by every kernel.
            if not _rules(socket, family, table):
                with added():
                    socket.rule(
                        "add",
                        family=family,
                        fwmark=mark,
                        fwmask=mask,
                        **interface,
                        table=table,
                        priority=RULE_PRIORITY,
                        protocol=RULE_PROTOCOL,
                    )


def remove_local_delivery(table: int) -> None:
    """Undo `add_local_delivery`, whichever interface it was for."""
    with rtnetlink() as socket:
        for family in _FAMILIES.values():
            for attributes in _rules(socket, family, table):
                named = {key: value for key, value in attributes.items() if value is not None}
                with removed():
                    socket.rule("del", family=family, **named)
            with removed():
                socket.route("del", **_everything_local(family, table))


def local_delivery_tables() -> frozenset[int]:
    """The tables of all rules that fqdnwall made in this namespace."""
    with rtnetlink() as socket:
        return frozenset(
            rule["table"] for family in _FAMILIES.values() for rule in _rules(socket, family, None)
        )


def _everything_local(family: int, table: int) -> dict[str, Any]:
    anything = "0.0.0.0/0" if family == sockets.AF_INET else "::/0"
    loopback_index = 1  # always, in every namespace
    scope = {"scope": _SCOPE_HOST} if family == sockets.AF_INET else {}
    return {
        "family": family,
        "dst": anything,
        "type": "local",
        "oif": loopback_index,
        "table": table,
        **scope,
    }


def _rules(socket: Any, family: int, table: int | None) -> list[dict[str, Any]]:
    found = []
    for message in _dumped_rules(socket, family):
        if message.get_attr("FRA_PROTOCOL") != RULE_PROTOCOL:
            continue
        if table is not None and message.get_attr("FRA_TABLE") != table:
            continue
        found.append(
            {
                "table": int(message.get_attr("FRA_TABLE")),
                "priority": int(message.get_attr("FRA_PRIORITY")),
                "fwmark": message.get_attr("FRA_FWMARK"),
                "fwmask": message.get_attr("FRA_FWMASK"),
                "iifname": message.get_attr("FRA_IIFNAME"),
                "protocol": RULE_PROTOCOL,
            }
        )
    return found


def _dumped_rules(socket: Any, family: int) -> list[Any]:
    return _without_family(lambda: socket.get_rules(family=family))


def _dumped(socket: Any, family: int) -> list[Any]:
    return _without_family(lambda: socket.get_routes(family=family))


def _without_family(dump: Any) -> list[Any]:
    """What the kernel lists; nothing where it has no such address family."""
    try:
        return list(dump())
    except NetlinkError as error:
        if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            return []
        raise


def _route(message: Any, version: int) -> Route:
    anything = "0.0.0.0" if version == 4 else "::"
    destination = f"{message.get_attr('RTA_DST') or anything}/{message['dst_len']}"
    return Route(
        destination=ipaddress.ip_network(destination, strict=False),
        ifindex=message.get_attr("RTA_OIF"),
        table=int(message.get_attr("RTA_TABLE") or message["table"]),
        local=message["type"] == _RTN_LOCAL,
        from_ra=message["proto"] == _RTPROT_RA,
    )
