"""A way through the host's own firewall for one interface's forwarded packets.

A host with a container engine or a packet filter drops by default what it forwards, and a packet
passes nftables only when no chain drops it. So at the head of each base chain that does

    iifname "IF" accept comment "TAG"
    oifname "IF" ct state established,related accept comment "TAG"

is inserted: what the host lets its own programs do, and no more. Rules are told by the tag alone,
so those of a killed process are found again. A reload of the host's rules drops ours, and with
them the traffic: closed, not open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE, Meta, nft_rule_msg
from pyroute2.nftables.expressions import verdict

from fqdnwall.netlink.nftables import belongs_to_a_known_flow, interface_is, nftables
from fqdnwall.netlink.rtnetlink import removed

_NFPROTO_ANY = 0
_NFPROTOS = frozenset({1, 2, 10})  # inet, ip, ip6
_HOOK_FORWARD = 2
_NF_DROP, _NF_ACCEPT = 0, 1


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain that drops by default what the host forwards."""

    nfproto: int
    table: str
    name: str


def pass_forward_chains(ifname: str, tag: str) -> None:
    """Let the interface's packets through every chain that drops by default. May be repeated."""
    for chain in dropping_chains():
        with nftables(chain.nfproto) as nft:
            _remove(nft, chain, tag)
            for expressions in (_replies_to(ifname), _from(ifname)):
                nft.rule(
                    "insert",
                    table=chain.table,
                    chain=chain.name,
                    expressions=expressions,
                    userdata=tag,
                )


def unpass_forward_chains(tag: str) -> None:
    """Take the rules with this tag out again, where there are any."""
    for chain in dropping_chains():
        with nftables(chain.nfproto) as nft:
            _remove(nft, chain, tag)


def dropping_chains() -> tuple[Chain, ...]:
    """The base chains of this namespace that drop by default what is forwarded."""
    with nftables(_NFPROTO_ANY) as nft:
        return tuple(_dropping(nft.get_chains()))


def _dropping(messages: Any) -> Iterator[Chain]:
    for message in messages:
        hook = message.get_attr("NFTA_CHAIN_HOOK")
        if (
            hook is not None
            and message["nfgen_family"] in _NFPROTOS
            and hook.get_attr("NFTA_HOOK_HOOKNUM") == _HOOK_FORWARD
            and message.get_attr("NFTA_CHAIN_POLICY") == _NF_DROP
        ):
            yield Chain(
                message["nfgen_family"],
                str(message.get_attr("NFTA_CHAIN_TABLE")),
                str(message.get_attr("NFTA_CHAIN_NAME")),
            )


def _remove(nft: Any, chain: Chain, tag: str) -> None:
    question = nft_rule_msg()
    question["attrs"] = [("NFTA_RULE_TABLE", chain.table), ("NFTA_RULE_CHAIN", chain.name)]
    for rule in nft.request_get(question, NFT_MSG_GETRULE):
        if rule.get_attr("NFTA_RULE_CHAIN") == chain.name and _tagged(rule, tag):
            with removed():
                nft.rule(
                    "del",
                    table=chain.table,
                    chain=chain.name,
                    handle=rule.get_attr("NFTA_RULE_HANDLE"),
                )


def _tagged(rule: Any, tag: str) -> bool:
    try:
        found = rule.get_attr("NFTA_RULE_USERDATA")
    except (UnicodeDecodeError, struct.error):  # of another kind than a comment, so not ours
        return False
    return bool(found == tag)


def _from(ifname: str) -> tuple[Any, ...]:
    return (interface_is(Meta.NFT_META_IIFNAME, ifname), verdict(_NF_ACCEPT))


def _replies_to(ifname: str) -> tuple[Any, ...]:
    return (
        interface_is(Meta.NFT_META_OIFNAME, ifname),
        belongs_to_a_known_flow(True),
        verdict(_NF_ACCEPT),
    )
