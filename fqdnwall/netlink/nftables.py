"""One short-lived nftables socket, and the expressions that our rules are made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Regs
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from fqdnwall.netlink.errors import NetworkError

_IFNAMSIZ = 16
_CT_STATE = 0  # NFT_CT_STATE
_ESTABLISHED_OR_RELATED = (2 | 4).to_bytes(4, sys.byteorder)  # NF_CT_STATE_BIT


@contextmanager
def nftables(nfproto: int) -> Iterator[Any]:
    """A pyroute2 NFTables for one family's tables, in the calling thread's namespace.

    Raises NetworkError for whatever the kernel refuses within the block.
    """
    try:
        socket = NFTables(nfgen_family=nfproto)
    except OSError as error:
        raise NetworkError(f"nftables is not available: {error.strerror}") from error
    try:
        yield socket
    except NetlinkError as error:
        raise NetworkError(f"nftables refused a change: {error.args[1]}") from error
    finally:
        socket.close()


def compare(operation: int, value: bytes) -> Any:
    """Register 1 against a value."""
    data = {"attrs": [("NFTA_DATA_VALUE", value)]}
    return genex("cmp", {"sreg": Regs.NFT_REG_1, "op": operation, "data": data})


def interface_is(key: int, ifname: str, operation: int = Cmp.NFT_CMP_EQ) -> list[Any]:
    """Whether the incoming or outgoing interface (`key`) is, or is not, the one named."""
    load = {"dreg": Regs.NFT_REG_1, "key": key}
    return [genex("meta", load), compare(operation, ifname.encode().ljust(_IFNAMSIZ, b"\0"))]


def belongs_to_a_known_flow(known: bool) -> list[Any]:
    """Whether conntrack has the packet as established or related, or (`known` off) does not."""
    masked = {
        "sreg": Regs.NFT_REG_1,
        "dreg": Regs.NFT_REG_1,
        "len": 4,
        "mask": {"attrs": [("NFTA_DATA_VALUE", _ESTABLISHED_OR_RELATED)]},
        "xor": {"attrs": [("NFTA_DATA_VALUE", bytes(4))]},
    }
    return [
        genex("ct", {"dreg": Regs.NFT_REG_1, "key": _CT_STATE}),
        genex("bitwise", masked),
        compare(Cmp.NFT_CMP_NEQ if known else Cmp.NFT_CMP_EQ, bytes(4)),
    ]
