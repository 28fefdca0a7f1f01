from __future__ import annotations

import ipaddress

import pytest

from fqdnwall.netlink.masquerade import add_masquerade, masquerade_tables, remove_masquerade
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

ADDRESSES = (ipaddress.ip_address("198.19.0.1"), ipaddress.ip_address("fd66::2"))


def ruleset(host: Namespace) -> list[str]:
    return [line.strip() for line in host.run(["nft", "list", "ruleset"]).stdout.splitlines()]


def test_only_the_sandboxs_addresses_are_masqueraded_and_not_back_to_itself(
    host: Namespace,
) -> None:
    add_masquerade("fqdnwall-7", ADDRESSES, "fqw7")
    lines = ruleset(host)
    assert lines.count("type nat hook postrouting priority srcnat; policy accept;") == 1
    assert 'ip saddr 198.19.0.1 oifname != "fqw7" masquerade' in lines
    assert 'ip6 saddr fd66::2 oifname != "fqw7" masquerade' in lines


def test_adding_again_replaces_and_removing_again_does_nothing(host: Namespace) -> None:
    add_masquerade("fqdnwall-7", ADDRESSES, "fqw7")
    once = ruleset(host)
    add_masquerade("fqdnwall-7", ADDRESSES, "fqw7")
    assert ruleset(host) == once
    remove_masquerade("fqdnwall-7")
    remove_masquerade("fqdnwall-7")
    assert ruleset(host) == []


def test_tables_of_others_are_left_alone(host: Namespace) -> None:
    host.run(["nft", "add table ip mine; add chain ip mine c; add rule ip mine c accept"])
    before = ruleset(host)
    add_masquerade("fqdnwall-7", ADDRESSES[:1], "fqw7")
    assert masquerade_tables("fqdnwall-") == {"fqdnwall-7"}
    remove_masquerade("fqdnwall-7")
    assert ruleset(host) == before


def test_nothing_is_forwarded_to_the_sandbox_that_it_did_not_ask_for(host: Namespace) -> None:
    add_masquerade("fqdnwall-7", ADDRESSES, "fqw7")
    chain = ruleset(host).index("type filter hook forward priority filter; policy accept;")
    rule = ruleset(host)[chain + 1]
    assert rule.startswith('oifname "fqw7" ct state ')
    assert rule.endswith("drop")
