"""Replies of our own, as dnslib reads them."""

from __future__ import annotations

import dnslib
import pytest

from dnsproxy.reader import read_query
from dnsproxy.wire import (
    ExtendedError,
    Rcode,
    cut_to_question,
    error_reply,
    format_error,
    truncated_reply,
)
from tests.dnsproxy.messages import (
    CD,
    NOTIMP,
    QR,
    RA,
    RD,
    TC,
    address,
    message,
    opt,
    pointer,
    query,
    question,
    response,
)

QUESTION = question("wWw.Example.com")


def reply_to(payload: bytes, text: str = "not allowed by policy") -> dnslib.DNSRecord:
    head = read_query(payload)
    reply = error_reply(head, payload[12 : head.end], Rcode.REFUSED, ExtendedError.BLOCKED, text)
    return dnslib.DNSRecord.parse(reply)


def test_refusal_with_an_extended_error() -> None:
    seen = reply_to(query("wWw.Example.com", message_id=77, edns=True))
    assert (seen.header.id, seen.header.rcode, seen.header.qr, seen.header.rd) == (77, 5, 1, 1)
    assert str(seen.q.qname) == "wWw.Example.com."
    (record,) = seen.ar
    assert (record.rtype, record.edns_len, record.edns_do) == (41, 1232, 0)
    (option,) = record.rdata
    assert (option.code, option.data) == (15, b"\x00\x0fnot allowed by policy")


def test_refusal_without_edns_has_no_additional_record() -> None:
    assert reply_to(query("www.example.com")).ar == []


def test_dnssec_ok_bit_comes_back() -> None:
    asked = message(1, RD, (QUESTION,), additionals=(opt(dnssec_ok=True),))
    assert reply_to(asked).ar[0].edns_do == 1


@pytest.mark.parametrize("error", ExtendedError)
def test_every_reply_is_exactly_what_the_strict_reader_would_take(error: ExtendedError) -> None:
    asked = message(1, RD | CD, (QUESTION,), additionals=(opt(),))
    head = read_query(asked)
    reply = error_reply(head, QUESTION, Rcode.SERVFAIL, error, error.name)
    as_query = reply[:2] + b"\x01\x00" + reply[4:]
    assert read_query(as_query).edns


def test_truncated_reply_keeps_the_upstream_flags() -> None:
    head = read_query(query("wWw.Example.com", message_id=9))
    reply = truncated_reply(head, QUESTION, QR | RD | RA)
    assert reply == message(9, QR | TC | RD | RA, (QUESTION,))


def test_cut_keeps_header_and_question_only() -> None:
    whole = response("wWw.Example.com", address(pointer(12), "192.0.2.1"), message_id=9)
    assert cut_to_question(whole) == message(9, QR | TC | RD | RA, (QUESTION,))


@pytest.mark.parametrize(
    ("flags", "expected"), [(RD, 1), (5 << 11, NOTIMP), (QR, None), (QR | 5 << 11, None)]
)
def test_format_error_speaks_to_queries_only(flags: int, expected: int | None) -> None:
    reply = format_error(message(3, flags) + b"junk")
    assert (reply and reply[3] & 15) == expected
