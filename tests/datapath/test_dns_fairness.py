"""One endpoint floods the kernel's DNS; what belongs to another stays, and the other goes on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DNS_EXCHANGE_PATIENCE_SECONDS,
    DNS_EXCHANGE_PLACES,
    DNS_LEARNED_PLACES,
    DnsExchange,
    DnsLearned,
    DnsPath,
    PlaceKey,
    address_bytes,
)
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import ENDPOINT, IFINDEX, SERVER4
from tests.datapath.dnsbench import DNS_SIZES, PORT, DnsBench, exchange
from tests.datapath.places import learned_keys

pytestmark = pytest.mark.kernel

FLOODER, FLOODER4 = ENDPOINT + 1, "10.9.0.3"
QUIET, LOUD = "www.example.com", "flood.evil.example"
ADDRESSES = 64  # of one answer


@pytest.fixture
def roomy() -> Iterator[DnsBench]:
    """Maps that hold more than the share of one endpoint."""
    sizes = {**DNS_SIZES, "answers": 65536, "dns_exchanges": 4096}
    bench = DnsBench(f"test-fairness-{os.getpid()}", sizes)
    try:
        bench.configure(events_per_second=0)
        yield bench
    finally:
        bench.close()


def rules(bench: DnsBench, scope: int | None = None) -> None:
    """The same rules for both endpoints."""
    if scope is not None:
        bench.scope = scope
        bench.endpoint()
    bench.rules("**.example.com", "**.evil.example")
    bench.maps.policies.set(FLOODER, bench._policy)
    bench.own(FLOODER4, FLOODER)


class Flood:
    """What the second endpoint sends and gets, while it is behind the interface."""

    def __init__(self, bench: DnsBench) -> None:
        self._bench = bench
        self._former = bench.maps.endpoints.get(IFINDEX)
        self._out = bench.datapath.programs["from_endpoint"]
        self._in = bench.datapath.programs["to_endpoint"]
        self.truncated = 0

    def __enter__(self) -> Flood:
        info = self._bench.info(FLOODER)
        scope = self._bench.scope and FLOODER
        self._bench.maps.endpoints.put(IFINDEX, replace(info, scope=scope))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._former is not None
        self._bench.maps.endpoints.put(IFINDEX, self._former)

    def queries(self, count: int) -> None:
        """Nobody answers them."""
        for number in range(count):
            message = m.query(LOUD, ident=number & 0xFFFF)
            udp = p.udp(FLOODER4, SERVER4, PORT + (number >> 16), 53, message)
            libbpf.program_run(self._out, p.frame(FLOODER4, SERVER4, udp))

    def answers(self, count: int) -> None:
        """Each with 64 addresses that were in none before."""
        query = p.udp(FLOODER4, SERVER4, PORT, 53, m.query(LOUD))
        for number in range(count):
            libbpf.program_run(self._out, p.frame(FLOODER4, SERVER4, query))
            answer = m.Message(LOUD)
            for at in range(number * ADDRESSES, (number + 1) * ADDRESSES):
                answer.address(LOUD, f"100.{64 + (at >> 16)}.{at >> 8 & 255}.{at & 255}", 3600)
            udp = p.udp(SERVER4, FLOODER4, 53, PORT, answer.pack())
            done = libbpf.program_run(self._in, p.frame(SERVER4, FLOODER4, udp))
            self.truncated += len(done.packet) < 200


def learn(bench: DnsBench, address: str) -> DnsPath | None:
    exchange(bench, QUIET)
    return bench.answer(m.Message(QUIET).address(QUIET, address, 3600).pack()).path


def entries(bench: DnsBench, name: str) -> Counter[int]:
    """How many a map holds of each owner."""
    fd = bench.datapath.maps[name]
    return Counter(PlaceKey.unpack(key).owner for key in libbpf.keys(fd, PlaceKey.size()))


def test_a_query_in_flight_outlives_another_endpoints_flood(roomy: DnsBench) -> None:
    rules(roomy)
    exchange(roomy, QUIET)
    with Flood(roomy) as flood:
        flood.queries(12_000)
    assert entries(roomy, "dns_exchanges") == {ENDPOINT: 1, FLOODER: DNS_EXCHANGE_PLACES}
    answer = m.Message(QUIET).address(QUIET, "203.0.113.1")
    assert roomy.answer(answer.pack()).path is DnsPath.ANSWERED


def test_queries_beyond_the_share_go_to_the_proxy_and_are_counted(roomy: DnsBench) -> None:
    rules(roomy)
    with Flood(roomy) as flood:
        flood.queries(5_000)
    paths = roomy.maps.dns_counters()
    noted, crowded = paths[FLOODER, DnsPath.ALLOWED], paths[FLOODER, DnsPath.CROWDED]
    assert noted + crowded == 5_000
    assert noted == entries(roomy, "dns_exchanges")[FLOODER]


def test_half_the_share_is_in_flight_before_one_query_finds_no_place(roomy: DnsBench) -> None:
    rules(roomy)
    with Flood(roomy) as flood:
        flood.queries(DNS_EXCHANGE_PLACES // 2)
    assert entries(roomy, "dns_exchanges")[FLOODER] == DNS_EXCHANGE_PLACES // 2


def test_a_query_that_waited_long_gives_its_place_to_another(roomy: DnsBench) -> None:
    """Nobody answers, and nobody collects: the agent may be dead."""
    rules(roomy)
    with Flood(roomy) as flood:
        flood.queries(5_000)
        fd = roomy.datapath.maps["dns_exchanges"]
        for key, raw in list(libbpf.all_items(fd, PlaceKey.size(), DnsExchange.size())):
            old = DnsExchange.unpack(raw)
            sent = old.sent - (DNS_EXCHANGE_PATIENCE_SECONDS + 1) * 10**9
            libbpf.update(fd, key, replace(old, sent=sent).pack())
        before = roomy.maps.dns_counters()[FLOODER, DnsPath.ALLOWED]
        flood.queries(100)
    assert roomy.maps.dns_counters()[FLOODER, DnsPath.ALLOWED] == before + 100


@pytest.mark.parametrize("scope", [ENDPOINT, 0], ids=["endpoint", "node"])
def test_a_learned_address_outlives_another_endpoints_flood(roomy: DnsBench, scope: int) -> None:
    rules(roomy, scope)
    assert learn(roomy, "203.0.113.1") is DnsPath.ANSWERED
    with Flood(roomy) as flood:
        flood.answers(1000)
    assert (flood.truncated > 300) == (scope == ENDPOINT)
    assert set(roomy.slots("203.0.113.1")) == {roomy.identity("**.example.com")}
    assert learn(roomy, "203.0.113.2") is DnsPath.ANSWERED
    assert set(roomy.slots("203.0.113.2")) == {roomy.identity("**.example.com")}


def test_an_endpoint_learns_half_its_share_before_one_address_finds_no_place(
    roomy: DnsBench,
) -> None:
    rules(roomy)
    with Flood(roomy) as flood:
        flood.answers(DNS_LEARNED_PLACES // 2 // ADDRESSES)
    assert flood.truncated == 0
    assert entries(roomy, "answers") == {FLOODER: DNS_LEARNED_PLACES // 2}


def test_what_ran_out_makes_room_though_nobody_collects_it(roomy: DnsBench) -> None:
    rules(roomy)
    with Flood(roomy) as flood:
        flood.answers(1000)
        fd = roomy.datapath.maps["answers"]
        items = list(libbpf.all_items(fd, PlaceKey.size(), DnsLearned.size()))
        over = [(key, replace(DnsLearned.unpack(raw), expires=1).pack()) for key, raw in items]
        libbpf.update_batch(fd, over)
        flood.truncated = 0
        flood.answers(DNS_LEARNED_PLACES // 2 // ADDRESSES)
    assert flood.truncated == 0
    assert len(items) <= DNS_LEARNED_PLACES


def test_in_the_nodes_scope_one_endpoint_has_half_of_an_addresss_places(roomy: DnsBench) -> None:
    """So whoever finds addresses that meet there keeps nobody else out."""
    rules(roomy, 0)
    fd = roomy.datapath.maps["answers"]
    keys = list(learned_keys(0, address_bytes("203.0.113.1")))
    elsewhere = DnsLearned(address_bytes("100.64.0.1"), 1, ENDPOINT, 1 << 62)
    for key in keys[:4]:
        libbpf.update(fd, key, elsewhere.pack())
    assert learn(roomy, "203.0.113.1") is DnsPath.TRUNCATED
    libbpf.update(fd, keys[0], replace(elsewhere, endpoint=FLOODER).pack())
    assert learn(roomy, "203.0.113.1") is DnsPath.ANSWERED
