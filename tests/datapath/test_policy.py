"""What policy says of a new flow: the kernel's verdict is the reading of a few lines of Python."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fqdnwall.datapath.layouts import (
    DropReason,
    EndpointFlag,
    EventType,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from fqdnwall.datapath.maps import MapFull, Policies
from policies.entries import Entry, lookup
from policies.entries import Verdict as Meaning
from policies.identity import Direction, Identity
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    EGRESS,
    ENDPOINT,
    INGRESS,
    OTHER4,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

ALLOW, DENY, REDIRECT = Verdict.ALLOW, Verdict.DENY, Verdict.REDIRECT
PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])


def out(client: str, server: str, port: int = 443) -> bytes:
    return p.frame(client, server, p.tcp(client, server, 40000, port))


def into(client: str, server: str, port: int = 8080) -> bytes:
    return p.frame(server, client, p.tcp(server, client, 40000, port))


def l4s(client: str, server: str) -> list[p.L4]:
    return [
        p.tcp(client, server, 40000, 443),
        p.udp(client, server, 40000, 443),
        p.sctp(40000, 443),
        p.echo(client, server, 7),
        (47, b"\0\0\x08\0"),
    ]


@both_families
@pytest.mark.parametrize("number", range(5), ids=["tcp", "udp", "sctp", "icmp", "gre"])
def test_nothing_passes_that_no_rule_allows(
    bench: Bench, client: str, server: str, number: int
) -> None:
    sent = bench.send(p.frame(client, server, l4s(client, server)[number]))
    received = bench.receive(p.frame(server, client, l4s(server, client)[number]))
    assert (sent.reason, received.reason) == (DropReason.POLICY_DENIED,) * 2
    assert bench.flows() == []


@both_families
@pytest.mark.parametrize("number", range(5), ids=["tcp", "udp", "sctp", "icmp", "gre"])
def test_an_allowed_direction_opens_itself_and_its_answers_only(
    bench: Bench, client: str, server: str, number: int
) -> None:
    bench.policy(entry(0))
    assert bench.send(p.frame(client, server, l4s(client, server)[number])).passed
    other = OTHER4 if "." in client else "2001:db8::99"
    stranger = bench.receive(p.frame(other, client, l4s(other, client)[number]))
    assert stranger.reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize(
    ("flags", "sends", "receives"),
    [
        (EndpointFlag(0), True, True),
        (EndpointFlag.ENFORCE_EGRESS, False, True),
        (EndpointFlag.ENFORCE_INGRESS, True, False),
        (EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS, False, False),
    ],
)
def test_default_deny_holds_for_each_direction_alone(
    bench: Bench, flags: EndpointFlag, sends: bool, receives: bool
) -> None:
    bench.enforce(flags)
    assert bench.send(out(CLIENT4, SERVER4)).passed is sends
    assert bench.receive(into(CLIENT4, OTHER4)).passed is receives


def test_a_denial_holds_where_nothing_is_enforced(bench: Bench) -> None:
    bench.enforce(EndpointFlag(0))
    bench.policy(entry(9, DENY))
    assert bench.send(out(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENY
    assert bench.send(out(CLIENT6, SERVER6)).passed


@pytest.mark.parametrize("direction", [EGRESS, INGRESS])
def test_an_endpoint_without_a_policy_is_closed_where_it_is_enforced(
    bench: Bench, direction: int
) -> None:
    bench.drop_policies()
    enforced = EndpointFlag.ENFORCE_EGRESS if direction else EndpointFlag.ENFORCE_INGRESS
    bench.enforce(enforced)
    sent = bench.send(out(CLIENT4, SERVER4))
    received = bench.receive(into(CLIENT4, OTHER4))
    closed, open_ = (sent, received) if direction else (received, sent)
    assert closed.reason is DropReason.ENDPOINT_NOT_READY
    assert open_.passed


def test_peers_get_the_identity_of_the_longest_prefix_else_world(bench: Bench) -> None:
    bench.identify("192.0.2.0/24", 300)
    bench.identify("192.0.2.80", 301)
    bench.identify("2001:db8::/32", 302)
    seen = [
        bench.send(out(client, server)).event(EventType.DROP).remote_identity
        for client, server in [
            (CLIENT4, SERVER4),
            (CLIENT4, "192.0.2.81"),
            (CLIENT4, OTHER4),
            (CLIENT6, SERVER6),
            (CLIENT6, "2600::1"),
        ]
    ]
    assert seen == [301, 300, 9, 302, 10]


def test_an_ipv4_prefix_does_not_cover_ipv6(bench: Bench) -> None:
    bench.identify("0.0.0.0/0", 300)
    assert bench.send(out(CLIENT6, SERVER6)).event(EventType.DROP).remote_identity == 10
    assert bench.send(out(CLIENT4, SERVER4)).event(EventType.DROP).remote_identity == 300


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(0), entry(9, DENY)], DropReason.POLICY_DENY),
        ([entry(0, DENY), entry(9)], DropReason.POLICY_DENY),
        ([entry(0, DENY, priority=5), entry(9)], None),
        ([entry(0, REDIRECT, protocol=6, port=443), entry(9)], DropReason.PROXY_LOOKUP_FAILED),
        ([entry(0, DENY), entry(9, REDIRECT, protocol=6)], DropReason.POLICY_DENY),
        ([entry(9, protocol=6, port=443), entry(9, DENY, protocol=6)], None),
        ([entry(9, DENY, protocol=6, port=443), entry(9)], DropReason.POLICY_DENY),
        ([entry(9, protocol=17, port=443)], DropReason.POLICY_DENIED),
        ([entry(9, protocol=6, port=444)], DropReason.POLICY_DENIED),
        ([entry(8)], DropReason.POLICY_DENIED),
        ([entry(9, direction=INGRESS)], DropReason.POLICY_DENIED),
    ],
)
def test_precedence_decides_then_the_longer_match(
    bench: Bench, entries: list[tuple[PolicyKey, PolicyValue]], expected: DropReason | None
) -> None:
    bench.policy(*entries)
    assert bench.send(out(CLIENT4, SERVER4)).reason is expected


def test_at_equal_precedence_the_longer_layer_4_match_names_the_rule(bench: Bench) -> None:
    bench.policy(entry(0, protocol=6, port=443, rule=5), entry(9, protocol=6, rule=6))
    assert bench.send(out(CLIENT4, SERVER4)).event(EventType.POLICY_VERDICT).rule == 5


def test_at_equal_match_the_entry_with_an_identity_names_the_rule(bench: Bench) -> None:
    bench.policy(entry(0, protocol=6, rule=5), entry(9, protocol=6, rule=6))
    assert bench.send(out(CLIENT4, SERVER4)).event(EventType.POLICY_VERDICT).rule == 6


def test_a_range_of_ports_is_its_prefixes(bench: Bench) -> None:
    # 1000-1015 = 1000/13 + 1008/13
    bench.policy(
        entry(0, protocol=6, port=1000, port_bits=13),
        entry(0, protocol=6, port=1008, port_bits=13),
    )
    passed = [port for port in range(990, 1030) if bench.send(out(CLIENT4, SERVER4, port)).passed]
    assert passed == list(range(1000, 1016))


@pytest.mark.parametrize("kind", [0, 8, 13])
def test_an_icmp_rule_is_for_its_type(bench: Bench, kind: int) -> None:
    bench.policy(entry(0, protocol=1, port=kind, port_bits=16))
    passed = [
        other
        for other in (0, 5, 8, 13, 17)
        if bench.send(p.frame(CLIENT4, SERVER4, p.icmp(CLIENT4, SERVER4, other))).passed
    ]
    assert passed == [kind]


def test_a_rule_for_icmp_is_none_for_icmpv6(bench: Bench) -> None:
    bench.policy(entry(0, protocol=1))
    assert bench.send(p.frame(CLIENT4, SERVER4, p.echo(CLIENT4, SERVER4, 1))).passed
    assert not bench.send(p.frame(CLIENT6, SERVER6, p.echo(CLIENT6, SERVER6, 1))).passed


def test_a_policy_of_one_endpoint_is_not_anothers(bench: Bench) -> None:
    fd = Policies.build([entry(0)])
    bench.drop_policies()
    bench.maps.policies.set(ENDPOINT + 1, fd)
    os.close(fd)
    assert bench.send(out(CLIENT4, SERVER4)).reason is DropReason.ENDPOINT_NOT_READY


def test_a_swapped_policy_is_in_force_at_once_and_the_old_one_is_gone(bench: Bench) -> None:
    bench.swap(entry(0, protocol=6, port=443))
    assert bench.send(out(CLIENT4, SERVER4)).passed
    bench.swap(entry(0, protocol=6, port=80))
    assert not bench.send(out(CLIENT4, SERVER4)).passed
    assert bench.send(out(CLIENT4, SERVER4, 80)).passed


def test_what_the_kernel_holds_can_be_read_back(bench: Bench) -> None:
    entries = [entry(9, protocol=6, port=443), entry(0, DENY), entry(300, REDIRECT, ruleset=4)]
    bench.swap(*entries)
    assert sorted(bench.maps.policies.entries(ENDPOINT), key=repr) == sorted(entries, key=repr)


def test_a_policy_that_does_not_fit_is_refused_whole() -> None:
    with pytest.raises(MapFull):
        Policies.build([entry(identity) for identity in range(16385)])


IDENTITIES = (9, 300, 301)
PORTS = (53, 80, 443, 1000, 1001, 1015)


@st.composite
def policy_entries(draw: st.DrawFn) -> tuple[PolicyKey, PolicyValue]:
    protocol = draw(st.sampled_from([0, 6, 17]))
    bits = draw(st.sampled_from([0, 8, 12, 15, 16])) if protocol else 0
    port = draw(st.sampled_from(PORTS)) >> (16 - bits) << (16 - bits)
    return entry(
        draw(st.sampled_from([0, *IDENTITIES])),
        draw(st.sampled_from(Verdict)),
        direction=draw(st.sampled_from([INGRESS, EGRESS])),
        protocol=protocol,
        port=port,
        port_bits=bits,
        priority=draw(st.integers(0, 2)),
        rule=draw(st.integers(1, 1000)),
    )


def reading(
    entries: Iterable[tuple[PolicyKey, PolicyValue]], flow: tuple[int, int, int, int]
) -> Verdict | None:
    """Naively: the longest match of each identity, then the strongest of the two."""
    identity, direction, protocol, port = flow
    best: dict[int, tuple[int, int, bool, Verdict]] = {}
    for key, value in entries:
        bits = key.prefix_length - 48
        here = (
            key.direction == direction
            and key.identity in (0, identity)
            and key.protocol in (0, protocol)
            and (bits <= 0 or key.port >> (16 - bits) == port >> (16 - bits))
        )
        known = best.get(key.identity)
        if here and (known is None or value.l4_prefix > known[1]):
            best[key.identity] = (
                value.precedence,
                value.l4_prefix,
                key.identity != 0,
                Verdict(value.verdict),
            )
    return max(best.values())[3] if best else None


OUTCOMES = {
    None: DropReason.POLICY_DENIED,
    ALLOW: None,
    DENY: DropReason.POLICY_DENY,
    REDIRECT: DropReason.PROXY_LOOKUP_FAILED,
}
MEANINGS = {ALLOW: Meaning.ALLOW, DENY: Meaning.DENY, REDIRECT: Meaning.REDIRECT}


def agree(bench: Bench, drawn: list[tuple[PolicyKey, PolicyValue]]) -> None:
    entries = dict(drawn)
    bench.policy(*entries.items())
    for identity in IDENTITIES:
        for direction in (EGRESS, INGRESS):
            for protocol, port in [(6, 80), (17, 53), (6, 1001), (6, 443)]:
                bench.clear("conntrack")
                peer = f"192.0.2.{identity % 256}"
                make = p.tcp if protocol == 6 else p.udp
                ends = (CLIENT4, peer) if direction else (peer, CLIENT4)
                frame = p.frame(*ends, make(*ends, 40000, port))
                found = (bench.send if direction else bench.receive)(frame)
                flow = (identity, direction, protocol, port)
                expected = reading(entries.items(), flow)
                if direction == INGRESS and expected is REDIRECT:
                    continue  # user space never says so: proxies are for egress
                assert found.reason is OUTCOMES[expected], (flow, entries)
                pure = [
                    Entry(
                        Identity(key.identity),
                        Direction(key.direction),
                        key.protocol,
                        key.port,
                        max(0, key.prefix_length - 48),
                        MEANINGS[Verdict(value.verdict)],
                        value.precedence,
                    )
                    for key, value in entries.items()
                ]
                said = lookup(pure, [Identity(identity)], Direction(direction), protocol, port)
                assert said.verdict is MEANINGS[DENY if expected is None else expected]


def _agreement(bench: Bench, examples: int) -> None:
    for identity in IDENTITIES:
        bench.identify(f"192.0.2.{identity % 256}", identity)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(policy_entries(), max_size=14))
    def same(drawn: list[tuple[PolicyKey, PolicyValue]]) -> None:
        agree(bench, drawn)

    same()


def test_the_kernels_verdict_is_the_naive_reading_and_the_policies_package_agrees(
    bench: Bench,
) -> None:
    _agreement(bench, 60)


@pytest.mark.slow
def test_the_kernels_verdict_is_the_naive_reading_of_many_more_policies(bench: Bench) -> None:
    _agreement(bench, 3000)
