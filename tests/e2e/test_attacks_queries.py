"""What a container can ask: no form of a query carries a refused name to a server, by either path.

The queries are those that the kernel's program and the proxy's reader are tested with one by one;
what counts here is what reaches the server.
"""

from __future__ import annotations

import pytest

from dnsproxy.reader import Malformed, read_query
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.test_dns_query import ODD_MESSAGES, ODD_NAMES, long_name
from tests.dnsproxy.test_reader import BAD_QUERIES
from tests.e2e.nameserver import STRANGER_V4, V4, V6, Victim, addresses_in, rcode

NAME, EVIL = "www.example.com", "www.example.org"
REFUSED = 5
QUERIES = {f"kernel: {title}": query for title, query in ODD_MESSAGES.items()}
QUERIES |= {f"kernel: {title}": m.query(wire) for title, wire in ODD_NAMES.items()}
QUERIES |= {f"proxy: {title}": query for title, query in BAD_QUERIES.items()}


def readable(query: bytes) -> bool:
    try:
        read_query(query)
    except Malformed:
        return False
    return True


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_what_has_a_second_reading_is_not_passed_on(victim: Victim, query: bytes) -> None:
    """Nor is a refused name in the place of the allowed one; what can be read may pass."""
    evil = query.replace(m.name(NAME), m.name(EVIL))
    with victim.client() as udp:
        victim.never_asks(udp, *({evil} - {query}), *(() if readable(query) else (query,)))


REFUSED_NAMES = {
    "another suffix": m.name(EVIL),
    "the suffix alone": m.name("example.com"),
    "the suffix inside": m.name("www.example.com.evil.org"),
    "the suffix without its dot": m.name("wwwexample.com"),
    "in capitals": m.name("WWW.EXAMPLE.ORG"),
    "the root": b"\0",
    "a dot in a label": b"\x0bwww.example\x03com\0",
    "a trailing dot in the last label": b"\x03www\x07example\x04com.\0",
    "an empty label, and the rest behind": b"\x03www\0\x07example\x03com\0",
    "a label of 64 octets": b"\x40" + b"a" * 64 + m.name("example.com"),
    "256 octets": m.name(long_name(256, "example.com")),
    "longer than its key, and another suffix": m.name(long_name(255, "example.org")),
    "a star where the pattern has one, two labels": m.name("sta.r.example.net"),
    "the proxy's pattern and another suffix": m.name("star.example.org"),
    "one letter short of the pattern": m.name("sta.example.net"),
}


@pytest.mark.parametrize("wire", REFUSED_NAMES.values(), ids=REFUSED_NAMES)
@pytest.mark.parametrize("server", [V4, V6], ids=["v4", "v6"])
def test_a_refused_name_is_never_asked(victim: Victim, wire: bytes, server: str) -> None:
    with victim.client(server) as udp:
        udp.send(m.query(wire, ident=victim.ident(), additional=(m.opt(),)))
        assert rcode(udp.recv(65535)) != 0
        victim.never_asks(udp, m.query(wire, m.AAAA), m.query(wire, m.HTTPS), m.query(wire, m.ANY))


ALLOWED_NAMES = {
    "0x20": "wWw.ExAmPlE.cOm",
    "capitals": "WWW.EXAMPLE.COM",
    "a label of 63 octets": "a" * 63 + ".example.com",
    "as long as the kernel's key": long_name(249, "example.com"),
    "longer than the kernel's key": long_name(252, "example.com"),
    "255 octets": long_name(255, "example.com"),
    "a star inside a label": "star.example.net",
    "the same in capitals": "STAR.EXAMPLE.NET",
}


@pytest.mark.parametrize("name", ALLOWED_NAMES.values(), ids=ALLOWED_NAMES)
def test_an_allowed_name_is_asked_and_its_address_opens(victim: Victim, name: str) -> None:
    """As it was written; the server may answer in another case, the client's comes back."""
    address = victim.address()
    query = m.query(name, ident=victim.ident())
    with victim.client() as udp:
        udp.send(query)
        asked = victim.server.take()
        assert asked.payload[12 : len(query)].lower() == query[12:].lower()
        asked.say(m.Message(name.swapcase()).address(name.swapcase(), address).pack())
        assert addresses_in(victim.hears(udp, query)) == {address}
    assert victim.opened(address) == {address}


def test_names_that_differ_in_their_first_label_only_are_different_names(victim: Victim) -> None:
    """The first label stands last in the kernel's key, and a long name overruns it."""
    for octets in (247, 248, 249, 250, 255):
        allowed, refused = (long_name(octets, suffix) for suffix in ("example.com", "example.net"))
        victim.learn(allowed, victim.address())
        with victim.client() as udp:
            udp.send(m.query(refused, ident=victim.ident()))
            assert rcode(udp.recv(65535)) == REFUSED


# ---- raw packets ----


def query_packet(victim: Victim, source: str, name: str) -> p.L4:
    server = V6 if ":" in source else V4
    return p.udp(source, server, 40000 + victim.ident() % 1000, 53, m.query(name))


def test_a_query_in_ones_own_name_is_passed_on(victim: Victim) -> None:
    """Else what follows would prove nothing."""
    source = victim.box.address_v4
    victim.from_box(p.ipv4(source, V4, query_packet(victim, source, NAME)))
    assert victim.server.take().payload[12:] == m.query(NAME)[12:]


@pytest.mark.parametrize("name", [NAME, EVIL])
def test_a_query_in_anothers_name_is_not_passed_on(victim: Victim, name: str) -> None:
    """The neighbour's address, the host's, nobody's and the server's own."""
    gateway = victim.box.address_v4.rsplit(".", 1)[0] + ".1"
    for source in (victim.neighbour.address_v4, gateway, "192.0.2.77", V4, "127.0.0.1"):
        victim.from_box(p.ipv4(source, V4, query_packet(victim, source, name)))
    source = victim.neighbour.address_v6
    victim.from_box(p.ipv6(source, V6, query_packet(victim, source, name)))
    for server in (V4, V6):
        with victim.client(server) as udp:
            victim.next_is_honest(udp)


@pytest.mark.parametrize("first", [8, 16, 24, 40])
@pytest.mark.parametrize("name", [NAME, EVIL])
def test_a_query_in_fragments_is_not_passed_on(victim: Victim, name: str, first: int) -> None:
    for source, server in ((victim.box.address_v4, V4), (victim.box.address_v6, V6)):
        l4 = query_packet(victim, source, name)
        for frame in p.fragments(source, server, l4, first=first, identification=victim.ident()):
            victim.from_box(frame[14:])
        with victim.client(server) as udp:
            victim.next_is_honest(udp)


HEADERS = {
    "hop-by-hop options": lambda l4: p.extension(p.HOP_BY_HOP, l4),
    "destination options": lambda l4: p.extension(p.DESTINATION, l4),
    "long destination options": lambda l4: p.extension(p.DESTINATION, l4, words=30),
    "several headers": lambda l4: p.extension(
        p.HOP_BY_HOP, p.extension(p.DESTINATION, p.extension(p.DESTINATION, l4))
    ),
    "a routing header": lambda l4: p.routing(l4, segments_left=1),
    "a fragment header alone": lambda l4: p.fragment_header(l4, 7),
}


@pytest.mark.parametrize("header", HEADERS)
def test_extension_headers_hide_no_name(victim: Victim, header: str) -> None:
    source = victim.box.address_v6
    l4 = HEADERS[header](query_packet(victim, source, EVIL))
    victim.from_box(p.ipv6(source, V6, l4))
    with victim.client(V6) as udp:
        victim.next_is_honest(udp)


def test_ipv4_options_hide_no_name(victim: Victim) -> None:
    source = victim.box.address_v4
    for options in (b"\1" * 4, b"\x94\4\0\0", b"\x07\x07\4\0\0\0\0\0"):
        l4 = query_packet(victim, source, EVIL)
        victim.from_box(p.ipv4(source, V4, l4, options=options))
    with victim.client() as udp:
        victim.next_is_honest(udp)


def test_a_server_that_policy_does_not_name_is_not_asked(victim: Victim) -> None:
    stranger = victim.server.udp[STRANGER_V4]
    with victim.client(STRANGER_V4) as udp:
        udp.send(m.query(NAME))
    with victim.client() as udp:
        victim.next_is_honest(udp)
    stranger.setblocking(False)
    with pytest.raises(BlockingIOError):
        stranger.recv(65535)


# ---- floods ----

FLOOD = 4000


def test_a_flood_of_refused_names_costs_no_allowed_name_its_place(victim: Victim) -> None:
    """Half of them under a pattern that only the proxy can judge, which then teaches the kernel."""
    victim.learn("steer.example.net", victim.address())
    with victim.client() as udp:
        udp.setblocking(False)
        for number in range(FLOOD):
            suffix = "example.net" if number % 2 else "example.org"
            try:
                udp.send(m.query(f"flood{number}.{suffix}", ident=number))
                udp.recv(65535)
            except BlockingIOError:
                continue
    address = victim.address()
    victim.learn("steer.example.net", address)
    assert victim.opened(address) == {address}
    with victim.client() as udp:
        victim.never_asks(udp, m.query("flood1.example.net"))
