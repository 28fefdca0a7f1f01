"""Whose address it is, as a function of all that is known."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from fqdnwall.datapath.layouts import IpcacheKey, address_bytes
from fqdnwall.ipcache.desired import desired, key_of, prefix_of
from policies import Identity
from policies.identity import HOST, WORLD_IPV4


def wanted(
    cidrs: dict[str, int] | None = None,
    hosts: tuple[str, ...] = (),
    endpoints: dict[str, int] | None = None,
    resolvers: dict[str, int] | None = None,
) -> dict[str, int]:
    found = desired(
        {ip_network(text): Identity(number) for text, number in (cidrs or {}).items()},
        {ip_address(text): HOST for text in hosts},
        {ip_address(text): Identity(number) for text, number in (endpoints or {}).items()},
        {ip_address(text): Identity(number) for text, number in (resolvers or {}).items()},
    )
    return {str(prefix_of(key)): value.identity for key, value in found.items()}


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/32", "fd00::1/128"]
)
def test_keys_and_prefixes_are_each_others_reverse(text: str) -> None:
    network: IPv4Network | IPv6Network = ip_network(text)
    if text != "::/0":
        assert prefix_of(key_of(network)) == network
    bits = 96 if network.version == 4 else 0
    assert key_of(network) == IpcacheKey(
        bits + network.prefixlen, address_bytes(network.network_address)
    )


def test_endpoints_come_before_hosts_and_resolvers_before_both() -> None:
    assert wanted({"10.0.0.1/32": 5}, ("10.0.0.1",)) == {"10.0.0.1/32": HOST}
    assert wanted({}, ("10.0.0.1",), {"10.0.0.1": 6}) == {"10.0.0.1/32": 6}
    assert wanted({}, ("10.0.0.1",), {"10.0.0.1": 6}, {"10.0.0.1": 7}) == {"10.0.0.1/32": 7}


def test_a_prefix_of_ipv6_leaves_ipv4_what_it_is() -> None:
    assert wanted({"::/0": 5}) == {"::/0": 5, "0.0.0.0/0": WORLD_IPV4}
    assert wanted({"::/80": 5})["0.0.0.0/0"] == WORLD_IPV4
    assert wanted({"::/0": 5, "0.0.0.0/0": 6}) == {"::/0": 5, "0.0.0.0/0": 6}
    assert wanted({"2000::/3": 5}) == {"2000::/3": 5}


def test_a_prefix_of_mapped_addresses_is_left_out() -> None:
    assert wanted({"::ffff:10.0.0.0/104": 5, "10.0.0.0/8": 6}) == {"10.0.0.0/8": 6}
    assert wanted({"::ffff:0:0/96": 5}) == {}
