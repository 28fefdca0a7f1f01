"""Queries: let out, refused in place, or handed to the proxy, all by the name alone."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from dnslib import DNSRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsproxy.engine import _REFUSED_TEXT
from dnsproxy.reader import HEADER_OCTETS, Malformed, read_query
from dnsproxy.wire import ExtendedError, error_reply
from fqdnwall.datapath.layouts import (
    DNS_NAME_MAX,
    DNS_REFUSED_TEXT,
    DnsPath,
    DropReason,
    EndpointFlag,
    Mark,
    address_bytes,
)
from fqdnwall.fqdn.ruleset import Action, compile_ruleset, judge, labels_of
from policies import DnsRuleSet
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, ENDPOINT, ENFORCE, OTHER4, SERVER4, SERVER6
from tests.datapath.dnsbench import NXDOMAIN, PORT, RULE, DnsBench, selector
from tests.fqdn.test_ruleset import walk

pytestmark = pytest.mark.kernel

PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])
RULES = ("example.com", "*.example.com", "**.deep.org", "api-*.star.net", "a-b.0.io", "_x._tcp.y")
ALLOWED, REFUSED, ASKED = DnsPath.ALLOWED, DnsPath.REFUSED, DnsPath.UNDECIDED


def label(size: int, letter: str = "a") -> str:
    return letter * size


def long_name(octets: int, suffix: str = "deep.org") -> str:
    """A name below the suffix of that many octets on the wire."""
    left = octets - len(m.name(suffix))
    out = []
    while left > 0:
        size = min(64, left if left != 65 else 63)
        out.append(label(size - 1))
        left -= size
    return ".".join([*out, suffix])


def proxy_reads(message: bytes) -> bool:
    try:
        read_query(message)
    except Malformed:
        return False
    return True


@both_families
@pytest.mark.parametrize(
    ("qname", "path"),
    [
        ("example.com", ALLOWED),
        ("EXAMPLE.com", ALLOWED),
        ("eXaMpLe.CoM", ALLOWED),
        ("www.example.com", ALLOWED),
        ("WwW.ExAmPlE.cOm", ALLOWED),
        ("a.www.example.com", REFUSED),
        ("com", REFUSED),
        ("", REFUSED),
        ("wwwexample.com", REFUSED),
        ("example.com.evil.org", REFUSED),
        ("xexample.com", REFUSED),
        ("moc.elpmaxe", REFUSED),
        ("deep.org", REFUSED),
        ("a.deep.org", ALLOWED),
        ("a.b.c.d.deep.org", ALLOWED),
        ("api-1.star.net", ASKED),
        ("www.star.net", ASKED),
        ("a.api-1.star.net", REFUSED),
        ("star.net", REFUSED),
        ("a-b.0.io", ALLOWED),
        ("_X._tcp.Y", ALLOWED),
        ("_x._udp.y", REFUSED),
    ],
)
def test_the_name_decides(
    dns: DnsBench, client: str, server: str, qname: str, path: DnsPath
) -> None:
    dns.rules(*RULES)
    done = dns.ask(m.query(qname), client=client, server=server)
    assert done.path is path
    assert done.verdict == {ALLOWED: "pass", REFUSED: "redirect", ASKED: "drop"}[path]
    if path is ASKED:
        assert done.reason is DropReason.PROXY_LOOKUP_FAILED
    assert len(dns.exchanges()) == (path is ALLOWED)
    assert len(dns.flows()) == (path is ASKED), "only what the proxy carries is a flow"


def test_an_allowed_query_goes_out_as_it_came(dns: DnsBench) -> None:
    dns.rules(*RULES)
    message = m.query("wWw.Example.com", additional=(m.opt(b"\0\x0a\0\x08abcdefgh", do=True),))
    frame = p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, PORT, 53, message))
    done = dns.run("from_endpoint", frame)
    assert done.frame == frame
    assert done.mark == 0


def test_an_allowed_query_is_noted_with_all_that_its_answer_must_match(dns: DnsBench) -> None:
    dns.rules("example.com", "*.example.com")
    query = m.query("WWW.example.com", m.AAAA, additional=(m.opt(do=True),))
    dns.ask(query, client=CLIENT6, server=SERVER6)
    ((endpoint, noted),) = dns.exchanges()
    assert endpoint == ENDPOINT
    assert (noted.client, noted.server) == (address_bytes(CLIENT6), address_bytes(SERVER6))
    assert (noted.client_port, noted.server_port, noted.id) == (PORT, 53, 0x1234)
    assert noted.identity == dns.identity("*.example.com")
    assert (noted.type, noted.name_size) == (m.AAAA, len(m.name("www.example.com")))
    assert (noted.edns, noted.dnssec_ok) == (1, 1)
    assert noted.name.rstrip(b"\0") == b"moc\0elpmaxe\0www"


def test_a_star_alone_allows_every_name_that_policy_can_spell(dns: DnsBench) -> None:
    dns.rules("*")
    for qname in ("", "com", "a.b.c.d.e.f.g", long_name(DNS_NAME_MAX + 1)):
        assert dns.ask(m.query(qname)).path is ALLOWED, qname
    assert dns.ask(m.query(b"\x03a\x01b\0")).path is DnsPath.ODD


def test_every_letter_has_two_cases(dns: DnsBench) -> None:
    dns.rules("abcdefghijklmnopqrstuvwxyz-0123456789_")
    assert dns.ask(m.query("ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789_")).path is ALLOWED


@pytest.mark.parametrize("size", [1, 2, 62, 63])
def test_labels_of_every_legal_size(dns: DnsBench, size: int) -> None:
    dns.rules("*.example.com")
    assert dns.ask(m.query(f"{label(size)}.example.com")).path is ALLOWED
    assert dns.ask(m.query(f"{label(size)}.example.net")).path is REFUSED


@pytest.mark.parametrize("octets", range(240, 262))
def test_names_of_every_size_around_the_bounds(dns: DnsBench, octets: int) -> None:
    """Up to 249 octets the tree holds; up to 255 a name may have; more is no name."""
    dns.rules("**.deep.org")
    message = m.query(long_name(octets))
    assert len(message) == 12 + octets + 4
    done = dns.ask(message)
    assert done.path is (ALLOWED if octets <= DNS_NAME_MAX + 1 else DnsPath.ODD)
    assert proxy_reads(message) == (octets <= 255)
    other = dns.ask(m.query(long_name(octets, "deep.net")))
    assert other.path is (REFUSED if octets <= DNS_NAME_MAX + 1 else DnsPath.ODD)


@pytest.mark.parametrize("labels", [120, 123, 124, 125, 127])
def test_names_of_many_labels(dns: DnsBench, labels: int) -> None:
    dns.rules("**.b")
    done = dns.ask(m.query(".".join(["a"] * (labels - 1) + ["b"])))
    assert done.path is (ALLOWED if labels <= 124 else DnsPath.ODD)


EXAMPLE = m.name("www.example.com")
ODD_NAMES = {
    "64 octets in a label": b"\x40" + b"a" * 64 + m.name("example.com"),
    "label type 10": b"\x80www" + m.name("example.com"),
    "a pointer at once": b"\xc0\x0c",
    "a pointer to itself after a label": b"\x03www\xc0\x0c",
    "a pointer into the header": b"\x03www\xc0\x00",
    "a pointer forward": b"\x03www\xc0\xff",
    "a NUL in a label": b"\x05www\0x\x07example\x03com\0",
    "a NUL before the length it could hide": b"\x05www\0\x07\x07example\x03com\0",
    "a dot in a label": b"\x0bwww.example\x03com\0",
    "a length octet inside a label": b"\x0bwww\x07example\x03com\0",
    "a high bit": b"\x03ww\xf7\x07example\x03com\0",
    "a mark where the tree has one": b"\x03w\x80w\x07example\x03com\0",
    "a space": b"\x03w w\x07example\x03com\0",
    "a star": b"\x01*\x07example\x03com\0",
    "a backslash": b"\x01\\\x07example\x03com\0",
    "UTF-8": b"\x02\xc3\xa9\x07example\x03com\0",
    "a bracket behind Z": b"\x03w[w\x07example\x03com\0",
    "an at before A": b"\x03w@w\x07example\x03com\0",
    "a colon behind 9": b"\x03w:w\x07example\x03com\0",
    "a slash before 0": b"\x03w/w\x07example\x03com\0",
    "a backtick before a": b"\x03w`w\x07example\x03com\0",
    "a brace behind z": b"\x03w{w\x07example\x03com\0",
}


@pytest.mark.parametrize("wire", ODD_NAMES.values(), ids=ODD_NAMES)
@pytest.mark.parametrize("rules", [("*.example.com",), ("*",)], ids=["named", "star"])
def test_a_name_that_policy_cannot_spell_is_not_the_kernels(
    dns: DnsBench, wire: bytes, rules: tuple[str, ...]
) -> None:
    dns.rules(*rules)
    assert dns.ask(m.query(EXAMPLE)).path is ALLOWED
    assert dns.was_asked(dns.ask(m.query(wire)), DnsPath.ODD)
    assert len(dns.exchanges()) == 1


def test_what_an_earlier_query_left_behind_is_not_read(dns: DnsBench) -> None:
    """The longer name is in the same memory when the shorter one, cut off, comes."""
    dns.rules("**.example.com")
    assert dns.ask(m.query("a.b.c.example.com")).path is ALLOWED
    whole = m.query("a.b.c.example.com")
    for size in range(12, len(whole)):
        assert dns.was_asked(dns.ask(whole[:size]), DnsPath.ODD), size


def test_characters_that_equal_length_octets_stay_characters(dns: DnsBench) -> None:
    """'-' is 45 and '0' is 48: a label of that size begins with the same octet."""
    dns.rules("-.0", "*.a-0")
    assert dns.ask(m.query("-.0")).path is ALLOWED
    assert dns.ask(m.query(b"\x03-\x010\0")).path is DnsPath.ODD
    assert dns.ask(m.query(f"{label(45, '-')}.{label(48, '0')}")).path is REFUSED
    assert dns.ask(m.query(f"{label(48, '0')}.a-0")).path is ALLOWED
    assert dns.ask(m.query(b"\x2d" + b"-" * 45 + m.name("a-0"))).path is ALLOWED
    assert dns.ask(m.query(b"\x04x\x02a-0\0")).path is DnsPath.ODD


ODD_MESSAGES = {
    "no question": m.query(EXAMPLE, counts=(0, 0, 0, 0)),
    "two questions said": m.query(EXAMPLE, counts=(2, 0, 0, 0)),
    "two questions": m.query(EXAMPLE, counts=(2, 0, 0, 0), tail=m.name("evil.org") + b"\0\1\0\1"),
    "an answer said": m.query(EXAMPLE, counts=(1, 1, 0, 0)),
    "an answer": m.query(EXAMPLE, counts=(1, 1, 0, 0), tail=m.address(m.QUESTION, OTHER4)),
    "an authority": m.query(EXAMPLE, counts=(1, 0, 1, 0), tail=m.address(m.QUESTION, OTHER4)),
    "class CH": m.query(EXAMPLE, qclass=m.CH),
    "class ANY": m.query(EXAMPLE, qclass=255),
    "an update": m.query(EXAMPLE, flags=5 << 11),
    "inverse query": m.query(EXAMPLE, flags=1 << 11),
    "a response": m.query(EXAMPLE, flags=m.QR),
    "truncated": m.query(EXAMPLE, flags=m.TC),
    "IXFR": m.query(EXAMPLE, 251),
    "AXFR": m.query(EXAMPLE, 252),
    "an octet too many": m.query(EXAMPLE, tail=b"\0"),
    "another query behind it": m.query(EXAMPLE, tail=m.query("evil.org")),
    "additional said": m.query(EXAMPLE, counts=(1, 0, 0, 1)),
    "two OPTs": m.query(EXAMPLE, additional=(m.opt(), m.opt())),
    "an OPT with a name": m.query(EXAMPLE, additional=(m.opt(owner=m.name("x")),)),
    "an OPT with a pointer": m.query(EXAMPLE, additional=(m.opt(owner=m.QUESTION),)),
    "one OPT for two said": m.query(EXAMPLE, counts=(1, 0, 0, 2), tail=m.opt()),
    "an OPT too long": m.query(EXAMPLE, additional=(m.opt()[:-1] + b"\1",)),
    "an OPT too short": m.query(EXAMPLE, additional=(m.opt(b"\0\x0a\0\0"),), tail=b"\0"),
    "half an OPT": m.query(EXAMPLE, counts=(1, 0, 0, 1), tail=m.opt()[:6]),
    "TSIG": m.query(EXAMPLE, additional=(m.record(m.name("key"), 250, 0, b"x" * 20),)),
    "a type cut short": m.query(EXAMPLE)[:-3],
    "a header alone": m.header(),
    "half a header": m.header()[:7],
    "nothing": b"",
}


@pytest.mark.parametrize("message", ODD_MESSAGES.values(), ids=ODD_MESSAGES)
def test_a_message_of_another_form_goes_to_the_proxy(dns: DnsBench, message: bytes) -> None:
    dns.rules("**.example.com", "**.example.net")
    assert dns.was_asked(dns.ask(message), DnsPath.ODD)
    assert dns.exchanges() == []


@pytest.mark.parametrize(
    "options",
    [b"", b"\0\x0a\0\x08abcdefgh", b"\0\x0c\0\x80" + bytes(128), b"\0\x08\0\x07\0\1\x18\0\1\2\3"],
    ids=["plain", "cookie", "padding", "client subnet"],
)
@pytest.mark.parametrize("do", [False, True])
def test_edns_in_its_usual_forms_is_the_kernels(dns: DnsBench, options: bytes, do: bool) -> None:
    dns.rules("**.example.com")
    assert dns.ask(m.query(EXAMPLE, additional=(m.opt(options, do=do),))).path is ALLOWED
    refused = dns.ask(m.query("evil.org", additional=(m.opt(options, do=do),)))
    assert refused.path is REFUSED


@pytest.mark.parametrize("length", [0, 7, 8, 20, 40, 42, 44, 60, 0xFFFF])
def test_a_udp_length_that_lies_is_odd(dns: DnsBench, length: int) -> None:
    dns.rules("**.example.com")
    protocol, datagram = p.udp(CLIENT4, SERVER4, PORT, 53, m.query("www.example.com"))
    assert len(datagram) == 41
    lying = datagram[:4] + struct.pack("!H", length) + datagram[6:]
    done = dns.run("from_endpoint", p.frame(CLIENT4, SERVER4, (protocol, lying)))
    assert dns.was_asked(done, DnsPath.ODD)


def test_padding_of_the_frame_is_no_part_of_the_message(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    for qname, verdict in (("www.example.com", "pass"), ("evil.org", "redirect")):
        frame = p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, PORT, 53, m.query(qname)))
        done = dns.run("from_endpoint", frame + b"\xffpadding")
        assert done.verdict == verdict
    assert DNSRecord.parse(done.message).header.rcode == 5


def test_several_datagrams_in_one_buffer_are_the_proxys(dns: DnsBench) -> None:
    """With UDP_SEGMENT an allowed query's OPT record could hold a query that is not allowed."""
    dns.rules("**.example.com")
    hidden = m.query("evil.org", ident=0x1234)
    first = m.query(EXAMPLE, counts=(1, 0, 0, 1), tail=m.opt(hidden)[:11])
    message = first + hidden
    assert dns.ask(message).path is ALLOWED, "as one datagram it is one query"
    done = dns.ask(message, gso_size=len(first))
    assert dns.was_asked(done, DnsPath.ODD)


def test_ipv4_options_are_the_proxys(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    l4 = p.udp(CLIENT4, SERVER4, PORT, 53, m.query("www.example.com"))
    frame = p.framed(p.ipv4(CLIENT4, SERVER4, l4, options=b"\x44\x04\x05\x00"))
    assert dns.was_asked(dns.run("from_endpoint", frame), DnsPath.ODD)


@pytest.mark.parametrize("kind", [p.HOP_BY_HOP, p.DESTINATION])
def test_extension_headers_are_the_proxys(dns: DnsBench, kind: int) -> None:
    dns.rules("**.example.com")
    l4 = p.udp(CLIENT6, SERVER6, PORT, 53, m.query("www.example.com"))
    frame = p.frame(CLIENT6, SERVER6, p.extension(kind, l4))
    assert dns.was_asked(dns.run("from_endpoint", frame), DnsPath.ODD)


@both_families
def test_a_query_in_fragments_is_dropped(dns: DnsBench, client: str, server: str) -> None:
    dns.rules("**.example.com")
    l4 = p.udp(client, server, PORT, 53, m.query("www.example.com"))
    for fragment in p.fragments(client, server, l4):
        done = dns.run("from_endpoint", fragment)
        assert done.reason is DropReason.FRAGMENT_NOT_SUPPORTED
    assert dns.exchanges() == []


def test_a_query_from_a_strangers_address_is_dropped(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    done = dns.ask(m.query("www.example.com"), client=OTHER4)
    assert done.reason is DropReason.INVALID_SOURCE_IP
    assert dns.exchanges() == []


def test_without_a_tree_and_without_the_switch_the_proxy_is_asked(dns: DnsBench) -> None:
    number = dns.rules("**.example.com")
    dns.maps.set_config(replace(dns.maps.config(), dns_enabled=0))
    assert dns.was_asked(dns.ask(m.query("www.example.com")), DnsPath.NO_TREE)
    dns.configure()
    assert dns.ask(m.query("www.example.com"), port=1).path is ALLOWED
    dns.clear("dns_names")
    assert dns.was_asked(dns.ask(m.query("www.example.com"), port=2), DnsPath.NO_TREE)
    assert number


def test_two_rulesets_do_not_see_each_others_names(dns: DnsBench) -> None:
    first = dns.rules("www.example.com")
    assert dns.ask(m.query("www.example.com")).path is ALLOWED
    assert dns.rules("www.example.net") != first
    assert dns.ask(m.query("www.example.com")).path is REFUSED
    assert dns.ask(m.query("www.example.net")).path is ALLOWED


def test_in_audit_mode_the_proxy_sees_what_would_be_refused(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    dns.enforce(ENFORCE | EndpointFlag.AUDIT)
    assert dns.was_asked(dns.ask(m.query("evil.org")), ASKED)
    assert dns.ask(m.query("www.example.com")).path is ALLOWED


def test_what_the_proxy_has_judged_the_kernel_answers_from_then_on(dns: DnsBench) -> None:
    rules, number = ("api-*.star.net",), dns.rules("api-*.star.net")
    assert dns.rulesets is not None
    rule_set = DnsRuleSet(tuple((selector(text), RULE) for text in rules))
    fqdns = tuple(selector(text) for text in rules)
    for qname, path in (("API-1.star.net", ALLOWED), ("www.star.net", REFUSED)):
        assert dns.was_asked(dns.ask(m.query(qname)), ASKED)
        dns.rulesets.teach(number, qname, judge(rule_set, fqdns, qname))
        assert dns.ask(m.query(qname)).path is path
        assert dns.ask(m.query(f"a.{qname}")).path is REFUSED
    assert dns.was_asked(dns.ask(m.query("api-2.star.net")), ASKED)


# ---- refusals ----


def expected_refusal(query: bytes, code: int = 5) -> bytes:
    head = read_query(query)
    question = query[HEADER_OCTETS : head.end]
    return error_reply(head, question, code, ExtendedError.BLOCKED, _REFUSED_TEXT)


def checksums_hold(frame: bytes) -> bool:
    """Of the IP header, and of UDP over the pseudo header."""
    packet = frame[14:]
    source, destination = (str(address) for address in p.addresses(packet))
    l4 = packet[40:] if packet[0] >> 4 == 6 else packet[20:]
    if packet[0] >> 4 == 4 and p.checksum(packet[:20]):
        return False
    pseudo = p._pseudo(source, destination, p.UDP, len(l4))
    return l4[6:8] != b"\0\0" and p.checksum(pseudo + l4) == 0


REFUSED_QUERIES = {
    "plain": m.query("evil.org"),
    "EDNS": m.query("evil.org", additional=(m.opt(b"\0\x0a\0\x08abcdefgh"),)),
    "DO": m.query("evil.org", additional=(m.opt(do=True),)),
    "letter case": m.query("eViL.oRg", additional=(m.opt(),)),
    "no RD": m.query("evil.org", flags=0),
    "CD and AD": m.query("evil.org", flags=m.RD | m.CD | m.AD),
    "reserved bits and an RCODE": m.query("evil.org", flags=m.RD | 0x0040 | 0x000F),
    "another type": m.query("evil.org", m.HTTPS, ident=0xFFFF),
    "the root": m.query(""),
    "long": m.query(long_name(249, "evil.org"), additional=(m.opt(do=True),)),
    "much padding": m.query("evil.org", additional=(m.opt(b"\0\x0c\x02\0" + bytes(512)),)),
}


@both_families
@pytest.mark.parametrize("query", REFUSED_QUERIES.values(), ids=REFUSED_QUERIES)
def test_a_refusal_is_what_the_proxy_would_say(
    dns: DnsBench, client: str, server: str, query: bytes
) -> None:
    dns.rules("**.example.com")
    done = dns.ask(query, client=client, server=server)
    assert done.verdict == "redirect"
    assert done.mark == Mark.FROM_PROXY
    assert done.message == expected_refusal(query)
    assert checksums_hold(done.frame)


@pytest.mark.parametrize("size", range(1, 64))
def test_refusals_of_every_length_have_right_checksums(dns: DnsBench, size: int) -> None:
    dns.rules("**.example.com")
    for ident in (0, 0xFFFF, 0x1234 * size & 0xFFFF):
        query = m.query(f"{label(size)}.org", ident=ident)
        done = dns.ask(query)
        assert done.message == expected_refusal(query)
        assert checksums_hold(done.frame)


def ones_sum(octets: bytes) -> int:
    """RFC 1071, before it is complemented."""
    return ~p.checksum(octets) & 0xFFFF


@both_families
def test_a_checksum_that_comes_out_as_zero_is_written_as_ones(
    dns: DnsBench, client: str, server: str
) -> None:
    """Zero would say that there is none, which IPv6 does not allow."""
    dns.rules("**.example.com")
    reply = expected_refusal(m.query("evil.org", ident=0))
    datagram = struct.pack("!4H", 53, PORT, 8 + len(reply), 0) + reply
    total = ones_sum(p._pseudo(server, client, p.UDP, len(datagram)) + datagram)
    done = dns.ask(m.query("evil.org", ident=0xFFFF - total), client=client, server=server)
    l4 = 54 if ":" in client else 34
    assert done.frame[l4 + 6 : l4 + 8] == b"\xff\xff"
    assert checksums_hold(done.frame)


@both_families
def test_a_checksum_that_looks_unfinished_is_still_one(
    dns: DnsBench, client: str, server: str
) -> None:
    """It happens to be the sum over the pseudo header, which a device would have to complete."""
    dns.rules("**.example.com")
    query = m.query("evil.org", ident=0)
    datagram = struct.pack("!4H", PORT, 53, 8 + len(query), 0) + query
    pseudo = p._pseudo(client, server, p.UDP, len(datagram))
    wanted = ones_sum(pseudo)
    ident = (0xFFFF - wanted - ones_sum(pseudo + datagram)) % 0xFFFF
    l4 = p.udp(client, server, PORT, 53, m.query("evil.org", ident=ident))
    assert l4[1][6:8] == wanted.to_bytes(2, "big")
    done = dns.run("from_endpoint", p.frame(client, server, l4))
    assert done.path is REFUSED
    assert checksums_hold(done.frame)


@both_families
def test_a_refusal_goes_back_the_way_the_query_came(
    dns: DnsBench, client: str, server: str
) -> None:
    dns.rules("**.example.com")
    query = m.query("evil.org")
    frame = p.frame(client, server, p.udp(client, server, PORT, 53, query))
    back = dns.run("from_endpoint", frame, mark=0xABCD00FF)
    assert back.frame[:6] == frame[6:12]
    assert back.frame[6:12] == frame[:6]
    assert back.frame[12:14] == frame[12:14]
    source, destination = p.addresses(back.frame[14:])
    assert (str(source), str(destination)) == (server, client)
    udp = back.frame[54 if ":" in client else 34 :]
    assert struct.unpack("!HHH", udp[:6]) == (53, PORT, len(udp))
    assert len(back.frame) == len(frame)
    assert back.mark == 0xABCD00FF & ~Mark.MASK | Mark.FROM_PROXY


def test_the_refusal_passes_on_its_way_to_the_endpoint(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    back = dns.ask(m.query("evil.org"))
    assert dns.run("to_endpoint", back.frame, mark=back.mark).passed
    assert dns.flows() == []


def test_nxdomain_where_it_is_configured(dns: DnsBench) -> None:
    dns.refusal = NXDOMAIN
    dns.configure()
    dns.rules("**.example.com")
    query = m.query("evil.org", additional=(m.opt(),))
    done = dns.ask(query)
    assert done.message == expected_refusal(query, 3)
    assert done.event is not None
    assert done.event.rcode == 3


def test_the_extended_error_says_why_and_only_where_edns_was_spoken(dns: DnsBench) -> None:
    assert DNS_REFUSED_TEXT == _REFUSED_TEXT
    dns.rules("**.example.com")
    plain = DNSRecord.parse(dns.ask(m.query("evil.org")).message)
    assert plain.ar == []
    (opt,) = DNSRecord.parse(dns.ask(m.query("evil.org", additional=(m.opt(),))).message).ar
    ((option,),) = ([(o.code, o.data) for o in opt.rdata],)
    assert option == (15, b"\0\x0f" + DNS_REFUSED_TEXT.encode())


def test_a_refusal_is_reported_with_its_name(dns: DnsBench) -> None:
    dns.rules("**.example.com")
    event = dns.ask(m.query("A.Evil.ORG", m.AAAA)).event
    assert event is not None
    assert (event.path, event.qname, event.qtype, event.rcode) == (REFUSED, "a.evil.org", m.AAAA, 5)
    assert (event.endpoint, event.client, event.server) == (
        ENDPOINT,
        (CLIENT4, PORT),
        (SERVER4, 53),
    )
    assert event.addresses == ()
    root = dns.ask(m.query("")).event
    assert root is not None
    assert root.qname == "."


# ---- the tree in the kernel, and the tree in Python ----

LABELS = st.sampled_from(["a", "b", "ab", "aab", "x1", "com", "org", "-", "_", "0"])
NAMES = st.lists(LABELS, min_size=0, max_size=6)
GLOBS = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "a*b", "com", "-", "0"])
PATTERNS = st.one_of(
    st.lists(GLOBS, min_size=1, max_size=4).map(".".join),
    st.sampled_from(["*", "**", "**.com", "*.com", "**.a.com", "**.a*.com", "a.*.com", "com"]),
)
SAME_PATH = {Action.ALLOW: ALLOWED, Action.REFUSE: REFUSED, Action.ASK: ASKED}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(PATTERNS, max_size=4, unique=True),
    st.lists(PATTERNS, max_size=3, unique=True),
    st.lists(NAMES, min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_kernel_walks_as_python_does_and_as_the_selectors_say(
    dns: DnsBench, allowed: list[str], fqdns: list[str], names: list[list[str]], draw: object
) -> None:
    dns.clear("dns_exchanges")
    dns.clear("conntrack")
    dns.rules(*allowed, fqdns=tuple(fqdns))
    rule_set = DnsRuleSet(tuple((selector(text), RULE) for text in allowed))
    selectors = [selector(text) for text in fqdns]
    nodes = compile_ruleset(rule_set, selectors)
    for at, labels in enumerate(names):
        qname = ".".join(labels)
        done = dns.ask(m.query(qname.upper() if at % 2 else qname), port=1000 + at)
        walked = walk(nodes, labels_of(qname))
        assert done.path is SAME_PATH[walked.action], qname
        true = judge(rule_set, selectors, qname or ".")
        if walked.action is not Action.ASK:
            assert walked.action is true.action
        if walked.action is Action.ALLOW:
            noted = {value.client_port: value for _, value in dns.exchanges()}[1000 + at]
            texts = [s.text for s in true.selectors]
            assert noted.identity == (dns.identity(*texts) if texts else 0)
