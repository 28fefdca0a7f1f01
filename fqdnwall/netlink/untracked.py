"""Keeping the proxy's packets out of connection tracking, in a table that is there already.

    chain raw-prerouting {
        type filter hook prerouting priority raw;
        meta mark & MASK == TO_PROXY notrack
    }
    chain raw-output {
        type filter hook output priority raw;
        meta mark & MASK == FROM_PROXY notrack
    }

A client may ask one server from one socket, some names through the proxy and others past it. Had
connection tracking seen the proxy's packets, which are not masqueraded, it would hold a flow of
that socket without masquerade, and the other queries would leave with the client's private address.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex

from fqdnwall.netlink.nftables import compare

_PRIORITY_RAW = -300
_ACCEPT = 1


@dataclass(frozen=True, slots=True)
class ProxyMarks:
    """Marks, under `mask`, of packets on their way to the proxy and of the proxy's replies."""

    to_proxy: int
    from_proxy: int
    mask: int


def add_untracked(nft: Any, table: str, marks: ProxyMarks) -> None:
    """Add both chains to a table that the socket has made."""
    for hook, mark in (("prerouting", marks.to_proxy), ("output", marks.from_proxy)):
        chain = f"raw-{hook}"
        nft.chain(
            "add",
            table=table,
            name=chain,
            type="filter",
            hook=hook,
            priority=_PRIORITY_RAW,
            policy=_ACCEPT,
        )
        nft.rule("add", table=table, chain=chain, expressions=(_has(mark, marks.mask), _NOTRACK))


_NOTRACK = [{"attrs": [("NFTA_EXPR_NAME", "notrack")]}]


def _has(mark: int, mask: int) -> list[Any]:
    masked = {
        "sreg": Regs.NFT_REG_1,
        "dreg": Regs.NFT_REG_1,
        "len": 4,
        "mask": {"attrs": [("NFTA_DATA_VALUE", mask.to_bytes(4, sys.byteorder))]},
        "xor": {"attrs": [("NFTA_DATA_VALUE", bytes(4))]},
    }
    return [
        genex("meta", {"dreg": Regs.NFT_REG_1, "key": Meta.NFT_META_MARK}),
        genex("bitwise", masked),
        compare(Cmp.NFT_CMP_EQ, mark.to_bytes(4, sys.byteorder)),
    ]
