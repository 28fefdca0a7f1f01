"""Source NAT for one guarded namespace, and no way in to it, in an nftables table of its own.

    table inet NAME {
        chain postrouting {
            type nat hook postrouting priority srcnat;
            ip saddr ADDRESS oifname != "IF" masquerade
            ip6 saddr ADDRESS oifname != "IF" masquerade
        }
        chain forward {
            type filter hook forward priority filter;
            oifname "IF" ct state & (established | related) == 0 drop
        }
    }

Nobody else's rules are read or changed; undoing is deleting the table. It is one table for both
families (since Linux 5.2) because the kernel takes tens of milliseconds to take one away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex, masq, verdict

from fqdnwall.netlink.nftables import belongs_to_a_known_flow, compare, interface_is, nftables
from fqdnwall.netlink.rtnetlink import removed
from fqdnwall.netlink.untracked import ProxyMarks, add_untracked

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NFPROTO_INET = 1
_NFPROTO = {4: 2, 6: 10}  # IP version -> NFPROTO
_SOURCE_OFFSET = {4: 12, 6: 8}  # of the source address in the IP header, in octets
_NETWORK_HEADER = 1
_PRIORITY_SRCNAT = 100
_PRIORITY_FILTER = 0
_POSTROUTING, _FORWARD = "postrouting", "forward"
_NF_DROP, _NF_ACCEPT = 0, 1


def add_masquerade(
    table: str, addresses: Iterable[IPAddress], ifname: str, marks: ProxyMarks | None = None
) -> None:
    """Masquerade what comes from `addresses` and leaves by another interface than `ifname`.

    What is forwarded to `ifname` must belong to a flow that began inside. What carries the `marks`
    is not tracked (see `untracked`). A table of that name is replaced. Raises NetworkError where
    the kernel has no NAT.
    """
    with nftables(_NFPROTO_INET) as nft:
        remove_table(nft, table)
        nft.table("add", name=table)
        if marks is not None:
            add_untracked(nft, table, marks)
        _base_chain(nft, table, _FORWARD, "filter", _PRIORITY_FILTER)
        unasked = belongs_to_a_known_flow(False)
        expressions = (interface_is(Meta.NFT_META_OIFNAME, ifname), unasked, verdict(_NF_DROP))
        nft.rule("add", table=table, chain=_FORWARD, expressions=expressions)
        _base_chain(nft, table, _POSTROUTING, "nat", _PRIORITY_SRCNAT)
        elsewhere = interface_is(Meta.NFT_META_OIFNAME, ifname, Cmp.NFT_CMP_NEQ)
        for address in addresses:
            expressions = (_source_is(address), elsewhere, masq())
            nft.rule("add", table=table, chain=_POSTROUTING, expressions=expressions)


def _base_chain(nft: Any, table: str, name: str, kind: str, priority: int) -> None:
    nft.chain(
        "add",
        table=table,
        name=name,
        type=kind,
        hook=name,
        priority=priority,
        policy=_NF_ACCEPT,
    )


def remove_masquerade(table: str) -> None:
    """Delete the table; nothing happens where there is none."""
    with nftables(_NFPROTO_INET) as nft:
        remove_table(nft, table)


def masquerade_tables(prefix: str) -> frozenset[str]:
    """The names of all tables of this namespace that begin with `prefix`."""
    with nftables(_NFPROTO_INET) as nft:
        return frozenset(name for name in _tables(nft) if name.startswith(prefix))


def remove_table(nft: Any, table: str) -> None:
    """Delete a table, if it is there."""
    # It is looked for first: a transaction that fails is as slow as one that removes.
    if table in _tables(nft):
        with removed():
            nft.table("del", name=table)


def _tables(nft: Any) -> list[str]:
    return [str(message.get_attr("NFTA_TABLE_NAME")) for message in nft.get_tables()]


def _source_is(address: IPAddress) -> list[Any]:
    load = {
        "dreg": Regs.NFT_REG_1,
        "base": _NETWORK_HEADER,
        "offset": _SOURCE_OFFSET[address.version],
        "len": len(address.packed),
    }
    family = {"dreg": Regs.NFT_REG_1, "key": Meta.NFT_META_NFPROTO}
    return [
        genex("meta", family),
        compare(Cmp.NFT_CMP_EQ, bytes([_NFPROTO[address.version]])),
        genex("payload", load),
        compare(Cmp.NFT_CMP_EQ, address.packed),
    ]
