"""What the strict reader accepts, what it makes of it, and what it must not accept."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from dnsproxy.reader import Malformed, question_matches, read_answer, read_query
from tests.dnsproxy.messages import (
    AAAA,
    CH,
    CNAME,
    HTTPS,
    IN,
    NS,
    QR,
    RD,
    SOA,
    SVCB,
    TXT,
    A,
    address,
    cname,
    message,
    name,
    opt,
    pointer,
    query,
    question,
    record,
    response,
    service,
)

LABEL_63 = "a" * 63
# 63+1 three times, 61+1, and the root: 255 octets on the wire
NAME_255 = ".".join([LABEL_63, LABEL_63, LABEL_63, "b" * 61])
NAME_256 = ".".join([LABEL_63, LABEL_63, LABEL_63, "b" * 62])
QNAME = "www.example.com"
END = 12 + len(question(QNAME))


def addresses(payload: bytes, end: int = END) -> dict[str, int]:
    return {str(address): ttl for address, ttl in read_answer(payload, end).addresses}


# ---- queries ----


@pytest.mark.parametrize(
    ("qname", "text"),
    [
        ("www.example.com", "www.example.com"),
        ("WwW.eXample.COM", "www.example.com"),
        ("", "."),
        ("_dmarc.x-y.example", "_dmarc.x-y.example"),
        (LABEL_63 + ".com", LABEL_63 + ".com"),
        (NAME_255, NAME_255),
        (b"sp ace.com", "sp\\032ace.com"),
        (b"\xff\x00.com", "\\255\\000.com"),
        (b"star*.com", "star\\042.com"),
        (b"back\\slash.com", "back\\092slash.com"),
    ],
)
def test_name_of_a_query_is_lower_case_text(qname: str | bytes, text: str) -> None:
    payload = query(qname)
    head = read_query(payload)
    assert head.qname == text
    assert head.end == len(payload)


def test_dot_inside_a_label_is_no_boundary() -> None:
    """Else `evil.example.com`, one label under .com, would pass for a name under example.com."""
    wire = b"\x0cevil.example\x03com\x00"
    payload = message(1, RD, (wire + struct.pack("!HH", A, IN),))
    assert read_query(payload).qname == "evil\\046example.com"


@pytest.mark.parametrize("edns", [True, False])
def test_query_tells_whether_the_client_speaks_edns(edns: bool) -> None:
    head = read_query(query(QNAME, edns=edns))
    assert head.edns is edns
    assert head.dnssec_ok is False


def test_query_tells_the_dnssec_ok_bit() -> None:
    payload = message(1, RD, (question(QNAME),), additionals=(opt(dnssec_ok=True),))
    assert read_query(payload).dnssec_ok is True


def test_query_may_carry_edns_options_and_other_additional_records() -> None:
    signature = record("key.example", 250, b"\x00" * 16, rclass=255)
    payload = message(
        1, RD, (question(QNAME),), additionals=(opt(b"\x00\x0c\x00\x02ab"), signature)
    )
    assert read_query(payload).edns is True


BAD_QUERIES = {
    "empty": b"",
    "half a header": query(QNAME)[:11],
    "header alone with a count": message(1, RD, counts=(1, 0, 0, 0)),
    "a response": query(QNAME, flags=QR | RD),
    "opcode NOTIFY": query(QNAME, flags=4 << 11),
    "no question": message(1, RD),
    "two questions": message(1, RD, (question(QNAME), question("evil.test"))),
    "two questions, one counted": message(
        1, RD, (question(QNAME), question("evil.test")), counts=(1, 0, 0, 0)
    ),
    "one question, two counted": message(1, RD, (question(QNAME),), counts=(2, 0, 0, 0)),
    "an answer in the query": message(1, RD, (question(QNAME),), (address(QNAME, "192.0.2.1"),)),
    "an authority in the query": message(
        1, RD, (question(QNAME),), (), (record(QNAME, NS, name("x")),)
    ),
    "an answer counted that is not there": message(1, RD, (question(QNAME),), counts=(1, 1, 0, 0)),
    "an additional counted that is not there": message(
        1, RD, (question(QNAME),), counts=(1, 0, 0, 1)
    ),
    "an OPT that is not counted": message(
        1, RD, (question(QNAME),), additionals=(opt(),), counts=(1, 0, 0, 0)
    ),
    "trailing octet": message(1, RD, (question(QNAME),), trailing=b"\x00"),
    "two OPT": message(1, RD, (question(QNAME),), additionals=(opt(), opt())),
    "OPT with a name": message(1, RD, (question(QNAME),), additionals=(b"\x01x" + opt(),)),
    "OPT longer than the message": message(
        1, RD, (question(QNAME),), additionals=(record(b"\x00", 41, b"", lie=1),)
    ),
    "label of 64 octets": message(1, RD, (b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01",)),
    "label type 10": message(1, RD, (b"\x80" + b"a" * 128 + b"\x00\x00\x01\x00\x01",)),
    "name of 256 octets": query(NAME_256),
    "name without an end": message(1, RD, (b"\x03www",), counts=(1, 0, 0, 0)),
    "name that runs over the end": message(1, RD, (b"\x3fwww\x00\x00\x01\x00\x01",)),
    "no type": message(1, RD, (name(QNAME),)),
    "no class": message(1, RD, (name(QNAME) + b"\x00\x01",)),
    "pointer to itself": message(1, RD, (pointer(12) + b"\x00\x01\x00\x01",)),
    "pointer into the header": message(1, RD, (b"\x03www" + pointer(4) + b"\x00\x01\x00\x01",)),
    "pointer forward": message(1, RD, (pointer(18) + b"\x00\x01\x00\x01" + name("evil.test"),)),
    "pointer backward in the question": message(
        1, RD, (b"\x03www" + pointer(12) + b"\x00\x01\x00\x01",)
    ),
}


@pytest.mark.parametrize("payload", BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
def test_query_with_a_second_reading_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        read_query(payload)


def test_query_cut_anywhere_is_malformed() -> None:
    payload = query(QNAME, edns=True)
    for length in range(len(payload)):
        with pytest.raises(Malformed):
            read_query(payload[:length])


# ---- the question of a response ----


def matches(payload: bytes, asked: bytes = question(QNAME)) -> bool:
    return question_matches(payload, asked)


def test_question_matches_in_any_letter_case() -> None:
    assert matches(response(QNAME))
    assert matches(response("WWW.EXAMPLE.COM"))
    assert matches(response(QNAME), question("wWw.eXaMple.com"))


@pytest.mark.parametrize(
    "payload",
    [
        response("www.example.net"),
        response("ww.example.com"),
        response("www.example.com.uk"),
        response(QNAME, qtype=AAAA),
        message(0, QR, (question(QNAME, A, CH),)),
        message(0, QR),
        message(0, QR, (question(QNAME),) * 2),
        message(0, QR, (question(QNAME),), counts=(0, 0, 0, 0)),
        response(QNAME)[:-1],
        message(0, QR, (b"\x03www\x0bexample.com\x00" + b"\x00\x01\x00\x01",)),
    ],
)
def test_another_question_does_not_match(payload: bytes) -> None:
    assert not matches(payload)


def test_type_and_class_are_not_compared_as_letters() -> None:
    """Type 0x41 (HTTPS) is 'A', type 0x61 is 'a'."""
    assert not matches(response(QNAME, qtype=0x61), question(QNAME, HTTPS))


# ---- answers ----

OWNER = pointer(12)
CHAINED = (
    cname(OWNER, "a.cdn.test", 300),
    cname("a.cdn.test", "b.cdn.test", 20),
    address("b.cdn.test", "192.0.2.1", 60),
    address("b.cdn.test", "192.0.2.2", 10),
)


def test_addresses_have_the_least_ttl_along_the_chain() -> None:
    answer = read_answer(response(QNAME, *CHAINED), END)
    assert dict(answer.addresses) == {ip_address("192.0.2.1"): 20, ip_address("192.0.2.2"): 10}
    assert answer.cname_chain == ("a.cdn.test", "b.cdn.test")
    assert answer.in_order


def test_addresses_of_both_families() -> None:
    payload = response(QNAME, address(OWNER, "192.0.2.1", 5), address(OWNER, "2001:db8::1", 6))
    assert addresses(payload) == {"192.0.2.1": 5, "2001:db8::1": 6}


def test_owner_in_other_letter_case_is_the_same_owner() -> None:
    payload = response(
        QNAME, cname("WWW.example.COM", "CDN.test"), address("cdn.TEST", "192.0.2.1")
    )
    assert addresses(payload) == {"192.0.2.1": 60}


def test_ttl_with_the_top_bit_set_is_zero() -> None:
    assert addresses(response(QNAME, address(OWNER, "192.0.2.1", 1 << 31))) == {"192.0.2.1": 0}


def test_address_given_twice_has_the_lesser_ttl() -> None:
    payload = response(QNAME, address(OWNER, "192.0.2.1", 30), address(OWNER, "192.0.2.1", 10))
    assert addresses(payload) == {"192.0.2.1": 10}


def test_hints_of_service_records() -> None:
    four, six = ip_address("192.0.2.1").packed, ip_address("2001:db8::1").packed
    payload = response(QNAME, service(OWNER, (1, b"\x02h2"), (4, four * 2), (6, six)), qtype=HTTPS)
    assert addresses(payload) == {"192.0.2.1": 60, "2001:db8::1": 60}
    payload = response(QNAME, service(OWNER, (4, four), rtype=SVCB), qtype=SVCB)
    assert addresses(payload) == {"192.0.2.1": 60}


def test_alias_form_of_a_service_record_has_no_hints() -> None:
    four = ip_address("192.0.2.1").packed
    payload = response(QNAME, service(OWNER, (4, four), priority=0), qtype=HTTPS)
    assert addresses(payload) == {}


def test_records_of_other_types_and_classes_teach_nothing() -> None:
    payload = response(
        QNAME,
        record(OWNER, TXT, b"\x04test"),
        record("elsewhere.test", 46, b"\x00" * 18),
        record(OWNER, A, b"\x01\x02\x03\x04", rclass=CH),
    )
    assert read_answer(payload, END).addresses == ()


def test_addresses_outside_the_answer_section_are_never_read() -> None:
    payload = message(
        0,
        QR,
        (question(QNAME),),
        (address(OWNER, "192.0.2.1"),),
        (record(QNAME, NS, name("ns.test")), address(QNAME, "192.0.2.66")),
        (address(QNAME, "192.0.2.77"), address("ns.test", "192.0.2.88"), opt()),
    )
    assert addresses(payload) == {"192.0.2.1": 60}


@pytest.mark.parametrize(
    "records",
    [
        (address("evil.test", "192.0.2.66"),),
        (address(OWNER, "192.0.2.1"), address("evil.test", "192.0.2.66")),
        (CHAINED[2], CHAINED[0], CHAINED[1]),
        (CHAINED[0], CHAINED[2]),
        (CHAINED[1], CHAINED[0], CHAINED[2]),
        (CHAINED[0], address(OWNER, "192.0.2.1")),
        (service("evil.test", (4, b"\xc0\x00\x02\x42")),),
        (cname("evil.test", QNAME), address(OWNER, "192.0.2.1")),
    ],
)
def test_chain_out_of_order_teaches_nothing_at_all(records: tuple[bytes, ...]) -> None:
    answer = read_answer(response(QNAME, *records), END)
    assert answer.addresses == ()
    assert not answer.in_order


def test_compression_in_every_usual_place() -> None:
    target = b"\x03cdn" + pointer(12 + 4)  # cdn.example.com
    payload = response(QNAME, cname(OWNER, target), address(pointer(END + 12), "192.0.2.1"))
    answer = read_answer(payload, END)
    assert answer.cname_chain == ("cdn.example.com",)
    assert [str(address) for address, _ in answer.addresses] == ["192.0.2.1"]


def test_pointer_to_a_pointer_is_followed() -> None:
    first = address(pointer(12), "192.0.2.1")
    payload = response(QNAME, first, address(pointer(END), "192.0.2.2"))
    assert set(addresses(payload)) == {"192.0.2.1", "192.0.2.2"}


def test_pointers_to_pointers_are_followed_so_far_and_no_further() -> None:
    """Else 64 KiB of them, which an upstream may send over TCP, would stop the proxy."""
    chain = [record(pointer(12), 0xFF00, b"")]
    for _ in range(70):
        chain.append(record(pointer(END + 12 * (len(chain) - 1)), 0xFF00, b""))
    for length, fits in ((63, True), (64, True), (65, False)):
        payload = response(QNAME, *chain[:length])
        if fits:
            assert read_answer(payload, END).addresses == ()
        else:
            with pytest.raises(Malformed):
                read_answer(payload, END)


LONG_QNAME = ".".join([LABEL_63, LABEL_63, LABEL_63])
LONG_END = 12 + len(question(LONG_QNAME))


def test_name_of_255_octets_by_compression_is_read_and_256_is_not() -> None:
    # 3 * 64 octets behind the pointer, and the root: 62 are left
    fits = b"\x3d" + b"b" * 61 + pointer(12)
    too_long = b"\x3e" + b"b" * 62 + pointer(12)
    good = response(LONG_QNAME, cname(OWNER, fits), address(pointer(LONG_END + 12), "192.0.2.1"))
    assert addresses(good, LONG_END) == {"192.0.2.1": 60}
    with pytest.raises(Malformed):
        read_answer(response(LONG_QNAME, cname(OWNER, too_long)), LONG_END)


GOOD = address(OWNER, "192.0.2.1")


def after_question(*records: bytes, **changes: object) -> bytes:
    return message(0, QR, (question(QNAME),), records, **changes)  # type: ignore[arg-type]


def at_answer(octets: bytes) -> bytes:
    """One answer whose owner is `octets`, at offset `END`."""
    return after_question(octets + struct.pack("!HHIH", A, IN, 60, 4) + b"\xc0\x00\x02\x01")


BAD_ANSWERS = {
    "more answers counted": after_question(GOOD, counts=(1, 2, 0, 0)),
    "fewer answers counted": after_question(GOOD, GOOD, counts=(1, 1, 0, 0)),
    "65535 answers counted": after_question(GOOD, counts=(1, 65535, 0, 0)),
    "an authority counted that is not there": after_question(GOOD, counts=(1, 1, 1, 0)),
    "an additional counted that is not there": after_question(GOOD, counts=(1, 1, 0, 1)),
    "trailing octets": after_question(GOOD, trailing=b"\x00\x00"),
    "RDLENGTH past the end": after_question(record(OWNER, A, b"\xc0\x00\x02\x01", lie=1)),
    "RDLENGTH far past the end": after_question(record(OWNER, TXT, b"", lie=60000)),
    "RDLENGTH into the next record": after_question(
        record(OWNER, A, b"\xc0\x00\x02\x01", lie=4), GOOD
    ),
    "A of 3 octets": after_question(record(OWNER, A, b"\x01\x02\x03")),
    "A of 16 octets": after_question(record(OWNER, A, b"\x01" * 16)),
    "A of no octets": after_question(record(OWNER, A, b"")),
    "AAAA of 4 octets": after_question(record(OWNER, AAAA, b"\x01" * 4)),
    "AAAA of 32 octets": after_question(record(OWNER, AAAA, b"\x01" * 32)),
    "CNAME that does not fill its RDATA": after_question(
        record(OWNER, CNAME, name("a.test") + b"\x00")
    ),
    "CNAME longer than its RDATA": after_question(
        record(OWNER, CNAME, name("a.test"), lie=-3), GOOD
    ),
    "owner points to itself": at_answer(pointer(END)),
    "owner points into its own labels": at_answer(b"\x01a" + pointer(END)),
    "owner points forward": at_answer(pointer(END + 20)),
    "owner points past the end": at_answer(pointer(0x3FFF)),
    "owner points into the header": at_answer(pointer(0)),
    "two owners that point at each other": after_question(
        record(b"\x01a" + pointer(END + 18), A, b"\xc0\x00\x02\x01"),
        record(b"\x01b" + pointer(END), A, b"\xc0\x00\x02\x01"),
    ),
    "label type 01": at_answer(b"\x40a\x00"),
    "label type 10": at_answer(b"\x80a\x00"),
    "half a pointer at the end": message(
        0, QR, (question(QNAME),), trailing=b"\xc0", counts=(1, 1, 0, 0)
    ),
    "half a record": after_question(GOOD[:-6]),
    "SVCB parameters out of order": after_question(
        service(OWNER, (6, b"\x01" * 16), (4, b"\x01" * 4))
    ),
    "SVCB parameter twice": after_question(service(OWNER, (4, b"\x01" * 4), (4, b"\x02" * 4))),
    "SVCB hint of 5 octets": after_question(service(OWNER, (4, b"\x01" * 5))),
    "SVCB hint of no octets": after_question(service(OWNER, (4, b""))),
    "SVCB hint longer than the record": after_question(
        record(OWNER, HTTPS, b"\x00\x01\x00\x00\x04\x00\x08\x01\x02\x03\x04"), GOOD
    ),
    "SVCB with a compressed target": after_question(
        record(OWNER, HTTPS, b"\x00\x01" + pointer(12))
    ),
    "SVCB cut in the parameter's header": after_question(
        record(OWNER, HTTPS, b"\x00\x01\x00\x00\x04"), GOOD
    ),
    "SVCB without a target": after_question(record(OWNER, HTTPS, b"\x00\x01"), GOOD),
    "authority overruns": message(
        0, QR, (question(QNAME),), (GOOD,), (record(OWNER, SOA, b"", lie=1),)
    ),
    "two OPT": message(0, QR, (question(QNAME),), (GOOD,), (), (opt(), opt())),
}


@pytest.mark.parametrize("payload", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_answer_with_a_second_reading_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        read_answer(payload, END)


def test_answer_cut_anywhere_is_malformed() -> None:
    payload = message(0, QR, (question(QNAME),), CHAINED, additionals=(opt(),))
    for length in range(END, len(payload)):
        with pytest.raises(Malformed):
            read_answer(payload[:length], END)
