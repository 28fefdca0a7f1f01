from __future__ import annotations

import pytest

from fqdnwall.netlink.forwardchains import (
    Chain,
    dropping_chains,
    pass_forward_chains,
    unpass_forward_chains,
)
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

# What iptables-nft makes for a container engine, and a packet filter written by hand.
HOSTS_OWN = """
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; counter jump USER
    }
    chain USER { counter return
    }
    chain INPUT { type filter hook input priority filter; policy drop; }
}
table inet mine {
    chain transit { type filter hook forward priority 5; policy drop; ip daddr 10.0.0.0/8 accept
    }
    chain open { type filter hook forward priority 6; policy accept; }
}
"""


@pytest.fixture(autouse=True)
def firewall(host: Namespace) -> None:
    assert host.run(["nft", HOSTS_OWN]).returncode == 0


def ruleset(host: Namespace) -> str:
    return host.run(["nft", "list", "ruleset"]).stdout


def test_chains_that_drop_by_default_are_found(host: Namespace) -> None:
    assert set(dropping_chains()) == {Chain(2, "filter", "FORWARD"), Chain(1, "mine", "transit")}


def test_our_packets_and_their_replies_pass_first_of_all_and_once(host: Namespace) -> None:
    for _ in range(2):
        pass_forward_chains("fqw7", "fqdnwall-7")
    lines = [line.strip() for line in ruleset(host).splitlines()]
    ours = [
        'iifname "fqw7" accept comment "fqdnwall-7"',
        'oifname "fqw7" ct state established,related accept comment "fqdnwall-7"',
    ]
    for policy in ("priority filter; policy drop;", "priority filter + 5; policy drop;"):
        chain = lines.index(f"type filter hook forward {policy}")
        assert lines[chain + 1 : chain + 3] == ours
    assert sum("fqw7" in line for line in lines) == 4


def test_undoing_leaves_the_hosts_rules_as_they_were(host: Namespace) -> None:
    before = ruleset(host)
    pass_forward_chains("fqw7", "fqdnwall-7")
    pass_forward_chains("fqw8", "fqdnwall-8")
    unpass_forward_chains("fqdnwall-7")
    assert "fqw7" not in ruleset(host)
    assert "fqw8" in ruleset(host)
    for _ in range(2):
        unpass_forward_chains("fqdnwall-8")
    assert ruleset(host) == before
