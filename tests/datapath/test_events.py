"""What is told of packets: each drop with its reason and rule, in a budget, and counted in full."""

from __future__ import annotations

import pytest

from fqdnwall.datapath.layouts import (
    CtFlag,
    CtState,
    DropReason,
    EndpointFlag,
    EventType,
    RuleKey,
    Verdict,
    address_bytes,
)
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    EGRESS,
    ENDPOINT,
    ENFORCE,
    IFINDEX,
    INGRESS,
    SERVER4,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel


def syn(port: int = 443) -> bytes:
    return p.frame(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 40000, port))


def test_a_drop_says_who_what_and_by_which_rule(bench: Bench) -> None:
    bench.identify("192.0.2.0/24", 300)
    bench.policy(entry(300, Verdict.DENY, rule=77))
    event = bench.send(syn()).event(EventType.DROP)
    assert event.local == address_bytes(CLIENT4)
    assert event.remote == address_bytes(SERVER4)
    assert (event.local_port, event.remote_port) == (40000, 443)
    assert (event.endpoint, event.ifindex) == (ENDPOINT, IFINDEX)
    assert (event.local_identity, event.remote_identity) == (1234, 300)
    assert (event.reason, event.rule, event.direction) == (DropReason.POLICY_DENY, 77, EGRESS)
    assert (event.protocol, event.tcp_flags, event.from_endpoint) == (6, 2, 1)
    assert (event.length, event.audited) == (54, 0)


def test_local_and_remote_are_the_same_whichever_way_a_packet_goes(bench: Bench) -> None:
    frame = p.frame(SERVER4, CLIENT4, p.tcp(SERVER4, CLIENT4, 40000, 22))
    event = bench.receive(frame).event(EventType.DROP)
    assert event.local == address_bytes(CLIENT4)
    assert (event.local_port, event.remote_port) == (22, 40000)
    assert (event.direction, event.from_endpoint) == (INGRESS, 0)


def test_an_icmp_drop_says_its_type_and_code(bench: Bench) -> None:
    message = p.icmp(CLIENT4, SERVER4, 13, 5)
    event = bench.send(p.frame(CLIENT4, SERVER4, message)).event(EventType.DROP)
    assert (event.icmp_type, event.icmp_code, event.protocol) == (13, 5, 1)


def test_a_new_flow_is_told_once(bench: Bench) -> None:
    bench.policy(entry(0, rule=5))
    event = bench.send(syn()).event(EventType.POLICY_VERDICT)
    assert (event.reason, event.rule) == (Verdict.ALLOW, 5)
    assert bench.send(syn()).events == ()


def test_a_running_flow_is_told_every_so_many_seconds(bench: Bench) -> None:
    bench.policy(entry(0, rule=5))
    bench.send(syn())
    bench.age(last_event=bench.flow()[1].last_event - 1001)
    event = bench.send(syn()).event(EventType.TRACE)
    assert (event.reason, event.rule) == (CtState.ESTABLISHED, 5)
    bench.age(last_event=bench.flow()[1].last_event - 1001)
    back = p.frame(SERVER4, CLIENT4, p.tcp(SERVER4, CLIENT4, 443, 40000, "A"))
    assert bench.receive(back).event(EventType.TRACE).reason == CtState.REPLY
    assert bench.receive(back).events == ()


def test_an_endpoint_has_a_budget_of_events_and_what_is_above_is_counted(bench: Bench) -> None:
    bench.configure(events_per_second=5)
    sent = [bench.send(syn(port)).events for port in range(1, 101)]
    told = sum(len(events) for events in sent)
    assert 5 <= told <= 10, "the second may turn once meanwhile"
    assert bench.maps.events_suppressed() == 100 - told


def test_one_endpoints_flood_does_not_spend_anothers_budget(bench: Bench) -> None:
    bench.configure(events_per_second=1)
    for port in range(1, 20):
        bench.send(syn(port))
    bench.maps.endpoints.put(IFINDEX, bench.info(ENDPOINT + 1))
    bench.own(CLIENT4, ENDPOINT + 1)
    assert bench.send(syn()).event(EventType.DROP).endpoint == ENDPOINT + 1


def test_a_full_ring_loses_events_and_no_verdicts(bench: Bench) -> None:
    frame = syn()
    before = bench.maps.events_lost()
    verdicts = {bench.verdict("from_endpoint", frame) for _ in range(13_000)}
    assert verdicts == {"drop"}
    lost = bench.maps.events_lost() - before
    assert lost > 0
    assert len(bench.events()) + lost == 13_000


def test_every_packet_is_counted_by_reason_and_direction(bench: Bench) -> None:
    before = bench.maps.packet_counters()
    bench.policy(entry(0, protocol=6))
    for _ in range(3):
        bench.send(syn())
    bench.receive(p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 1, 2)))
    after = bench.maps.packet_counters()

    def grown(reason: int, from_endpoint: bool) -> tuple[int, int]:
        then, now = before.get((reason, from_endpoint)), after[reason, from_endpoint]
        return (
            now.packets - (then.packets if then else 0),
            now.bytes - (then.bytes if then else 0),
        )

    assert grown(0, True) == (3, 3 * 54)
    assert grown(DropReason.POLICY_DENIED, False) == (1, 43)


def test_rules_are_counted_when_they_decide_on_a_flow(bench: Bench) -> None:
    bench.policy(entry(0, protocol=6, rule=5), entry(0, Verdict.DENY, protocol=17, rule=6))
    for _ in range(3):
        bench.send(syn())
    for _ in range(2):
        bench.send(p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 1, 2)))
    counted = {key: value.packets for key, value in bench.maps.rule_counters().items()}
    assert counted == {RuleKey(ENDPOINT, 5): 1, RuleKey(ENDPOINT, 6): 2}


def test_audit_lets_pass_and_says_what_would_have_been_dropped(bench: Bench) -> None:
    bench.enforce(ENFORCE | EndpointFlag.AUDIT)
    bench.policy(entry(9, Verdict.DENY, rule=8))
    sent = bench.send(syn())
    assert sent.passed
    event = sent.event(EventType.DROP)
    assert (event.audited, event.reason, event.rule) == (1, DropReason.POLICY_DENY, 8)
    assert CtFlag.AUDITED in bench.flow_flags()
    assert bench.send(syn()).events == (), "once a flow"
    back = p.frame(SERVER4, CLIENT4, p.tcp(SERVER4, CLIENT4, 443, 40000, "SA"))
    assert bench.receive(back).passed


def test_what_audit_let_pass_is_cut_when_audit_ends(bench: Bench) -> None:
    bench.enforce(ENFORCE | EndpointFlag.AUDIT)
    assert bench.send(syn()).passed
    bench.flags = ENFORCE
    bench.policy()
    assert bench.send(syn()).reason is DropReason.POLICY_DENIED


def test_what_audit_let_pass_is_no_audit_case_once_it_is_allowed(bench: Bench) -> None:
    bench.enforce(ENFORCE | EndpointFlag.AUDIT)
    assert bench.send(syn()).passed
    bench.policy(entry(0))
    assert bench.send(syn()).events == ()
    assert CtFlag.AUDITED not in bench.flow_flags()


def test_a_running_flow_that_audit_alone_keeps_is_reported(bench: Bench) -> None:
    bench.policy(entry(0))
    assert bench.send(syn()).passed
    bench.flags = ENFORCE | EndpointFlag.AUDIT
    bench.policy()
    sent = bench.send(syn())
    assert sent.passed
    assert sent.event(EventType.DROP).audited == 1
    assert CtFlag.AUDITED in bench.flow_flags()


def test_audit_does_not_let_pass_what_is_no_matter_of_policy(bench: Bench) -> None:
    bench.enforce(ENFORCE | EndpointFlag.AUDIT)
    broken = p.framed(p.ipv4(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 1, 2), options=b"\x83\3\4"))
    assert bench.send(broken).reason is DropReason.INVALID_PACKET
