from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.sandbox.resolvers import NoResolver, Resolvers, parse, resolvers
from tests.sandbox.facts import planned

DUAL, V4 = planned(), planned(ipv6=False)


def of(text: str, *chosen: str, plan=DUAL) -> Resolvers:
    return resolvers(parse(text), tuple(map(ip_address, chosen)), plan)


def test_reachable_nameservers_and_directives_are_kept_as_written() -> None:
    result = of(
        "# made by hand\n"
        "search corp.example  example.net\n"
        "nameserver 192.0.2.53\n"
        "options edns0 trust-ad ndots:2\n"
        "nameserver 2001:db8::53\n"
        ";nameserver 192.0.2.99\n"
    )
    assert result.resolv_conf.splitlines() == [
        "search corp.example example.net",
        "options edns0 trust-ad ndots:2",
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
    ]
    assert result.stubs == {}


def test_a_stub_on_loopback_gets_an_address_of_the_gateways_side() -> None:
    result = of("nameserver 127.0.0.53\noptions edns0\n")
    stub = DUAL.ipv4.stubs[0].ip
    assert result.stubs == {stub: ip_address("127.0.0.53")}
    assert f"nameserver {stub}\n" in result.resolv_conf
    assert "127.0.0.53" not in result.resolv_conf


def test_each_stub_has_an_address_of_its_own_in_its_own_family() -> None:
    result = of("nameserver 127.0.0.1\nnameserver ::1\nnameserver 127.0.0.2\n")
    assert DUAL.ipv6 is not None
    assert result.stubs == {
        DUAL.ipv4.stubs[0].ip: ip_address("127.0.0.1"),
        DUAL.ipv6.stubs[0].ip: ip_address("::1"),
        DUAL.ipv4.stubs[1].ip: ip_address("127.0.0.2"),
    }


def test_order_is_kept_between_stubs_and_others() -> None:
    result = of("nameserver 192.0.2.1\nnameserver 127.0.0.1\nnameserver 192.0.2.2\n")
    reals = [str(entry.real) for entry in result.entries]
    assert reals == ["192.0.2.1", "127.0.0.1", "192.0.2.2"]


@pytest.mark.parametrize("only_from_host", ["::1", "2001:db8::53", "fe80::1%eth0"])
def test_ipv6_resolvers_are_reached_through_ipv4_stubs_where_there_is_no_ipv6(
    only_from_host: str,
) -> None:
    result = of(f"nameserver {only_from_host}\n", plan=V4)
    assert result.stubs == {V4.ipv4.stubs[0].ip: ip_address(only_from_host)}


def test_a_link_local_resolver_is_asked_by_the_host_with_its_zone() -> None:
    result = of("nameserver fe80::1%eth0\n")
    assert DUAL.ipv6 is not None
    assert result.stubs == {DUAL.ipv6.stubs[0].ip: ip_address("fe80::1%eth0")}


@pytest.mark.parametrize(("written", "meant"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_the_unspecified_address_means_this_host(written: str, meant: str) -> None:
    assert list(of(f"nameserver {written}\n").stubs.values()) == [ip_address(meant)]


def test_chosen_resolvers_replace_the_hosts_but_not_its_directives() -> None:
    result = of("nameserver 192.0.2.1\nsearch example.net\n", "198.51.100.1", "127.0.0.1")
    assert [str(entry.real) for entry in result.entries] == ["198.51.100.1", "127.0.0.1"]
    assert result.resolv_conf.startswith("search example.net\n")


def test_no_more_than_three_nameservers_count() -> None:
    result = of("".join(f"nameserver 127.0.0.{n}\n" for n in range(1, 9)))
    assert len(result.entries) == 3


@pytest.mark.parametrize("text", ["", "nameserver\n", "nameserver what\nsearch x\n", "# none\n"])
def test_no_nameserver_at_all_is_an_error_that_says_what_to_do(text: str) -> None:
    with pytest.raises(NoResolver, match="--resolver"):
        of(text)


def test_chosen_resolvers_serve_where_the_host_has_none() -> None:
    assert of("", "192.0.2.1").resolv_conf == "nameserver 192.0.2.1\n"


@given(st.text(), st.booleans())
def test_any_text_gives_nameservers_that_the_sandbox_can_reach_or_an_error(
    text: str, ipv6: bool
) -> None:
    plan = DUAL if ipv6 else V4
    try:
        result = of(text + "\nnameserver 127.0.0.1", plan=plan)
    except NoResolver:
        return
    for entry in parse(result.resolv_conf).nameservers:
        assert not entry.is_loopback
        assert entry.version == 4 or plan.ipv6 is not None
