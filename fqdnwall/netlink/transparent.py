"""Bringing answers home to sockets that are bound to somebody else's address.

    table inet NAME {
        chain prerouting {
            type filter hook prerouting priority dstnat + 10;
            socket transparent 1 socket wildcard 0 meta mark set MARK
        }
    }

The proxy asks servers from its client's address. The kernel finds such a socket for an answer
before it routes (early demux) and then refuses to forward the packet, so the mark has to be there
by the routing decision: with it, policy routing delivers locally (`routes.add_local_delivery`). The
chain comes after the address translation that gives a masqueraded client its address back.
"""

from __future__ import annotations

import sys

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex

from fqdnwall.netlink.masquerade import remove_table
from fqdnwall.netlink.nftables import compare, nftables
from fqdnwall.netlink.untracked import ProxyMarks, add_untracked

_NFPROTO_INET = 1
_CHAIN = "prerouting"
_PRIORITY = -90
_SOCKET_TRANSPARENT, _SOCKET_WILDCARD = 0, 2
_ACCEPT = 1


def add_proxy_rules(table: str, marks: ProxyMarks, transparent: bool) -> None:
    """What the proxy needs of nftables; a table of that name is replaced.

    What carries the `marks` is not tracked (see `untracked`). With `transparent`, what arrives for
    a connected transparent socket is marked. Raises NetworkError where the kernel lacks nftables'
    expressions for that.
    """
    with nftables(_NFPROTO_INET) as nft:
        remove_table(nft, table)
        nft.table("add", name=table)
        add_untracked(nft, table, marks)
        if not transparent:
            return
        nft.chain(
            "add",
            table=table,
            name=_CHAIN,
            type="filter",
            hook=_CHAIN,
            priority=_PRIORITY,
            policy=_ACCEPT,
        )
        is_transparent = [
            genex("socket", {"dreg": Regs.NFT_REG_1, "key": _SOCKET_TRANSPARENT}),
            compare(Cmp.NFT_CMP_EQ, b"\1"),
        ]
        is_connected = [
            genex("socket", {"dreg": Regs.NFT_REG_1, "key": _SOCKET_WILDCARD}),
            compare(Cmp.NFT_CMP_EQ, b"\0"),
        ]
        value = {"attrs": [("NFTA_DATA_VALUE", marks.to_proxy.to_bytes(4, sys.byteorder))]}
        set_mark = [
            genex("immediate", {"dreg": Regs.NFT_REG_1, "data": value}),
            genex("meta", {"key": Meta.NFT_META_MARK, "sreg": Regs.NFT_REG_1}),
        ]
        expressions = (is_transparent, is_connected, set_mark)
        nft.rule("add", table=table, chain=_CHAIN, expressions=expressions)


def remove_proxy_rules(table: str) -> None:
    """Delete the table; nothing happens where there is none."""
    with nftables(_NFPROTO_INET) as nft:
        remove_table(nft, table)
