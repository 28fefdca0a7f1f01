"""Source NAT for one guarded namespace, in an nftables table of its own.

    table inet NAME {
        chain postrouting {
            type nat hook postrouting priority srcnat;
            ip saddr ADDRESS oifname != "IF" masquerade
            ip6 saddr ADDRESS oifname != "IF" masquerade
        }
    }

Nobody else's rules are read or changed; undoing is deleting the table. It is one table for both
families (since Linux 5.2) because the kernel takes tens of milliseconds to take one away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex, masq
from pyroute2.nftables.main import NFTables

from fqdnwall.netlink.errors import NetworkError
from fqdnwall.netlink.rtnetlink import removed

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NFPROTO_INET = 1
_NFPROTO = {4: 2, 6: 10}  # IP version -> NFPROTO
_SOURCE_OFFSET = {4: 12, 6: 8}  # of the source address in the IP header, in octets
_NETWORK_HEADER = 1
_PRIORITY_SRCNAT = 100
_CHAIN = "postrouting"
_IFNAMSIZ = 16


def add_masquerade(table: str, addresses: Iterable[IPAddress], ifname: str) -> None:
    """Masquerade what comes from `addresses` and leaves by another interface than `ifname`.

    A table of that name is replaced. Raises NetworkError where the kernel has no NAT.
    """
    with _nftables() as nft:
        _remove(nft, table)
        nft.table("add", name=table)
        nft.chain(
            "add",
            table=table,
            name=_CHAIN,
            type="nat",
            hook="postrouting",
            priority=_PRIORITY_SRCNAT,
            policy=1,
        )
        for address in addresses:
            expressions = (_source_is(address), _leaves_elsewhere(ifname), masq())
            nft.rule("add", table=table, chain=_CHAIN, expressions=expressions)


def remove_masquerade(table: str) -> None:
    """Delete the table; nothing happens where there is none."""
    with _nftables() as nft:
        _remove(nft, table)


def masquerade_tables(prefix: str) -> frozenset[str]:
    """The names of all tables of this namespace that begin with `prefix`."""
    with _nftables() as nft:
        return frozenset(name for name in _tables(nft) if name.startswith(prefix))


def _remove(nft: Any, table: str) -> None:
    # It is looked for first: a transaction that fails is as slow as one that removes.
    if table in _tables(nft):
        with removed():
            nft.table("del", name=table)


def _tables(nft: Any) -> list[str]:
    return [str(message.get_attr("NFTA_TABLE_NAME")) for message in nft.get_tables()]


@contextmanager
def _nftables() -> Iterator[Any]:
    try:
        socket = NFTables(nfgen_family=_NFPROTO_INET)
    except OSError as error:
        raise NetworkError(f"nftables is not available: {error.strerror}") from error
    try:
        yield socket
    except NetlinkError as error:
        raise NetworkError(f"nftables refused a change: {error.args[1]}") from error
    finally:
        socket.close()


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
        _compare(Cmp.NFT_CMP_EQ, bytes([_NFPROTO[address.version]])),
        genex("payload", load),
        _compare(Cmp.NFT_CMP_EQ, address.packed),
    ]


def _leaves_elsewhere(ifname: str) -> list[Any]:
    load = {"dreg": Regs.NFT_REG_1, "key": Meta.NFT_META_OIFNAME}
    return [
        genex("meta", load),
        _compare(Cmp.NFT_CMP_NEQ, ifname.encode().ljust(_IFNAMSIZ, b"\0")),
    ]


def _compare(operation: int, value: bytes) -> Any:
    data = {"attrs": [("NFTA_DATA_VALUE", value)]}
    return genex("cmp", {"sreg": Regs.NFT_REG_1, "op": operation, "data": data})
