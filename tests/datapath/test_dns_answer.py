"""Answers: matched in every field, read strictly, and learned before they are delivered."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from dnslib import DNSRecord

from dnsproxy.reader import Malformed, read_answer, read_query
from dnsproxy.wire import truncated_reply
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DNS_EXCHANGE_SECONDS,
    DnsLearned,
    DnsPath,
    DropReason,
    LearnedKey,
    PlaceKey,
    address_bytes,
)
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    ENDPOINT,
    OTHER4,
    OTHER6,
    SERVER4,
    SERVER6,
    Bench,
    entry,
)
from tests.datapath.dnsbench import DNS_SIZES, PORT, DnsBench, Done, exchange
from tests.datapath.test_dns_query import checksums_hold

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
NAME = "www.example.com"
ONE, TWO, SIX = "203.0.113.1", "203.0.113.2", "2001:db8:1::6"


@pytest.fixture
def asked(dns: DnsBench) -> DnsBench:
    """A query for an allowed name is on its way."""
    dns.rules("**.example.com")
    exchange(dns, NAME)
    return dns


def simple(
    qname: str = NAME, qtype: int = m.A, ident: int = 0x1234, flags: int = m.QR | m.RD | m.RA
) -> m.Message:
    return m.Message(qname, qtype, ident, flags).address(qname, ONE)


def strict(message: bytes) -> dict[object, int]:
    """Address → TTL as the strict reader of the proxy has it; nothing where it refuses."""
    question = message[12:].index(b"\0") + 12 + 5
    try:
        return dict(read_answer(message, question).addresses)
    except Malformed:
        return {}


def learns(dns: DnsBench, message: bytes, path: DnsPath = DnsPath.ANSWERED) -> Done:
    """Delivered as it came, with just the strict reader's addresses learned until the least TTL."""
    done = dns.answer(message)
    assert (done.verdict, done.path) == ("pass", path)
    assert done.message == message
    truth = strict(message)
    learned = dns.learned()
    assert set(learned) == set(truth)
    for slots in learned.values():
        (left,) = slots.values()
        assert 0 <= min(truth.values()) - left < 1
    assert done.event is not None
    assert set(done.event.addresses) == set(truth)
    return done


def is_odd(dns: DnsBench, message: bytes) -> Done:
    """Not understood: sent on with its sections emptied, so that the client asks over TCP."""
    done = dns.answer(message)
    assert (done.verdict, done.path) == ("pass", DnsPath.TRUNCATED)
    reply = DNSRecord.parse(done.message)
    assert reply.header.tc
    assert (reply.rr, reply.auth) == ([], [])
    assert checksums_hold(done.frame)
    assert dns.learned() == {}
    return done


# ---- which answers are answers ----


@both_families
def test_an_answer_is_learned_and_delivered_as_it_came(
    dns: DnsBench, client: str, server: str
) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, client=client, server=server)
    message = simple().address(NAME, SIX, 60).pack()
    frame = p.frame(server, client, p.udp(server, client, 53, PORT, message))
    done = dns.run("to_endpoint", frame)
    assert (done.verdict, done.path, done.frame) == ("pass", DnsPath.ANSWERED, frame)
    identity = dns.identity("**.example.com")
    assert set(dns.slots(ONE)) == set(dns.slots(SIX)) == {identity}
    assert 59 < dns.slots(ONE)[identity] <= 60
    assert dns.exchanges() == []


def test_what_was_learned_opens_the_address_and_no_other(asked: DnsBench) -> None:
    asked.answer(simple().pack())
    identity = asked.identity("**.example.com")
    asked.policy(entry(identity, protocol=6, port=443))

    def opens(address: str) -> bool:
        frame = p.frame(CLIENT4, address, p.tcp(CLIENT4, address, 1, 443))
        return Bench.send(asked, frame).passed

    assert opens(ONE)
    assert not opens(TWO)


def test_an_answer_counts_once(asked: DnsBench) -> None:
    assert asked.answer(simple().pack()).passed
    again = asked.answer(simple().pack())
    assert again.reason is DropReason.POLICY_DENIED or again.reason is DropReason.PROXY_SPOOFED
    assert set(asked.learned()) == {ip_address(ONE)}


WRONG: dict[str, Callable[[DnsBench], Done]] = {
    "another id": lambda dns: dns.answer(simple(ident=0x1235).pack()),
    "another client port": lambda dns: dns.answer(simple().pack(), port=PORT + 1),
    "another server port": lambda dns: dns.answer(simple().pack(), server_port=54),
    "another server": lambda dns: dns.answer(simple().pack(), server=OTHER4),
    "another name": lambda dns: dns.answer(simple("wwx.example.com").pack()),
    "a longer name": lambda dns: dns.answer(simple("a.www.example.com").pack()),
    "a shorter name": lambda dns: dns.answer(simple("example.com").pack()),
    "a name with other dots": lambda dns: dns.answer(simple("www-example.com").pack()),
    "another type": lambda dns: dns.answer(simple(qtype=m.AAAA).pack()),
    "another class": lambda dns: dns.answer(
        m.Message(NAME, question=m.name(NAME) + b"\0\1\0\3").address(NAME, ONE).pack()
    ),
    "a query": lambda dns: dns.answer(simple(flags=m.RD).pack()),
    "another opcode": lambda dns: dns.answer(simple(flags=m.QR | 4 << 11).pack()),
    "no question": lambda dns: dns.answer(
        m.header(flags=m.QR, counts=(0, 1, 0, 0)) + m.address(m.name(NAME), ONE)
    ),
    "two questions": lambda dns: dns.answer(
        m.header(flags=m.QR, counts=(2, 1, 0, 0)) + simple().pack()[12:]
    ),
    "a pointer as question": lambda dns: dns.answer(
        m.header(flags=m.QR, counts=(1, 1, 0, 0)) + b"\xc0\x0c\0\1\0\1" + m.address(m.QUESTION, ONE)
    ),
    "a header alone": lambda dns: dns.answer(m.header(flags=m.QR)),
    "half a header": lambda dns: dns.answer(m.header(flags=m.QR)[:5]),
    "less than an id": lambda dns: dns.answer(b"\x12"),
    "nothing": lambda dns: dns.answer(b""),
    "another family": lambda dns: dns.answer(simple().pack(), client=CLIENT6, server=SERVER6),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_what_is_not_the_answer_is_dropped_and_leaves_the_exchange_open(
    asked: DnsBench, answer: Callable[[DnsBench], Done]
) -> None:
    assert answer(asked).verdict == "drop"
    assert asked.learned() == {}
    assert asked.answer(simple().pack()).path is DnsPath.ANSWERED


def test_the_server_may_write_the_name_in_another_case(asked: DnsBench) -> None:
    message = m.Message("WWW.eXample.com").address("www.example.com", ONE).pack()
    learns(asked, message)


def test_another_endpoints_exchange_is_not_ours(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME)
    ((_, noted),) = dns.exchanges()
    dns.clear("dns_exchanges")
    dns.put_exchange(noted, ENDPOINT + 1)
    assert dns.answer(simple().pack()).reason is DropReason.POLICY_DENIED
    assert dns.learned() == {}


def test_an_answer_that_comes_too_late_is_nobodys(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    for age, path in ((DNS_EXCHANGE_SECONDS - 1, DnsPath.ANSWERED), (31, DnsPath.UNMATCHED)):
        exchange(dns, NAME)
        ((_, noted),) = dns.exchanges()
        dns.clear("dns_exchanges")
        dns.put_exchange(replace(noted, sent=noted.sent - age * 10**9))
        assert dns.answer(simple().pack()).path is path


def test_a_repeated_query_is_answered_once_by_either_answer(asked: DnsBench) -> None:
    exchange(asked, NAME)
    assert len(asked.exchanges()) == 1
    learns(asked, simple().pack())
    assert asked.answer(simple().pack()).verdict == "drop"


def test_two_queries_of_one_socket_do_not_meet(dns: DnsBench) -> None:
    """As glibc asks for both families."""
    dns.rules("**.example.com")
    dns.ask(m.query(NAME, m.A, ident=1))
    dns.ask(m.query(NAME, m.AAAA, ident=2))
    six = m.Message(NAME, m.AAAA, ident=2).address(NAME, SIX)
    assert dns.answer(six.pack()).path is DnsPath.ANSWERED
    assert dns.answer(simple(ident=2).pack()).verdict == "drop"
    assert dns.answer(simple(ident=1).pack()).path is DnsPath.ANSWERED
    assert set(dns.learned()) == {ip_address(ONE), ip_address(SIX)}


def test_an_answer_reaches_the_endpoint_after_the_proxy_had_the_flow(dns: DnsBench) -> None:
    """The client's socket first asked for a name that the proxy judges."""
    dns.rules("**.example.com", "api-*.star.net")
    assert dns.was_asked(dns.ask(m.query("api-1.star.net")), DnsPath.UNDECIDED)
    assert len(dns.flows()) == 1
    exchange(dns, NAME)
    assert dns.answer(simple().pack()).path is DnsPath.ANSWERED
    assert dns.answer(simple().pack()).reason is DropReason.PROXY_SPOOFED


def test_a_name_that_no_selector_matches_is_delivered_and_not_learned(dns: DnsBench) -> None:
    dns.rules("**.example.com", fqdns=("other.org",))
    exchange(dns, NAME)
    done = dns.answer(simple().pack())
    assert (done.verdict, done.path) == ("pass", DnsPath.ANSWERED)
    assert dns.learned() == {}
    assert done.event is not None
    assert done.event.addresses == (ip_address(ONE),)


# ---- how servers write ----


def test_a_chain_as_unbound_bind_and_knot_compress_it(asked: DnsBench) -> None:
    message = (
        m.Message(NAME)
        .cname(NAME, "edge.cdn.example.net", 300)
        .cname("edge.cdn.example.net", "a7.cdn.example.net", 20)
        .address("a7.cdn.example.net", ONE, 60)
        .address("a7.cdn.example.net", TWO, 60)
        .edns()
        .pack()
    )
    done = learns(asked, message)
    assert done.event is not None
    assert done.event.ttl == 20


def test_a_target_that_is_a_suffix_of_the_question(asked: DnsBench) -> None:
    learns(asked, m.Message(NAME).cname(NAME, "example.com").address("example.com", ONE).pack())


def test_a_target_that_is_written_in_full(asked: DnsBench) -> None:
    target = m.name("edge.example.net")
    message = m.Message(NAME).raw(m.record(m.QUESTION, m.CNAME, 9, target))
    owner = struct.pack("!H", 0xC000 | (message.at - len(target)))
    learns(asked, message.raw(m.address(owner, ONE)).pack())


def test_a_chain_of_pure_pointers(asked: DnsBench) -> None:
    """Each target is a pointer alone, and the next owner points to that pointer or to its end."""
    start = 12 + len(m.name(NAME)) + 4
    suffix, parent = 12 + 4, start + 12
    for owner in (0xC000 | suffix, 0xC000 | parent):
        message = m.Message(NAME).raw(
            m.record(m.QUESTION, m.CNAME, 9, struct.pack("!H", 0xC000 | suffix))
        )
        message.raw(m.address(struct.pack("!H", owner), ONE))
        exchange(asked, NAME)
        learns(asked, message.pack())
        asked.clear("answers")


def test_a_target_that_is_the_root(asked: DnsBench) -> None:
    learns(asked, m.Message(NAME).raw(m.record(m.QUESTION, m.CNAME, 9, b"\0")).pack())


def test_the_longest_chain_that_the_kernel_follows(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    for links, odd in ((31, False), (32, True)):
        exchange(dns, NAME)
        message = m.Message(NAME)
        owner = NAME
        for number in range(links):
            message.cname(owner, f"n{number}.example.com", 60 + number)
            owner = f"n{number}.example.com"
        message.address(owner, ONE, 90)
        if odd:
            is_odd(dns, message.pack())
        else:
            assert learns(dns, message.pack()).event.ttl == 60  # type: ignore[union-attr]
        dns.clear("answers")


def test_a_dname_with_its_cname(asked: DnsBench) -> None:
    message = m.Message(NAME).add("example.com", m.DNAME, 60, m.name("example.net"))
    message.cname(NAME, "www.example.net", 60).address("www.example.net", ONE, 60)
    learns(asked, message.pack())


def test_signatures_with_do(asked: DnsBench) -> None:
    signature = (
        struct.pack("!HBBIIIH", m.A, 13, 3, 300, 1, 2, 3) + m.name("example.com") + b"s" * 64
    )
    message = m.Message(NAME).cname(NAME, "edge.example.com", 60)
    message.add(NAME, m.RRSIG, 60, signature).address("edge.example.com", ONE, 60)
    message.add("edge.example.com", m.RRSIG, 60, signature).edns(do=True)
    learns(asked, message.pack())


def test_authority_and_additional_as_servers_fill_them_are_never_learned(asked: DnsBench) -> None:
    message = simple()
    message.names("example.com", m.NS, 60, "ns1.example.com", 1)
    message.names("example.com", m.NS, 60, "ns2.other.net", 1)
    message.address("ns1.example.com", TWO, 60, 2).address("ns2.other.net", SIX, 60, 2)
    message.address(NAME, "203.0.113.66", 60, 1).address(NAME, "203.0.113.67", 60, 2).edns()
    learns(asked, message.pack())
    assert set(asked.learned()) == {ip_address(ONE)}


def test_an_owner_in_the_other_sections_may_be_any_name(asked: DnsBench) -> None:
    message = simple()
    message.add("0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example.com", m.NSEC3, 60, b"x" * 30, 1)
    message.raw(m.record(m.name("a.b.c.uncompressed.org"), m.TXT, 60, b"\1x"), 2)
    message.raw(m.record(b"\0", m.NS, 60, b"\0"), 1)
    learns(asked, message.pack())


OTHER_OWNERS = {
    "a pointer forward": b"\xc0\xff",
    "a pointer to itself": None,
    "a pointer into the header": b"\xc0\x05",
    "a label of 64": b"\x40" + b"a" * 64 + b"\0",
    "a name of 256": b"\x3f"
    + b"a" * 63
    + b"\x3f"
    + b"b" * 63
    + b"\x3f"
    + b"c" * 63
    + b"\x3e"
    + b"d" * 62
    + b"\0",
    "labels that run out of the message": b"\x3f" + b"a" * 20,
    "a pointer into a label": b"\xc0\x0e",
}


@pytest.mark.parametrize("section", [1, 2])
@pytest.mark.parametrize("owner", OTHER_OWNERS.values(), ids=OTHER_OWNERS)
def test_an_owner_in_the_other_sections_must_be_a_name(
    asked: DnsBench, owner: bytes | None, section: int
) -> None:
    message = simple()
    owner = struct.pack("!H", 0xC000 | message.at) if owner is None else owner
    message.raw(m.record(owner, m.TXT, 60, b"\1x"), section)
    assert strict(message.pack()) == {}
    is_odd(asked, message.pack())


def long_and_compressed(octets: int) -> bytes:
    """A name of that many octets: labels, and then a pointer to the rest, which counts."""
    left = octets - len(m.name(NAME))
    out = b""
    while left:
        size = min(64, left if left != 65 else 63)
        out += bytes([size - 1]) + b"a" * (size - 1)
        left -= size
    return out + m.QUESTION


@pytest.mark.parametrize("octets", range(250, 259))
def test_targets_around_the_longest_name(asked: DnsBench, octets: int) -> None:
    message = pointing_cname(long_and_compressed(octets))
    if octets <= 255:
        learns(asked, message)
        assert set(asked.learned()) == {ip_address(ONE)}
    else:
        is_odd(asked, message)


@pytest.mark.parametrize("octets", range(250, 259))
def test_owners_around_the_longest_name(asked: DnsBench, octets: int) -> None:
    owner = long_and_compressed(octets)
    message = simple().raw(m.record(owner, m.TXT, 60, b"\1x"), 1).pack()
    if octets <= 255:
        learns(asked, message)
    else:
        assert strict(message) == {}
        is_odd(asked, message)


@pytest.mark.parametrize("rcode", [2, 3, 5])
def test_an_answer_with_an_rcode_is_delivered_and_nothing_learned(
    asked: DnsBench, rcode: int
) -> None:
    message = simple(flags=m.QR | m.RD | m.RA | rcode).soa("example.com").pack()
    done = asked.answer(message)
    assert (done.verdict, done.path, done.message) == ("pass", DnsPath.ANSWERED, message)
    assert done.event is not None
    assert done.event.rcode == rcode
    assert asked.learned() == {}


def test_no_data_is_delivered_whatever_its_authority_holds(asked: DnsBench) -> None:
    message = m.Message(NAME).soa("example.com").edns()
    message.raw(m.record(b"\xc0\xff", m.NSEC3, 60, b"x"), 1)
    done = asked.answer(message.pack())
    assert (done.path, done.message) == (DnsPath.ANSWERED, message.pack())


# ---- services ----


def service_answer(params: bytes, **fields: object) -> bytes:
    record = m.service(m.QUESTION, 60, params, **fields)  # type: ignore[arg-type]
    return m.Message(NAME, m.HTTPS).raw(record).pack()


SERVICES = {
    "hints of both families": m.parameters((1, b"\2h2"), m.hints(ONE, TWO), m.hints(SIX)),
    "no parameters": b"",
    "no hints": m.parameters((1, b"\2h2"), (3, b"\1\xbb")),
    "ech between them": m.parameters(m.hints(ONE), (5, b"e" * 70), m.hints(SIX), (7, b"/dns")),
}


@pytest.mark.parametrize("params", SERVICES.values(), ids=SERVICES)
def test_address_hints_of_a_service_are_learned(dns: DnsBench, params: bytes) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    learns(dns, service_answer(params))


@pytest.mark.parametrize("target", ["", "svc.example.net", "a.b.c.d.e.f.g"])
def test_a_service_names_its_target(dns: DnsBench, target: str) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    learns(dns, service_answer(m.parameters(m.hints(ONE)), target=m.name(target)))


def test_an_alias_has_no_hints(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    params = m.parameters(m.hints(ONE))
    learns(dns, service_answer(params, priority=0, target=m.name("svc.example.net")))
    assert dns.learned() == {}


ODD_SERVICES = {
    "keys out of order": m.parameters(m.hints(SIX), m.hints(ONE)),
    "a key twice": m.parameters(m.hints(ONE), m.hints(TWO)),
    "an empty hint": m.parameters((4, b"")),
    "half an address": m.parameters((4, b"\1\2\3\4\5\6")),
    "half an IPv6 address": m.parameters((6, bytes(24))),
    "a value that overruns": m.parameters(m.hints(ONE))[:-1],
    "half a parameter": m.parameters(m.hints(ONE)) + b"\0\7\0",
    "a value that reaches into the next record": b"\0\4\0\x08\1\2\3\4",
}


@pytest.mark.parametrize("params", ODD_SERVICES.values(), ids=ODD_SERVICES)
def test_service_parameters_that_are_odd(dns: DnsBench, params: bytes) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    assert strict(service_answer(params)) == {}
    is_odd(dns, service_answer(params))


def test_a_compressed_service_target_is_odd(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    is_odd(dns, service_answer(b"", target=b"\3svc\xc0\x10"))


# ---- what is odd ----


def with_counts(message: bytes, *counts: int) -> bytes:
    return message[:4] + struct.pack("!4H", *counts) + message[12:]


def pointing(target: int) -> bytes:
    return simple().raw(m.address(struct.pack("!H", 0xC000 | target), TWO)).pack()


def pointing_cname(target: bytes) -> bytes:
    """A CNAME with this target, and an address that belongs to wherever the target stands."""
    message = m.Message(NAME)
    at = message.at + 12
    message.raw(m.record(m.QUESTION, m.CNAME, 60, target))
    return message.raw(m.address(struct.pack("!H", 0xC000 | at), ONE)).pack()


RECORD_AT = 12 + len(m.name(NAME)) + 4
ODD_ANSWERS = {
    "another owner": m.Message(NAME).address("wwx.example.com", ONE).pack(),
    "the parent's address": m.Message(NAME).address("example.com", ONE).pack(),
    "the right owner written in full": m.Message(NAME).raw(m.address(m.name(NAME), ONE)).pack(),
    "the root as owner": m.Message(NAME).raw(m.address(b"\0", ONE)).pack(),
    "an address before its chain": m.Message(NAME)
    .address("edge.example.net", ONE)
    .cname(NAME, "edge.example.net")
    .pack(),
    "a chain that does not follow": m.Message(NAME)
    .cname(NAME, "a.example.net")
    .cname("b.example.net", "c.example.net")
    .address("c.example.net", ONE)
    .pack(),
    "the asked name's address behind its CNAME": m.Message(NAME)
    .cname(NAME, "a.example.net")
    .address(NAME, ONE)
    .pack(),
    "a pointer forward": pointing(0x200),
    "a pointer beyond the message": pointing(0x3FFF),
    "a pointer to the record itself": pointing(RECORD_AT + 16),
    "a pointer into the header": pointing(2),
    "a pointer into a label": pointing(13),
    "a pointer to the question's type": pointing(RECORD_AT - 4),
    "a pointer to the question's root": pointing(RECORD_AT - 5),
    "a pointer into record data": pointing(RECORD_AT + 12),
    "an owner of label type 10": m.Message(NAME).raw(m.address(b"\x8c", ONE)).pack(),
    "a target that points to itself": pointing_cname(struct.pack("!H", 0xC000 | RECORD_AT + 12)),
    "a target that points to its own label": pointing_cname(
        b"\1a" + struct.pack("!H", 0xC000 | RECORD_AT + 12)
    ),
    "a target that points forward": pointing_cname(b"\xc0\xff"),
    "a target that points into a label": pointing_cname(b"\xc0\x0e"),
    "a target that is cut off": pointing_cname(b"\3abc"),
    "a target with octets behind it": pointing_cname(b"\3abc\0\0"),
    "a target with an octet behind its pointer": pointing_cname(m.QUESTION + b"\0"),
    "half a pointer as target": pointing_cname(b"\xc0"),
    "no target": pointing_cname(b""),
    "the address of what a target ends with": m.Message(NAME)
    .cname(NAME, "a.example.com")
    .address("example.com", ONE)
    .pack(),
    "an address of five octets": m.Message(NAME)
    .raw(m.record(m.QUESTION, m.A, 60, b"\1\2\3\4\5"))
    .pack(),
    "an address of three octets": m.Message(NAME)
    .raw(m.record(m.QUESTION, m.A, 60, b"\1\2\3"))
    .pack(),
    "an IPv6 address of four octets": m.Message(NAME)
    .raw(m.record(m.QUESTION, m.AAAA, 60, b"\1\2\3\4"))
    .pack(),
    "an RDLENGTH that overruns": simple().pack()[:-6] + b"\0\x05" + simple().pack()[-4:],
    "an RDLENGTH of 65535": m.Message(NAME)
    .raw(m.QUESTION + struct.pack("!HHIH", 16, 1, 1, 0xFFFF))
    .pack(),
    "an octet too many": simple().pack() + b"\0",
    "an octet too few": simple().pack()[:-1],
    "half a record": simple().pack()[:-9],
    "one answer more than there are": with_counts(simple().pack(), 1, 2, 0, 0),
    "one answer less than there are": with_counts(simple().address(NAME, TWO).pack(), 1, 1, 0, 0),
    "an authority that is not there": with_counts(simple().pack(), 1, 1, 1, 0),
    "an additional that is not there": with_counts(simple().pack(), 1, 1, 0, 1),
    "65535 answers": with_counts(simple().pack(), 1, 0xFFFF, 0xFFFF, 0xFFFF),
    "two OPTs": simple().edns().edns().pack(),
    "an OPT with a name": simple().raw(m.opt(owner=m.QUESTION), 2).pack(),
}


@pytest.mark.parametrize("message", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_an_odd_answer_goes_out_truncated_and_teaches_nothing(
    asked: DnsBench, message: bytes
) -> None:
    is_odd(asked, message)


def test_a_record_of_another_class_is_no_address(asked: DnsBench) -> None:
    message = simple().raw(m.record(m.QUESTION, m.A, 60, b"\1\2\3\4", rclass=m.CH)).pack()
    learns(asked, message)
    assert set(asked.learned()) == {ip_address(ONE)}


# ---- time, and bounds ----


@pytest.mark.parametrize("ttl", [0, 1, 60, 86400, 86401, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize(("least", "most"), [(0, 86400), (30, 0x7FFFFFFF), (30, 40)])
def test_an_address_lives_as_long_as_its_record_says(
    dns: DnsBench, ttl: int, least: int, most: int
) -> None:
    """Within the bounds; a TTL with its top bit set is none (RFC 2181 §8)."""
    dns.min_ttl, dns.max_ttl = least, most
    dns.configure()
    dns.rules("**.example.com")
    exchange(dns, NAME)
    done = dns.answer(m.Message(NAME).address(NAME, ONE, ttl).pack())
    true = min(max(least, 0 if ttl >= 0x80000000 else ttl), most)
    (left,) = dns.slots(ONE).values()
    assert true - 1 < left <= true
    assert done.event is not None
    assert done.event.ttl == true


def test_every_address_gets_the_least_ttl_of_the_answer(asked: DnsBench) -> None:
    message = m.Message(NAME).cname(NAME, "e.example.com", 40).address("e.example.com", ONE, 300)
    message.address("e.example.com", TWO, 20)
    asked.answer(message.pack())
    for address in (ONE, TWO):
        (left,) = asked.slots(address).values()
        assert 19 < left <= 20


def test_the_ttls_of_records_that_say_nothing_of_the_name_do_not_matter(asked: DnsBench) -> None:
    message = simple().add(NAME, m.TXT, 1, b"\1x").address("ns.example.com", TWO, 1, 2).edns()
    asked.answer(message.pack())
    (left,) = asked.slots(ONE).values()
    assert left > 299


def test_a_later_answer_lengthens_and_never_shortens(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    for ttl, least in ((60, 59), (30, 59), (90, 89)):
        exchange(dns, NAME)
        dns.answer(m.Message(NAME).address(NAME, ONE, ttl).pack())
        (left,) = dns.slots(ONE).values()
        assert least < left <= least + 1


@pytest.mark.parametrize("count", [1, 4, 5, 63, 64, 65, 80])
@pytest.mark.parametrize("family", [4, 6])
def test_sixty_four_addresses_are_learned_and_more_are_not(
    asked: DnsBench, count: int, family: int
) -> None:
    message = m.Message(NAME)
    for number in range(count):
        text = f"203.0.113.{number}" if family == 4 else f"2001:db8::{number:x}"
        message.address(NAME, text)
    if count <= 64:
        learns(asked, message.pack())
    else:
        is_odd(asked, message.pack())


def test_sixty_four_hints_in_one_record(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.HTTPS)
    six = tuple(f"2001:db8::{number:x}" for number in range(32))
    four = tuple(f"203.0.113.{number}" for number in range(32))
    learns(dns, service_answer(m.parameters(m.hints(*four), m.hints(*six))))
    assert len(dns.learned()) == 64


def test_an_address_said_twice_counts_once(asked: DnsBench) -> None:
    learns(asked, simple().address(NAME, ONE, 300).pack())


def test_a_mapped_address_is_the_ipv4_host(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, m.AAAA)
    mapped = m.Message(NAME, m.AAAA).address(NAME, f"::ffff:{ONE}").pack()
    assert dns.answer(mapped).path is DnsPath.ANSWERED
    assert set(dns.learned()) == {ip_address(ONE)}


FOUR = ["a.example.com", "b.example.com", "c.example.com", "d.example.com"]


def test_four_names_share_an_address_and_the_fifth_finds_no_place(dns: DnsBench) -> None:
    dns.rules(*FOUR, "e.example.com")
    for number, qname in enumerate(FOUR):
        exchange(dns, qname)
        dns.answer(m.Message(qname).address(qname, ONE, 100 + number).pack())
    slots = dns.slots(ONE)
    assert sorted(slots) == sorted(dns.identity(qname) for qname in FOUR)
    for number, qname in enumerate(FOUR):
        assert 99 + number < slots[dns.identity(qname)] <= 100 + number
    exchange(dns, "e.example.com")
    done = dns.answer(m.Message("e.example.com").address("e.example.com", ONE).pack())
    assert (done.path, done.passed) == (DnsPath.TRUNCATED, True)
    assert set(dns.slots(ONE)) == set(slots)


@pytest.mark.parametrize("expired", range(4))
def test_a_slot_whose_time_is_over_is_given_away(dns: DnsBench, expired: int) -> None:
    dns.rules("e.example.com")
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for n in range(4):
        dns.put_learned(ONE, 100 + n, now + (-1 if n == expired else 10**10))
    exchange(dns, "e.example.com")
    done = dns.answer(m.Message("e.example.com").address("e.example.com", ONE).pack())
    assert done.path is DnsPath.ANSWERED
    held = {identity for identity, left in dns.slots(ONE).items() if left > 0}
    assert held == {100, 101, 102, 103} - {100 + expired} | {dns.identity("e.example.com")}


def test_a_full_map_sends_the_answer_on_truncated(asked: DnsBench) -> None:
    fd = asked.datapath.maps["answers"]
    far = DnsLearned(address_bytes(TWO), 1, 9, 1 << 62).pack()
    keys = [PlaceKey(9, place).pack() for place in range(DNS_SIZES["answers"])]
    libbpf.update_batch(fd, [(key, far) for key in keys])
    done = asked.answer(simple().pack())
    assert (done.path, done.passed) == (DnsPath.TRUNCATED, True)
    assert asked.slots(ONE) == {}
    libbpf.delete(fd, keys[0])
    exchange(asked, NAME)
    assert asked.answer(simple().pack()).path is DnsPath.ANSWERED
    exchange(asked, NAME)
    again = asked.answer(m.Message(NAME).address(NAME, ONE, 999).pack())
    assert again.path is DnsPath.ANSWERED, "one that is there already needs no room"
    (left,) = asked.slots(ONE).values()
    assert left > 998


def test_with_the_node_as_scope_all_endpoints_learn_together(dns: DnsBench) -> None:
    dns.scope = 0
    dns.rules("**.example.com")
    exchange(dns, NAME)
    assert dns.answer(simple().pack()).path is DnsPath.ANSWERED
    assert [key for key, _ in dns.maps.answers.items()] == [LearnedKey(0, address_bytes(ONE))]


# ---- truncated answers ----


@both_families
@pytest.mark.parametrize("edns", ["none", "plain", "do"])
@pytest.mark.parametrize("flags", [m.QR | m.RD | m.RA, m.QR | m.AA | m.AD | m.CD])
def test_a_truncated_answer_is_what_the_proxy_would_say(
    dns: DnsBench, client: str, server: str, edns: str, flags: int
) -> None:
    dns.rules("**.example.com")
    additional = {"none": (), "plain": (m.opt(),), "do": (m.opt(do=True),)}[edns]
    query = m.query(NAME, additional=additional)
    dns.ask(query, client=client, server=server)
    answer = m.Message(NAME, flags=flags).address("example.com", ONE).edns().pack()
    frame = p.frame(server, client, p.udp(server, client, 53, PORT, answer))
    done = dns.run("to_endpoint", frame)
    head = read_query(query)
    assert done.message == truncated_reply(head, query[12 : head.end], flags)
    assert done.frame[:14] == frame[:14]
    assert p.addresses(done.frame[14:]) == p.addresses(frame[14:])
    l4 = 54 if ":" in client else 34
    assert done.frame[l4 : l4 + 4] == frame[l4 : l4 + 4]
    assert checksums_hold(done.frame)
    assert dns.exchanges() == []


@pytest.mark.parametrize("size", range(1, 60))
def test_truncated_answers_of_every_length_have_right_checksums(dns: DnsBench, size: int) -> None:
    dns.rules("**.example.com")
    qname = f"{'a' * size}.example.com"
    exchange(dns, qname)
    is_odd(dns, m.Message(qname).raw(m.address(b"\xc0\x01", ONE)).pack())


def test_an_answer_that_the_server_truncated_is_read_like_any(asked: DnsBench) -> None:
    learns(asked, simple(flags=m.QR | m.TC).pack())
    exchange(asked, NAME)
    asked.clear("answers")
    is_odd(asked, simple(flags=m.QR | m.TC).pack()[:-6])


@both_families
@pytest.mark.parametrize("first", [48, 64, 200])
def test_an_answer_in_fragments_is_truncated_in_its_first(
    dns: DnsBench, client: str, server: str, first: int
) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, client=client, server=server)
    message = simple()
    for number in range(20):
        message.address(NAME, f"203.0.113.{number}")
    l4 = p.udp(server, client, 53, PORT, message.pack())
    head, rest = p.fragments(server, client, l4, first=first)
    done = dns.run("to_endpoint", head)
    assert (done.verdict, done.path) == ("pass", DnsPath.TRUNCATED)
    assert DNSRecord.parse(done.message).header.tc
    assert checksums_hold(done.frame)
    assert done.frame[14 + 6] == (p.UDP if ":" in client else 0x40), "no fragment any more"
    assert dns.run("to_endpoint", rest).verdict == "drop"
    assert dns.learned() == {}


def test_a_first_fragment_without_the_whole_question_is_dropped(asked: DnsBench) -> None:
    l4 = p.udp(SERVER4, CLIENT4, 53, PORT, simple().pack())
    for size in (24, 32, 40):
        head, rest = p.fragments(SERVER4, CLIENT4, l4, first=size, identification=size)
        assert asked.run("to_endpoint", head).verdict == "drop"
        assert asked.run("to_endpoint", rest).verdict == "drop"
    assert len(asked.exchanges()) == 1


def test_answers_that_the_receiving_side_joined_are_not_read_as_one(asked: DnsBench) -> None:
    message = simple().edns()
    first = message.pack()
    done = asked.answer(first + first, gso_size=len(first))
    assert (done.verdict, done.path) == ("pass", DnsPath.TRUNCATED)
    assert asked.learned() == {}


@pytest.mark.parametrize("kind", [p.HOP_BY_HOP, p.DESTINATION])
def test_an_odd_answer_behind_extension_headers_loses_them(dns: DnsBench, kind: int) -> None:
    dns.rules("**.example.com")
    exchange(dns, NAME, client=CLIENT6, server=SERVER6)
    l4 = p.udp(SERVER6, CLIENT6, 53, PORT, simple().pack() + b"\0")
    done = dns.run("to_endpoint", p.frame(SERVER6, CLIENT6, p.extension(kind, l4)))
    assert (done.verdict, done.path) == ("pass", DnsPath.TRUNCATED)
    assert checksums_hold(done.frame)


def test_padding_of_the_frame_is_no_part_of_the_answer(asked: DnsBench) -> None:
    frame = p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 53, PORT, simple().pack()))
    done = asked.run("to_endpoint", frame + b"\xff" * 9)
    assert (done.path, done.frame) == (DnsPath.ANSWERED, frame + b"\xff" * 9)


@pytest.mark.parametrize("length", [0, 8, 20, 60, 64, 66, 90])
def test_a_udp_length_that_lies_is_no_answer(asked: DnsBench, length: int) -> None:
    protocol, datagram = p.udp(SERVER4, CLIENT4, 53, PORT, simple().pack())
    assert len(datagram) == 57
    lying = datagram[:4] + struct.pack("!H", length) + datagram[6:]
    done = asked.run("to_endpoint", p.frame(SERVER4, CLIENT4, (protocol, lying)))
    assert done.verdict == "drop"
    assert asked.learned() == {}


# ---- what is told ----


@pytest.mark.parametrize("count", [0, 1, 4, 5, 64])
def test_an_answer_is_reported_with_its_addresses(asked: DnsBench, count: int) -> None:
    message = m.Message(NAME).add(NAME, m.TXT, 60, b"\1x")
    addresses = [f"203.0.113.{number}" for number in range(count)]
    for text in addresses:
        message.address(NAME, text, 77)
    event = asked.answer(message.pack()).event
    assert event is not None
    assert [str(address) for address in event.addresses] == addresses
    assert (event.qname, event.qtype, event.rcode) == (NAME, m.A, 0)
    assert event.ttl == (77 if count else 0)
    assert event.identity == asked.identity("**.example.com")
    assert (event.client, event.server) == ((CLIENT4, PORT), (SERVER4, 53))
    assert 0 < event.latency_seconds < 10


def test_above_its_budget_an_endpoints_events_are_counted_only(dns: DnsBench) -> None:
    dns.configure(events_per_second=0)
    dns.rules("**.example.com")
    before = dns.maps.events_suppressed()
    exchange(dns, NAME)
    done = dns.answer(simple().pack())
    assert (done.path, done.event) == (DnsPath.ANSWERED, None)
    assert dns.maps.events_suppressed() == before + 1
    assert set(dns.learned()) == {ip_address(ONE)}


def test_other_families_answers_do_not_open_others(dns: DnsBench) -> None:
    """The rest of the address counts, for either family."""
    dns.rules("**.example.com")
    exchange(dns, NAME, m.AAAA)
    dns.answer(m.Message(NAME, m.AAAA).address(NAME, OTHER6).pack())
    assert set(dns.learned()) == {ip_address(OTHER6)}


@both_families
def test_an_error_about_a_query_reaches_the_client(dns: DnsBench, client: str, server: str) -> None:
    """A resolver that is down says so, and the client asks another at once."""
    dns.rules("**.example.com")
    query = m.query(NAME)

    def error(port: int = PORT, ident: int = 0x1234, quoted: int = 999) -> bytes:
        octets = ident.to_bytes(2, "big") + query[2:]
        datagram = p.ip(client, server, p.udp(client, server, port, 53, octets))
        return p.frame(server, client, p.icmp_error(server, client, datagram[:quoted]))

    assert dns.run("to_endpoint", error()).reason is DropReason.POLICY_DENIED
    exchange(dns, NAME, client=client, server=server)
    assert dns.run("to_endpoint", error()).passed
    assert dns.run("to_endpoint", error(port=PORT + 1)).reason is DropReason.POLICY_DENIED
    assert dns.run("to_endpoint", error(ident=9)).reason is DropReason.POLICY_DENIED
    short = (40 if ":" in client else 20) + 9
    assert dns.run("to_endpoint", error(quoted=short)).reason is DropReason.POLICY_DENIED
    assert dns.answer(simple().pack(), client=client, server=server).path is DnsPath.ANSWERED
