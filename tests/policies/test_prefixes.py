"""Values by prefix, and peers found by the prefixes that they are about."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cidrs import contains
from policies.identity import Identity
from policies.labels import Labels, Network, cidr_labels, ip_block_labels
from policies.model import CidrPeer, Peer
from policies.peerindex import PeerIndex
from policies.prefixes import PrefixMap


@st.composite
def prefixes(draw: st.DrawFn) -> Network:
    """Few bits vary, so that prefixes hold each other often."""
    version = draw(st.sampled_from([4, 6]))
    bits = 32 if version == 4 else 128
    length = draw(st.one_of(st.integers(0, 4), st.integers(bits - 4, bits)))
    high, low = draw(st.integers(0, 15)), draw(st.integers(0, 15))
    address = (high << bits - 4 | low) >> (bits - length) << (bits - length)
    return ip_network((address, length)) if version == 4 else _six(address, length)


def _six(address: int, length: int) -> Network:
    return ip_network((address.to_bytes(16, "big"), length))


ACTIONS = st.lists(st.tuples(st.booleans(), prefixes()), max_size=30)


@settings(max_examples=200, deadline=None)
@given(ACTIONS, prefixes())
def test_what_is_inside_and_what_holds_a_prefix_is_what_a_look_at_each_finds(
    actions: list[tuple[bool, Network]], asked: Network
) -> None:
    plain: dict[Network, str] = {}
    found: PrefixMap[str] = PrefixMap()
    for comes, prefix in actions:
        if comes:
            plain[prefix] = str(prefix)
            found.put(prefix, str(prefix))
        elif prefix in plain:
            del plain[prefix]
            found.drop(prefix)
        assert found.get(prefix) == plain.get(prefix)
    assert len(found) == len(plain)
    inside = [value for _, value in found.inside(asked)]
    assert sorted(inside) == sorted(v for p, v in plain.items() if contains(asked, p))
    holding = [p for p in plain if contains(p, asked)]
    holding.sort(key=lambda prefix: -prefix.prefixlen)
    assert list(found.holding(asked)) == [plain[p] for p in holding]


def test_a_prefix_that_is_not_there_cannot_be_dropped() -> None:
    found: PrefixMap[str] = PrefixMap()
    with pytest.raises(KeyError):
        found.drop(ip_network("10.0.0.0/8"))


@st.composite
def cidr_peers(draw: st.DrawFn) -> CidrPeer:
    cidr = draw(prefixes())
    excepts = [p for p in draw(st.lists(prefixes(), max_size=3)) if contains(cidr, p)]
    return CidrPeer(cidr, tuple(excepts), draw(st.booleans()))


@settings(max_examples=200, deadline=None)
@given(st.lists(cidr_peers(), max_size=8), ACTIONS, st.data())
def test_the_index_selects_by_prefix_what_a_look_at_each_identity_finds(
    peers: list[CidrPeer], actions: list[tuple[bool, Network]], data: Any
) -> None:
    index = PeerIndex({})
    present: dict[Identity, Labels] = {}
    for number, (outside, prefix) in enumerate(actions):
        for peer in peers[:number]:
            index.selected(peer)
        identity = Identity(1000 + number)
        if present and data.draw(st.integers(0, 3)) == 0:
            gone = data.draw(st.sampled_from(sorted(present)))
            labels = present.pop(gone)
            expected = {p for p in peers[:number] if index.selects(p, labels)}
            assert set(index.remove(gone)) == expected
        present[identity] = cidr_labels(prefix) if outside else ip_block_labels(prefix)
        expected = {p for p in peers[:number] if index.selects(p, present[identity])}
        assert set(index.add(identity, present[identity])) == expected
        index.keep_only(set(peers[: max(number - 2, 0)]))
    for peer in peers:
        chosen = {i for i, labels in present.items() if index.selects(peer, labels)}
        assert index.selected(peer) == chosen


class _Asking(PeerIndex):
    asked = 0

    def selects(self, peer: Peer, labels: Labels) -> bool:
        self.asked += 1
        return super().selects(peer, labels)


def test_a_new_prefix_is_asked_of_the_peers_that_hold_it_alone() -> None:
    index = _Asking({})
    for number in range(500):
        index.selected(CidrPeer(ip_network((0x0A000000 + number * 256, 24))))
    wide = CidrPeer(ip_network("10.0.0.0/8"))
    index.selected(wide)
    own = CidrPeer(ip_network("10.0.7.0/24"))
    assert set(index.add(Identity(1000), cidr_labels(ip_network("10.0.7.9/32")))) == {own, wide}
    assert index.asked == 2


def test_what_no_policy_uses_any_more_leaves_nothing_behind() -> None:
    index = PeerIndex({})
    for number in range(50):
        index.selected(CidrPeer(ip_network((number << 24, 8))))
    index.keep_only({CidrPeer(ip_network("1.0.0.0/8"))})
    assert index.answers == len(index._about) == 1
