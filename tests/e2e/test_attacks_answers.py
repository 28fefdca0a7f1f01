"""What a name server, or somebody in its name, can say: lies open nothing, by either path.

The messages are those that the kernel's program and the proxy's reader are tested with one by one;
here each goes through both whole paths, and what counts is what the client can reach afterwards.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from dnsproxy.reader import Malformed, read_answer
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.test_dns_answer import ODD_ANSWERS
from tests.dnsproxy.test_reader import BAD_ANSWERS
from tests.e2e.nameserver import STRANGER_V4, V4, V6, Victim, addresses_in, rcode, socket_in
from tests.lab import world

NAME = "www.example.com"
EXAMPLES = ("203.0.113.1", "203.0.113.2", "192.0.2.1")
"""What stands for an address in those messages."""
REFUSED = 5
ANSWERS = {f"kernel: {title}": message for title, message in ODD_ANSWERS.items()}
ANSWERS |= {f"proxy: {title}": message for title, message in BAD_ANSWERS.items()}


def strict(message: bytes) -> set[str]:
    """The addresses of the strict reading; none where it refuses."""
    try:
        found = read_answer(message, message.index(b"\0", 12) + 5).addresses
    except Malformed:
        return set()
    return {str(address) for address, _ in found}


@pytest.mark.parametrize("message", ANSWERS.values(), ids=ANSWERS)
def test_an_odd_answer_opens_what_the_strict_reading_delivers_and_nothing_else(
    victim: Victim, message: bytes
) -> None:
    fresh = [victim.address() for _ in EXAMPLES]
    for example, address in zip(EXAMPLES, fresh, strict=True):
        message = message.replace(ip_address(example).packed, ip_address(address).packed)
    got = victim.converse(m.query(NAME, ident=victim.ident()), message)
    assert victim.opened(*fresh) == addresses_in(got) & strict(message)


@pytest.mark.parametrize("section", [1, 2], ids=["authority", "additional"])
def test_addresses_outside_the_answer_section_open_nothing(victim: Victim, section: int) -> None:
    good, bad = victim.address(), victim.address()
    message = m.Message(NAME).address(NAME, good)
    message.address("ns.example.com" if section == 1 else NAME, bad, section=section)
    victim.converse(m.query(NAME, ident=victim.ident()), message.pack())
    assert victim.opened(good, bad) == {good}


def test_a_chain_opens_its_addresses_and_none_of_its_names(victim: Victim) -> None:
    """What the asked name leads to is the asked name's; the names on the way stay refused."""
    address = victim.address()
    chain = m.Message(NAME).cname(NAME, "unlisted.example.org").address(
        "unlisted.example.org", address
    )  # fmt: skip
    got = victim.converse(m.query(NAME, ident=victim.ident()), chain.pack())
    assert addresses_in(got) == {address}
    assert victim.opened(address) == {address}
    with victim.client() as udp:
        udp.send(m.query("unlisted.example.org", ident=victim.ident()))
        assert rcode(udp.recv(65535)) == REFUSED
        victim.next_is_honest(udp)


def test_a_loop_of_aliases_is_an_answer_without_an_address(victim: Victim) -> None:
    address = victim.address()
    loop = m.Message(NAME).cname(NAME, "a.example.com").cname("a.example.com", NAME)
    loop.address("b.example.com", address)
    victim.converse(m.query(NAME, ident=victim.ident()), loop.pack())
    assert victim.opened(address) == set()


@pytest.mark.parametrize("count", [64, 65, 200])
def test_of_many_addresses_none_is_delivered_that_is_not_open(victim: Victim, count: int) -> None:
    addresses = [victim.address() for _ in range(count)]
    message = m.Message(NAME)
    for address in addresses:
        message.address(NAME, address)
    got = victim.converse(m.query(NAME, ident=victim.ident()), message.pack())
    delivered = addresses_in(got)
    assert victim.opened(*addresses) == delivered
    if not delivered:
        assert got[2] & 0x02, "truncated, so that the client asks over TCP"
    if count <= 64:
        assert delivered == set(addresses)


def test_an_answer_in_fragments_opens_what_it_delivers(victim: Victim) -> None:
    addresses = [victim.address() for _ in range(8)]
    message = m.Message(NAME)
    for address in addresses:
        message.address(NAME, address)
    message.add(NAME, m.TXT, 60, b"\xff" + b"x" * 255 + b"\xff" + b"x" * 255)
    message.raw(m.record(m.QUESTION, m.TXT, 60, (b"\xff" + b"x" * 255) * 12))
    query = m.query(NAME, ident=victim.ident(), additional=(m.opt(size=8192),))
    got = victim.converse(query, message.pack())
    delivered = addresses_in(got)
    assert delivered <= victim.opened(*addresses)
    assert delivered or got[2] & 0x02, "truncated, so that the client asks over TCP"


# ---- somebody else's answers ----


def reply(
    ident: int, *, qname: str = NAME, qtype: int = m.A, address: str, flags: int = 0
) -> bytes:
    return m.Message(qname, qtype, ident, m.QR | m.RD | flags).address(qname, address).pack()


Forgery = Callable[[int, int, str], tuple[str, int, int, bytes]]
FORGERIES: dict[str, Forgery] = {
    # (id, client's port, address) to (source, source port, target port, message)
    "another id": lambda i, port, a: (V4, 53, port, reply(i ^ 1, address=a)),
    "another port of the client": lambda i, port, a: (V4, 53, port ^ 1, reply(i, address=a)),
    "another port of the server": lambda i, port, a: (V4, 5353, port, reply(i, address=a)),
    "another server": lambda i, port, a: (STRANGER_V4, 53, port, reply(i, address=a)),
    "another name": lambda i, port, a: (
        V4, 53, port, reply(i, qname="api.example.com", address=a)
    ),
    "another type": lambda i, port, a: (V4, 53, port, reply(i, qtype=m.AAAA, address=a)),
    "a query's flags": lambda i, port, a: (
        V4, 53, port, m.Message(NAME, m.A, i, m.RD).address(NAME, a).pack()
    ),
    "two questions": lambda i, port, a: (
        V4, 53, port,
        m.header(i, m.QR, (2, 1, 0, 0)) + reply(i, address=a)[12:],
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_answer_opens_nothing_and_spoils_nothing(victim: Victim, forgery: Forgery) -> None:
    query, good, bad = m.query(NAME, ident=victim.ident()), victim.address(), victim.address()
    with victim.client() as udp:
        udp.send(query)
        asked = victim.server.take()
        ident = int.from_bytes(query[:2], "big")
        assert not victim.to_box(datagram(victim, *forgery(ident, udp.getsockname()[1], bad)))
        asked.say(reply(0, address=good))
        assert addresses_in(victim.hears(udp, query)) == {good}
    assert victim.opened(good, bad) == {good}


def datagram(victim: Victim, source: str, port: int, target: int, message: bytes) -> bytes:
    """A packet to the container."""
    box = victim.box.address_v4
    return p.ipv4(source, box, p.udp(source, box, port, target, message))


def test_what_a_forger_sends_does_arrive(victim: Victim) -> None:
    """Else the forgeries would prove nothing."""
    with socket_in(victim.box.namespace, socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", 7))
        assert victim.to_box(datagram(victim, STRANGER_V4, 53, 7, b"arrived"))
        assert udp.recv(100) == b"arrived"


def test_in_the_proxys_place_nobody_can_answer_at_all(victim: Victim) -> None:
    """A forgery that is right in every field is the server's answer to the kernel, as it would be
    to any client; where the proxy asked for the client, it knows better."""
    query, good, forged = m.query(NAME, ident=victim.ident()), victim.address(), victim.address()
    with victim.client() as udp:
        udp.send(query)
        asked = victim.server.take()
        right = query[:2] + reply(0, address=forged)[2:]
        passed = victim.to_box(datagram(victim, V4, 53, udp.getsockname()[1], right))
        asked.say(reply(0, address=good))
        heard = addresses_in(victim.hears(udp, query))
    assert passed is (victim.path == "kernel")
    assert heard == ({forged} if passed else {good})
    assert victim.opened(good, forged) == heard


WRONG: dict[str, Callable[[bytes, str], bytes]] = {
    # (the server's query, address) to octets
    "another id": lambda q, a: bytes([q[0], q[1] ^ 1]) + reply(0, address=a)[2:],
    "another name": lambda q, a: q[:2] + reply(0, qname="api.example.com", address=a)[2:],
    "a longer name": lambda q, a: q[:2] + reply(0, qname=f"a.{NAME}", address=a)[2:],
    "another type": lambda q, a: q[:2] + reply(0, qtype=m.AAAA, address=a)[2:],
    "no question": lambda q, a: q[:2] + m.header(0, m.QR, (0, 1, 0, 0))[2:] + m.address(
        m.name(NAME), a
    ),
    "another opcode": lambda q, a: q[:2] + reply(0, address=a, flags=4 << 11)[2:],
    "a query": lambda q, a: q,
    "half a header": lambda q, a: q[:7],
    "nothing": lambda q, a: b"",
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_of_the_servers_own_answers_only_the_right_one_counts(
    victim: Victim, wrong: Callable[[bytes, str], bytes]
) -> None:
    query, good, bad = m.query(NAME, ident=victim.ident()), victim.address(), victim.address()
    with victim.client() as udp:
        udp.send(query)
        asked = victim.server.take()
        asked.raw(wrong(asked.payload, bad))
        asked.say(reply(0, address=good))
        assert addresses_in(victim.hears(udp, query)) == {good}
    assert victim.opened(good, bad) == {good}


def test_an_answer_without_a_query_and_a_second_answer_are_nobodys(victim: Victim) -> None:
    query, good = m.query(NAME, ident=victim.ident()), victim.address()
    early, second, late = victim.address(), victim.address(), victim.address()
    with victim.client() as udp:
        port = udp.getsockname()[1]

        def forge(address: str) -> bool:
            message = query[:2] + reply(0, address=address)[2:]
            return victim.to_box(datagram(victim, V4, 53, port, message))

        assert not forge(early)
        udp.send(query)
        asked = victim.server.take()
        asked.say(reply(0, address=good))
        asked.say(reply(0, address=second))
        assert addresses_in(victim.hears(udp, query)) == {good}
        assert not forge(late)
        victim.next_is_honest(udp)
    assert victim.opened(good, early, second, late) == {good}


def test_where_anybody_may_send_what_nobody_asked_for_opens_nothing(victim: Victim) -> None:
    """Under a policy that says nothing of what comes in, stray answers reach the container."""
    victim = victim.other
    query = m.query(NAME, ident=victim.ident())
    early, second, late = victim.address(), victim.address(), victim.address()
    with victim.client() as udp:
        port = udp.getsockname()[1]

        def forge(address: str, flip: int = 0) -> None:
            message = bytes([query[0], query[1] ^ flip]) + reply(0, address=address)[2:]
            victim.to_box(datagram(victim, V4, 53, port, message))

        forge(early)
        udp.send(query)
        forge(second, flip=1)
        asked = victim.server.take()
        asked.say(reply(0, address=victim.address()))
        victim.hears(udp, query)
        forge(late)
    assert victim.opened(early, second, late) == set()


def test_a_second_answer_where_anybody_may_send_lets_no_refused_name_out(victim: Victim) -> None:
    """A container can have it sent: by asking an allowed name twice under one id."""
    victim = victim.other
    query, last = m.query(NAME, ident=victim.ident()), m.query(NAME, ident=victim.ident())
    with victim.client() as udp:
        for _ in range(2):
            udp.send(query)
        for _ in range(2):
            victim.server.take().say(reply(0, address=victim.address()))
        victim.hears(udp, query)
        if victim.path == "kernel":
            victim.hears(udp, query)
        udp.send(m.query("www.example.org", ident=victim.ident()))
        udp.send(last)
        arrived = [victim.server.take().payload[12:]]
        while arrived[-1] != last[12:]:
            arrived.append(victim.server.take().payload[12:])
    assert arrived == [last[12:]]


def test_a_stray_datagram_where_anybody_may_send_spoils_no_answer(victim: Victim) -> None:
    victim = victim.other
    query, good = m.query(NAME, ident=victim.ident()), victim.address()
    with victim.client() as udp:
        udp.send(query)
        victim.to_box(datagram(victim, V4, 53, udp.getsockname()[1], b"stray"))
        victim.server.take().say(reply(0, address=good))
        assert addresses_in(victim.hears(udp, query)) == {good}
    assert victim.opened(good) == {good}


def test_a_neighbour_cannot_answer_in_the_servers_name(victim: Victim) -> None:
    """Its packets carry its own address or none."""
    query, good, bad = m.query(NAME, ident=victim.ident()), victim.address(), victim.address()
    with victim.client() as udp:
        udp.send(query)
        asked = victim.server.take()
        forged = query[:2] + reply(0, address=bad)[2:]
        victim.other.from_box(datagram(victim, V4, 53, udp.getsockname()[1], forged))
        asked.say(reply(0, address=good))
        assert addresses_in(victim.hears(udp, query)) == {good}
    assert victim.opened(good, bad) == {good}


# ---- whose addresses, and for how long ----


def test_no_name_opens_the_host_or_a_neighbour(victim: Victim) -> None:
    """Rebinding: an allowed name whose server answers with what is behind the guard."""
    neighbour = victim.neighbour
    gateway = neighbour.address_v4.rsplit(".", 1)[0] + ".1"
    inside = [neighbour.address_v4, gateway, str(world.HOST_V4)]
    good = victim.address()
    with ExitStack() as listening:
        for namespace in (neighbour.namespace, victim.node.lab.host):
            with namespace.entered():
                listening.enter_context(socket.create_server(("0.0.0.0", 80)))
        victim.learn(f"rebind{victim.ident()}.example.com", *inside, good)
        assert victim.opened(good) == {good}
        assert victim.opened(*inside) == set()


def test_times_to_live_at_their_ends(victim: Victim) -> None:
    """Nought lives the configured second, the top bit is nought (RFC 2181 §8), and 68 years are."""
    brief = {victim.address(): ttl for ttl in (0, 1 << 31, (1 << 32) - 1)}
    lasting = {victim.address(): ttl for ttl in (60, (1 << 31) - 1)}
    for address, ttl in (brief | lasting).items():
        victim.learn(f"n{victim.ident()}.example.com", address, ttl=ttl)
        assert victim.opened(address) == {address}
    victim.until_closed(brief)
    assert victim.opened(*lasting) == set(lasting)


def test_what_a_neighbour_learned_opens_nothing_for_another(victim: Victim) -> None:
    address = victim.address()
    victim.learn(f"n{victim.ident()}.example.com", address)
    assert victim.opened(address) == {address}
    assert victim.opened(address, namespace=victim.neighbour.namespace) == set()


def test_the_same_over_ipv6(victim: Victim) -> None:
    address = str(world.FRESH_V6[0x8000 + victim.ident()])
    name = f"six{victim.ident()}.example.com"
    message = m.Message(name, m.AAAA).address(name, address).pack()
    got = victim.converse(m.query(name, m.AAAA, ident=victim.ident()), message, V6)
    assert addresses_in(got) == {address}
    assert victim.opened(address, str(world.OPEN_ADDRESS_V6)) == {address}
