"""The kernel's form: precedence, port prefixes, and that nothing superfluous is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Direction, Identity, Subject, Verdict, lookup, pod_labels, precedence, resolve
from policies.entries import Entry, Resolved
from policies.l4 import L4, ancestors, port_prefixes
from policies.labels import Labels, cidr_labels
from tests.policies.worlds import cnp

IDENTITIES: dict[Identity, Labels] = {
    Identity(256): pod_labels({"app": "db"}, "default"),
    Identity(257): pod_labels({"app": "web"}, "default"),
}


def _resolve(spec: str, identities: dict[Identity, Labels] = IDENTITIES) -> Resolved:
    return resolve(cnp(spec), Subject(pod_labels({}, "default")), identities)


def _shape(resolved: Resolved) -> list[tuple[int, str, str, str]]:
    return [(e.identity, str(e.l4), e.verdict.value, hex(e.precedence)) for e in resolved.entries]


@pytest.mark.parametrize(
    ("priority", "low", "expected"),
    [
        (0, 255, 0xFFFFFFFF),
        (0, 1, 0xFFFFFF01),
        (0, 134, 0xFFFFFF86),
        (1, 255, 0xFFFFFEFF),
        (0xFFFFFF, 1, 1),
    ],
)
def test_precedence_is_the_references_formula(priority: int, low: int, expected: int) -> None:
    assert precedence(priority, low) == expected


def test_redirects_rank_by_their_proxy() -> None:
    resolved = _resolve("""
        egress:
        - toPorts:
          - {ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*"}]}}
          - {ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}
          - {ports: [{port: "443", protocol: TCP}], serverNames: [a.io]}
          - {ports: [{port: "90", protocol: TCP}],
             listener: {name: l, priority: 7, envoyConfig: {name: e}}}
          - {ports: [{port: "91", protocol: TCP}], listener: {name: l, envoyConfig: {name: e}}}
    """)
    low = {e.port: e.precedence & 0xFF for e in resolved.entries}
    assert low == {53: 255 - 121, 80: 255 - 101, 443: 255 - 116, 90: 255 - 7, 91: 255 - 126}


def test_an_allow_that_everybody_has_is_not_repeated_for_one() -> None:
    resolved = _resolve("""
        egress:
        - toPorts: [{ports: [{port: "80", protocol: TCP}]}]
        - toEndpoints: [{matchLabels: {app: db}}]
          toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "81", protocol: TCP}]}]
    """)
    assert _shape(resolved) == [
        (0, "80/TCP", "allow", "0xffffff01"),
        (256, "81/TCP", "allow", "0xffffff01"),
    ]


def test_what_a_denial_covers_is_gone() -> None:
    resolved = _resolve("""
        egress:
        - toEndpoints: [{}]
        - toEndpoints: [{matchLabels: {app: db}}]
          toPorts: [{ports: [{port: "80", protocol: TCP}]}]
        egressDeny: [{toEndpoints: [{matchLabels: {app: db}}]}]
    """)
    assert _shape(resolved) == [
        (256, "any", "deny", "0xffffffff"),
        (257, "any", "allow", "0xffffff01"),
    ]


def test_what_a_denial_covers_is_gone_over_a_permission_for_all_too() -> None:
    resolved = _resolve("""
        egress:
        - toEntities: [all]
        - toEndpoints: [{matchLabels: {app: db}}]
          toPorts: [{ports: [{port: "80", protocol: TCP}]}]
        egressDeny: [{toEndpoints: [{matchLabels: {app: db}}]}]
    """)
    assert _shape(resolved) == [
        (0, "any", "allow", "0xffffff01"),
        (256, "any", "deny", "0xffffffff"),
    ]


def test_a_denial_for_all_empties_the_map_but_for_itself() -> None:
    resolved = _resolve("""
        egress: [{toEntities: [all]}, {toEndpoints: [{}]}, {toCIDR: [10.0.0.0/8]}]
        egressDeny: [{toEntities: [all]}]
    """)
    assert _shape(resolved) == [(0, "any", "deny", "0xffffffff")]


def test_without_default_deny_one_entry_allows_the_rest() -> None:
    resolved = _resolve("enableDefaultDeny: {egress: false}\negressDeny: [{toEndpoints: [{}]}]")
    assert _shape(resolved) == [
        (0, "any", "allow", "0xffffff01"),
        (256, "any", "deny", "0xffffffff"),
        (257, "any", "deny", "0xffffffff"),
    ]
    assert resolved.rule_of(resolved.entries[0]).text == "no rule"


def test_directions_without_rules_are_not_enforced() -> None:
    resolved = _resolve("ingress: [{}]")
    assert resolved.enforcing.ingress
    assert not resolved.enforcing.egress
    assert resolved.entries == ()


def test_a_range_becomes_masked_prefixes() -> None:
    resolved = _resolve("""
        egress: [{toPorts: [{ports: [{port: "8000", endPort: 8010, protocol: TCP}]}]}]
    """)
    assert [str(e.l4) for e in resolved.entries] == ["8000-8007/TCP", "8008-8009/TCP", "8010/TCP"]


def test_prefixes_that_need_identities_are_told_excepts_too() -> None:
    resolved = _resolve(
        "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]},"
        " {toCIDR: ['2001:db8::1', 192.0.2.1]}]"
    )
    texts = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "2001:db8::1/128"]
    assert list(map(str, resolved.cidrs)) == texts
    assert resolved.ip_blocks == ()
    known = {Identity(0x1000000 + n): cidr_labels(p) for n, p in enumerate(resolved.cidrs)}
    again = _resolve("egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]", known)
    assert [e.identity for e in again.entries] == [0x1000000]


def test_selectors_are_in_policy_order_each_once() -> None:
    resolved = _resolve("""
        egress:
        - toFQDNs: [{matchName: b.io}, {matchPattern: "*.a.io"}]
        - toFQDNs: [{matchName: B.io.}, {matchName: a.io}]
    """)
    assert [s.text for s in resolved.fqdn_selectors] == ["b.io", "*.a.io", "a.io"]


def test_equal_dns_rules_share_a_rule_set() -> None:
    resolved = _resolve("""
        egress:
        - toEndpoints: [{}]
          toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchName: a.io}]}}]
    """)
    assert {e.l7_index for e in resolved.entries} == {1}
    assert len(resolved.entries) == 4
    assert len(resolved.dns) == 1


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_port_prefixes_cover_exactly_the_range(a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    prefixes = port_prefixes(first, last)
    assert len(prefixes) <= 30
    covered = 0
    at = first
    for port, bits in prefixes:
        assert port == at
        covered += 1 << (16 - bits)
        at = port + (1 << (16 - bits))
    assert covered == last - first + 1


@given(st.sampled_from([6, 17]), st.integers(0, 65535), st.integers(0, 16), st.integers(0, 65535))
def test_ancestors_are_what_covers(protocol: int, port: int, bits: int, other: int) -> None:
    prefix = L4(protocol, port >> (16 - bits) << (16 - bits), bits)
    for above in ancestors(prefix):
        assert above.covers(prefix)
    assert prefix.has(protocol, other) is prefix.covers(L4(protocol, other, 16))
    assert not prefix.has(protocol ^ 23, other)


def _entry(identity: int, l4: L4, verdict: Verdict, rank: int) -> Entry:
    return Entry(Identity(identity), Direction.EGRESS, *l4, verdict, rank)


def test_lookup_prefers_precedence_then_the_longer_prefix_then_the_exact_identity() -> None:
    anything, port = L4(0, 0, 0), L4(6, 80, 16)

    def found(*entries: Entry) -> Entry | None:
        return lookup(entries, [Identity(7), Identity(9)], Direction.EGRESS, 6, 80).entry

    high = _entry(0, anything, Verdict.DENY, 9)
    assert found(high, _entry(7, port, Verdict.ALLOW, 5)) is high
    longer = _entry(0, port, Verdict.ALLOW, 5)
    assert found(longer, _entry(7, anything, Verdict.ALLOW, 5)) is longer
    exact = _entry(7, port, Verdict.ALLOW, 5)
    assert found(longer, exact) is exact
    assert found(_entry(9, port, Verdict.DENY, 6), exact).verdict is Verdict.DENY  # type: ignore[union-attr]
    assert found(_entry(8, port, Verdict.ALLOW, 9)) is None
    # Within one identity the longest prefix is all that a longest-prefix map gives.
    short = _entry(7, anything, Verdict.DENY, 9)
    assert found(short, exact) is exact
