"""Conversations with the engine: what it forwards, refuses, holds, releases and never says."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from dnsproxy.config import EngineConfig, RefusalCode
from dnsproxy.events import (
    CloseFlow,
    ConnectionClosed,
    FlowFailed,
    Install,
    Installed,
    InstallFailed,
    NoReply,
    Response,
    Tick,
)
from dnsproxy.model import Answered, Failed, Failure, Judged, Learned
from tests.dnsproxy.conversation import (
    CLIENT,
    ENDPOINT,
    RULE,
    SERVER,
    Talk,
    ask,
    forwarded,
    opened,
    reply,
    with_id,
)
from tests.dnsproxy.messages import (
    AA,
    AAAA,
    AD,
    AXFR,
    CD,
    CH,
    FORMERR,
    HTTPS,
    NOTIMP,
    NXDOMAIN,
    QR,
    RA,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    address,
    cname,
    message,
    opt,
    pointer,
    query,
    question,
    response,
    service,
)

QNAME = "www.example.com"
QUERY = query(QNAME)
OWNER = pointer(12)
ID = 0x1001  # the first that `Talk` draws
ANSWER = response(QNAME, address(OWNER, "192.0.2.1", 30), message_id=ID)
RELEASED = with_id(ANSWER, 0x0C11)
NOTHING_THERE = response(QNAME, message_id=ID)


def learned(**changes: object) -> Learned:
    values: dict[str, object] = {
        "endpoint": ENDPOINT,
        "qname": QNAME,
        "qtype": 1,
        "addresses": ((ip_address("192.0.2.1"), 30),),
        "cname_chain": (),
        "server": SERVER,
        "latency_seconds": 0.0,
    }
    return Learned(**(values | changes))  # type: ignore[arg-type]


def in_flight(talk: Talk, payload: bytes = QUERY) -> Talk:
    """One query forwarded on flow 1 with id `ID`."""
    return talk >> ask(payload) << opened(1) << forwarded(1, payload, ID)


def rcode(payload: bytes) -> int:
    return payload[3] & 0x0F


def extended_error(payload: bytes, end: int) -> int | None:
    """The INFO-CODE in the OPT record right after the question; None if there is none."""
    if payload[10:12] == b"\x00\x00":
        assert len(payload) == end
        return None
    owner, rtype, _, _, length = struct.unpack_from("!BHHIH", payload, end)
    assert (owner, rtype, len(payload)) == (0, 41, end + 11 + length)
    code, _, info = struct.unpack_from("!HHH", payload, end + 11)
    assert code == 15
    return int(info)


# ---- the way through ----


def test_reply_is_held_until_addresses_are_installed() -> None:
    talk = in_flight(Talk())
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk.later(0.05) >> Installed(1) << reply(RELEASED)
    talk.end()
    assert talk.metrics.in_flight == talk.metrics.pending_bytes == 0


@pytest.mark.parametrize(
    "answer",
    [
        NOTHING_THERE,
        response(QNAME, message_id=ID, flags=QR | RD | RA | NXDOMAIN),
        response(QNAME, message_id=ID, flags=QR | RD | RA | REFUSED),
        response(QNAME, address(OWNER, "192.0.2.1"), message_id=ID, flags=QR | SERVFAIL),
        response(QNAME, cname(OWNER, "nowhere.test"), message_id=ID),
    ],
)
def test_answer_without_usable_addresses_is_released_untouched(answer: bytes) -> None:
    talk = in_flight(Talk())
    talk >> Response(1, answer) << reply(with_id(answer, 0x0C11))
    talk.end()


def test_truncated_answer_is_released_untouched() -> None:
    answer = response(QNAME, message_id=ID, flags=QR | TC | RD)
    talk = in_flight(Talk())
    talk >> Response(1, answer) << reply(with_id(answer, 0x0C11))
    talk.end()


@pytest.mark.parametrize("echoed", ["www.example.com", "WWW.EXAMPLE.COM", "wWw.exaMPLe.cOm"])
def test_client_gets_its_own_letter_case_back(echoed: str) -> None:
    asked = query("wWw.exaMPLe.cOm")
    answer = response(echoed, address(OWNER, "192.0.2.1", 30), message_id=ID)
    talk = in_flight(Talk(), asked)
    talk >> Response(1, answer) << Install(1, learned())
    talk >> Installed(1)
    got = talk.reply()
    end = 12 + len(question(QNAME))
    assert got[12:end] == asked[12:end]
    assert got[end:] == answer[end:]


def test_addresses_are_filed_under_the_asked_name_with_the_chain_beside() -> None:
    answer = response(
        QNAME,
        cname(OWNER, "a.cdn.test", 20),
        address("a.cdn.test", "192.0.2.1", 60),
        message_id=ID,
    )
    talk = in_flight(Talk()).later(0.5)
    (
        talk
        >> Response(1, answer)
        << Install(
            1,
            learned(
                addresses=((ip_address("192.0.2.1"), 20),),
                cname_chain=("a.cdn.test",),
                latency_seconds=0.5,
            ),
        )
    )


def test_minimum_ttl_raises_and_never_lowers() -> None:
    answer = response(
        QNAME, address(OWNER, "192.0.2.1", 0), address(OWNER, "192.0.2.2", 90), message_id=ID
    )
    talk = in_flight(Talk(EngineConfig(min_ttl_seconds=60)))
    talk >> Response(1, answer)
    (install,) = talk.take()
    assert isinstance(install, Install)
    assert [ttl for _, ttl in install.learned.addresses] == [60, 90]


def test_maximum_ttl_lowers_and_never_raises() -> None:
    """A zone may say 68 years; what it opens is looked up again after a day."""
    answer = response(
        QNAME,
        address(OWNER, "192.0.2.1", 0x7FFFFFFF),
        address(OWNER, "192.0.2.2", 90),
        message_id=ID,
    )
    talk = in_flight(Talk())
    talk >> Response(1, answer)
    (install,) = talk.take()
    assert isinstance(install, Install)
    assert [ttl for _, ttl in install.learned.addresses] == [86_400, 90]


def test_hints_are_learned_before_the_answer_leaves() -> None:
    asked = query(QNAME, HTTPS)
    hint = service(OWNER, (4, ip_address("192.0.2.1").packed))
    answer = response(QNAME, hint, qtype=HTTPS, message_id=ID)
    talk = in_flight(Talk(), asked)
    (
        talk
        >> Response(1, answer)
        << Install(1, learned(qtype=HTTPS, addresses=((ip_address("192.0.2.1"), 60),)))
    )


def test_policy_is_asked_about_the_lower_case_name_and_its_type() -> None:
    talk = Talk()
    talk >> ask(query("WWW.Example.COM", AAAA))
    (asked,) = talk.judge.asked
    assert (asked.endpoint, asked.server, asked.qname, asked.qtype) == (
        ENDPOINT,
        SERVER,
        QNAME,
        AAAA,
    )


def test_two_queries_of_one_client_do_not_mix() -> None:
    talk = in_flight(Talk())
    other = query("api.example.com", message_id=0x0C11)
    talk >> ask(other) << forwarded(1, other, ID + 1)
    answer = response("api.example.com", message_id=ID + 1)
    talk >> Response(1, answer) << reply(with_id(answer, 0x0C11))
    talk >> Response(1, NOTHING_THERE) << reply(with_id(NOTHING_THERE, 0x0C11))
    talk.end()


# ---- refusals ----


@pytest.mark.parametrize(
    ("code", "expected"), [(RefusalCode.REFUSED, REFUSED), (RefusalCode.NAME_ERROR, NXDOMAIN)]
)
def test_name_that_policy_does_not_allow_is_refused(code: RefusalCode, expected: int) -> None:
    talk = Talk(EngineConfig(refusal=code))
    asked = query("Evil.Test", flags=RD | CD | AA | TC | AD | RA)
    talk >> ask(asked)
    got = talk.reply()
    assert got[:2] == asked[:2]
    assert int.from_bytes(got[2:4], "big") == QR | RD | RA | CD | expected
    assert got[12:] == asked[12:]
    assert talk.metrics.refused == 1
    assert talk.metrics.in_flight == 0


def test_client_that_speaks_edns_reads_why() -> None:
    asked = message(1, RD, (question("evil.test"),), additionals=(opt(dnssec_ok=True),))
    end = 12 + len(question("evil.test"))
    talk = Talk()
    talk >> ask(asked)
    got = talk.reply()
    assert extended_error(got, end) == 15
    assert got[end + 7] & 0x80  # DO comes back (RFC 3225)
    talk >> ask(query("evil.test"))
    assert extended_error(talk.reply(), end) is None


def test_query_from_nobody_is_refused() -> None:
    talk = Talk()
    talk >> ask(QUERY, endpoint=None)
    assert rcode(talk.reply()) == REFUSED
    assert talk.judge.asked == []
    assert talk.metrics.failures[Failure.UNKNOWN_CLIENT] == 1


@pytest.mark.parametrize("asked", [query(QNAME, qclass=CH), query(QNAME, AXFR)])
def test_other_classes_and_zone_transfers_are_refused(asked: bytes) -> None:
    talk = Talk()
    talk >> ask(asked)
    assert rcode(talk.reply()) == REFUSED


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (message(9, RD, (question(QNAME),) * 2), FORMERR),
        (QUERY + b"\x00", FORMERR),
        (QUERY[:-1], FORMERR),
        (QUERY[:12], FORMERR),
        (query(QNAME, flags=5 << 11), NOTIMP),
    ],
)
def test_unreadable_query_is_answered_by_a_header(payload: bytes, expected: int) -> None:
    talk = Talk()
    talk >> ask(payload)
    got = talk.reply()
    assert got[:2] == payload[:2]
    assert (len(got), rcode(got), got[4:]) == (12, expected, b"\x00" * 8)


@pytest.mark.parametrize("payload", [b"", b"\x00" * 11, ANSWER, query(QNAME, flags=QR)])
def test_nothing_is_said_to_a_response_or_a_fragment_of_a_header(payload: bytes) -> None:
    talk = Talk()
    talk >> ask(payload)
    talk.end()
    talk >> ask(payload, connection=3) << NoReply(3)
    talk.end()


# ---- answers that do not belong ----


@pytest.mark.parametrize(
    ("flow", "payload"),
    [
        (1, with_id(ANSWER, ID + 1)),
        (1, with_id(ANSWER, 0x0C11)),
        (2, ANSWER),
        (1, response("www.example.net", address(OWNER, "192.0.2.66"), message_id=ID)),
        (1, response(QNAME, address(OWNER, "2001:db8::66"), qtype=AAAA, message_id=ID)),
        (1, response(QNAME, address(OWNER, "192.0.2.66"), message_id=ID, flags=RD)),
        (1, response(QNAME, address(OWNER, "192.0.2.66"), message_id=ID, flags=QR | 4 << 11)),
        (1, message(ID, QR, (), (address(QNAME, "192.0.2.66"),))),
        (1, message(ID, QR, (question(QNAME),) * 2, (address(QNAME, "192.0.2.66"),))),
        (1, ANSWER[:11]),
        (1, b""),
    ],
    ids=[
        "wrong id",
        "the client's id",
        "another flow",
        "another name",
        "another type",
        "a query",
        "another opcode",
        "no question",
        "two questions",
        "half a header",
        "empty",
    ],
)
def test_forged_answer_is_nothing_and_the_right_one_still_counts(flow: int, payload: bytes) -> None:
    talk = in_flight(Talk())
    talk >> Response(flow, payload)
    talk.end()
    assert talk.metrics.unmatched_responses == 1
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk >> Installed(1) << reply(RELEASED)
    talk.end()


def test_second_answer_is_not_used() -> None:
    talk = in_flight(Talk())
    talk >> Response(1, ANSWER) << Install(1, learned())
    second = response(QNAME, address(OWNER, "192.0.2.66"), message_id=ID)
    talk >> Response(1, second)
    talk >> Installed(1) << reply(RELEASED)
    talk >> Response(1, second)
    talk.end()
    assert talk.metrics.unmatched_responses == 2


def test_answer_on_a_flow_to_another_server_does_not_match() -> None:
    other = ("10.96.0.11", 53)
    talk = in_flight(Talk())
    talk >> ask(QUERY, server=other) << opened(2, server=other) << forwarded(2, QUERY, ID + 1)
    talk >> Response(2, ANSWER)
    talk.end()
    assert talk.metrics.unmatched_responses == 1


def test_chain_out_of_order_is_released_and_teaches_nothing() -> None:
    answer = response(
        QNAME, address("a.cdn.test", "192.0.2.66"), cname(OWNER, "a.cdn.test"), message_id=ID
    )
    talk = in_flight(Talk())
    talk >> Response(1, answer) << reply(with_id(answer, 0x0C11))
    talk.end()
    assert talk.metrics.out_of_order_answers == 1


def test_malformed_answer_is_servfail() -> None:
    asked = query(QNAME, edns=True)
    talk = in_flight(Talk(), asked)
    talk >> Response(1, ANSWER + b"\x00")
    got = talk.reply()
    assert rcode(got) == SERVFAIL
    assert extended_error(got, 12 + len(question(QNAME))) == 24
    assert talk.metrics.failures[Failure.MALFORMED_ANSWER] == 1


def test_answer_truncated_in_mid_record_sends_the_client_to_tcp() -> None:
    answer = response(QNAME, address(OWNER, "192.0.2.1"), message_id=ID, flags=QR | TC)[:-2]
    talk = in_flight(Talk())
    talk >> Response(1, answer) << reply(message(0x0C11, QR | TC, (question(QNAME),)))
    talk.end()


# ---- failures ----


def test_failed_installation_is_servfail_and_stays_so() -> None:
    talk = in_flight(Talk())
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk >> InstallFailed(1, "map full")
    assert rcode(talk.reply()) == SERVFAIL
    talk >> Installed(1)
    talk >> InstallFailed(1)
    talk.end()
    assert talk.metrics.failures[Failure.INSTALL] == 1


def test_installation_that_never_ends_is_servfail_at_the_deadline() -> None:
    talk = in_flight(Talk(EngineConfig(flow_lifetime_seconds=99)))
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk.later(10) >> Tick()
    assert rcode(talk.reply()) == SERVFAIL


def test_answer_in_the_last_moment_has_its_time_to_be_installed() -> None:
    talk = in_flight(Talk(EngineConfig(install_timeout_seconds=2)))
    talk.later(9.9) >> Response(1, ANSWER)
    talk.take()
    talk.later(0.5) >> Tick()
    assert [type(command) for command in talk.take()] == [CloseFlow]
    talk >> Installed(1) << reply(RELEASED)
    talk.end()


def test_installed_says_nothing_before_an_answer_came() -> None:
    talk = in_flight(Talk())
    talk >> Installed(1)
    talk >> InstallFailed(1)
    talk >> Installed(99)
    talk.end()


def test_failed_flow_is_servfail_for_all_that_wait_on_it() -> None:
    talk = in_flight(Talk())
    talk >> ask(QUERY) << forwarded(1, QUERY, ID + 1)
    talk >> FlowFailed(1, "Connection refused")
    first, second, closed = talk.take()
    assert [rcode(first.payload), rcode(second.payload)] == [SERVFAIL, SERVFAIL]  # type: ignore[union-attr]
    assert closed == CloseFlow(1)
    talk >> FlowFailed(1)
    talk.end()
    talk >> ask(QUERY) << opened(2) << forwarded(2, QUERY, ID + 2)
    talk.end()


def test_flow_that_fails_while_addresses_are_installed_harms_nothing() -> None:
    talk = in_flight(Talk())
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk >> FlowFailed(1) << CloseFlow(1)
    talk >> Installed(1) << reply(RELEASED)
    talk.end()


def test_upstream_silence_is_silence_and_frees_the_slot() -> None:
    talk = in_flight(Talk())
    talk.later(9.9) >> Tick()
    talk.end()
    assert talk.metrics.in_flight == 1
    talk.later(0.1) >> Tick() << CloseFlow(1)
    talk.end()
    assert talk.metrics.in_flight == 0
    assert talk.metrics.failures[Failure.SILENCE] == 1
    talk >> Response(1, ANSWER)
    talk.end()


# ---- answers with more addresses than the bound ----


def many(count: int) -> tuple[bytes, ...]:
    return tuple(address(OWNER, f"192.0.2.{i}") for i in range(count))


def test_too_many_addresses_over_udp_go_out_truncated() -> None:
    talk = in_flight(Talk(EngineConfig(udp_addresses=3)))
    answer = response(QNAME, *many(4), message_id=ID)
    talk >> Response(1, answer) << reply(message(0x0C11, QR | TC | RD | RA, (question(QNAME),)))
    talk.end()
    assert talk.metrics.truncated == 1


def test_as_many_addresses_as_the_bound_are_learned() -> None:
    talk = in_flight(Talk(EngineConfig(udp_addresses=3)))
    talk >> Response(1, response(QNAME, *many(3), message_id=ID))
    (install,) = talk.take()
    assert isinstance(install, Install)
    assert len(install.learned.addresses) == 3


def test_too_many_addresses_over_tcp_are_servfail() -> None:
    talk = Talk(EngineConfig(tcp_addresses=3, udp_addresses=1))
    talk >> ask(QUERY, connection=4) << opened(1, connection=4) << forwarded(1, QUERY, ID)
    talk >> Response(1, response(QNAME, *many(4), message_id=ID))
    assert rcode(talk.reply()) == SERVFAIL
    assert talk.metrics.failures[Failure.TOO_MANY_ADDRESSES] == 1


# ---- TCP ----


def test_connection_has_one_flow_and_ids_of_its_own() -> None:
    talk = Talk()
    talk >> ask(QUERY, connection=4) << opened(1, connection=4) << forwarded(1, QUERY, ID)
    talk >> ask(QUERY, connection=4) << forwarded(1, QUERY, ID + 1)
    talk >> ask(QUERY, connection=5) << opened(2, connection=5) << forwarded(2, QUERY, ID + 2)
    (
        talk
        >> Response(2, with_id(NOTHING_THERE, ID + 2))
        << reply(with_id(NOTHING_THERE, 0x0C11), connection=5)
    )
    talk.end()


def test_closed_connection_takes_its_queries_and_flow_with_it() -> None:
    talk = Talk()
    talk >> ask(QUERY, connection=4) << opened(1, connection=4) << forwarded(1, QUERY, ID)
    talk >> ConnectionClosed(4, SERVER) << CloseFlow(1)
    talk.end()
    assert talk.metrics.in_flight == talk.metrics.flows == 0
    talk >> Response(1, ANSWER)
    talk >> ConnectionClosed(4, SERVER)
    talk.end()


def test_silence_on_a_connection_is_told_to_its_shell() -> None:
    talk = Talk()
    talk >> ask(QUERY, connection=4) << opened(1, connection=4) << forwarded(1, QUERY, ID)
    talk.later(10) >> Tick() << NoReply(4)
    talk.end()


# ---- what a watcher sees ----


def test_observer_sees_query_verdict_answer_and_failure() -> None:
    talk = in_flight(Talk())
    talk >> Response(1, ANSWER) << Install(1, learned())
    talk.later(0.25) >> Installed(1) << reply(RELEASED)
    talk >> ask(query("evil.test"))
    talk.take()
    talk >> ask(b"")
    judged, answered, refused, failed = talk.observer.records
    assert isinstance(judged, Judged)
    assert (judged.client, judged.judgement.rule) == (CLIENT, RULE)
    assert isinstance(answered, Answered)
    assert (answered.rule, answered.rcode, answered.learned) == (RULE, 0, learned())
    assert answered.latency_seconds == 0.25
    assert isinstance(refused, Judged)
    assert not refused.judgement.allowed
    assert isinstance(failed, Failed)
    assert failed.failure is Failure.MALFORMED_QUERY
