"""The name cache says what a plain list of what was learned says, within its bounds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from fqdnwall.fqdn.cache import KERNEL, PROXY, Key, NameCache, Record

Address = IPv4Address | IPv6Address
ADDRESSES = [ip_address(f"10.0.0.{i}") for i in range(4)]
NAMES = ["a.com", "b.com", "c.com"]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def record(
    name: str = "a.com",
    address: Address = ADDRESSES[0],
    ends: float = 160.0,
    identity: int = 7,
    endpoint: int = 1,
    source: str = PROXY,
) -> Record:
    return Record(Key(endpoint, name, address), identity, 60, 100.0, ends, source)


def test_an_address_stands_for_each_set_of_selectors_until_the_latest_of_its_names_ends() -> None:
    cache = NameCache(Clock())
    cache.put(record("a.com", ends=110))
    cache.put(record("b.com", ends=130))
    cache.put(record("c.com", ends=120, identity=8))
    assert cache.slots((1, ADDRESSES[0])) == ((7, 130.0), (8, 120.0))


def test_the_later_expiry_holds_whichever_answer_came_last() -> None:
    cache = NameCache(Clock())
    cache.put(record(ends=150))
    cache.put(record(ends=140))
    assert cache.slots((1, ADDRESSES[0])) == ((7, 150.0),)


def test_what_ran_out_opens_nothing_and_is_told_to_be_written_again() -> None:
    clock = Clock()
    cache = NameCache(clock)
    cache.put(record(ends=150))
    cache.take_stale()
    clock.now = 150.0
    assert cache.slots((1, ADDRESSES[0])) == ()
    assert cache.take_stale() == {(1, ADDRESSES[0])}
    assert list(cache.records()) == []
    assert cache.endpoints() == ()
    assert cache.identities == set()


def test_an_answer_that_has_run_out_already_leaves_no_trace() -> None:
    cache = NameCache(Clock())
    cache.put(record(ends=100))
    assert len(cache) == 0
    assert cache.endpoints() == ()
    assert cache.take_stale() == set()


def test_of_one_name_the_address_learned_longest_ago_gives_way() -> None:
    cache = NameCache(Clock(), per_name=3)
    for address in ADDRESSES[:3]:
        cache.put(record(address=address))
    cache.put(record(address=ADDRESSES[0], ends=170))
    cache.put(record(address=ADDRESSES[3]))
    assert {r.key.address for r in cache.records()} == {ADDRESSES[i] for i in (0, 2, 3)}
    assert cache.evicted == 1


def test_of_all_records_the_least_recently_used_gives_way() -> None:
    cache = NameCache(Clock(), capacity=3)
    for name in ("a.com", "b.com", "c.com", "d.com"):
        cache.put(record(name))
    assert {r.key.name for r in cache.records()} == {"b.com", "c.com", "d.com"}
    assert cache.evicted == 1
    assert (1, ADDRESSES[0]) in cache.take_stale()


def test_what_the_kernel_learned_is_listed_and_not_written() -> None:
    cache = NameCache(Clock())
    cache.put(record(source=KERNEL))
    assert cache.slots((1, ADDRESSES[0])) == ()
    assert cache.names_of(1, ADDRESSES[0]) == ("a.com",)


def test_between_two_policies_an_address_has_both_identities() -> None:
    cache = NameCache(Clock())
    cache.put(record(identity=7))
    cache.rename(1, lambda name: 8)
    assert {identity for identity, _ in cache.slots((1, ADDRESSES[0]))} == {7, 8}
    cache.take_stale()
    cache.fade()
    assert cache.slots((1, ADDRESSES[0])) == ((8, 160.0),)
    assert cache.take_stale() == {(1, ADDRESSES[0])}


def test_a_name_that_policy_stops_speaking_of_opens_nothing() -> None:
    cache = NameCache(Clock())
    cache.put(record(identity=7))
    cache.rename(1, lambda name: 0)
    cache.fade()
    assert cache.slots((1, ADDRESSES[0])) == ()
    assert len(cache) == 1, "it is still known what the address was"


def test_names_are_told_latest_first_and_not_without_end() -> None:
    cache = NameCache(Clock())
    for number in range(100):
        cache.put(record(f"n{number}.com"))
    assert cache.names_of(1, ADDRESSES[0])[:2] == ("n99.com", "n98.com")
    assert len(cache.names_of(1, ADDRESSES[0])) == 16


def test_forgetting_is_by_key_and_counted() -> None:
    cache = NameCache(Clock())
    cache.put(record("a.com"))
    cache.put(record("b.com", ends=170))
    assert cache.forget([record("b.com").key, record("no.com").key]) == 1
    assert cache.slots((1, ADDRESSES[0])) == ((7, 160.0),)


@dataclass
class Plain:
    """What the cache promises, without its indices."""

    records: dict[Key, Record] = field(default_factory=dict)

    def put(self, new: Record, now: float) -> None:
        known = self.records.get(new.key)
        alive = known is not None and known.expires_at > now
        if new.expires_at <= now or (
            alive
            and known is not None
            and known.identity == new.identity
            and known.expires_at >= new.expires_at
        ):
            return
        self.records[new.key] = new

    def slots(self, place: tuple[int, Address], now: float) -> dict[int, float]:
        found: dict[int, float] = {}
        for r in self.records.values():
            live = r.expires_at > now and r.identity and r.source != KERNEL
            if live and (r.key.endpoint, r.key.address) == place:
                found[r.identity] = max(r.expires_at, found.get(r.identity, 0.0))
        return found


PUTS = st.tuples(
    st.just("put"),
    st.builds(
        record,
        name=st.sampled_from(NAMES),
        address=st.sampled_from(ADDRESSES),
        ends=st.integers(90, 200).map(float),
        identity=st.integers(0, 3),
        endpoint=st.integers(1, 2),
        source=st.sampled_from([PROXY, KERNEL]),
    ),
)
MOVES = st.one_of(
    PUTS,
    PUTS,
    st.tuples(st.just("time"), st.integers(1, 40)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.just("rename"), st.integers(0, 3)),
    st.tuples(st.just("take"), st.none()),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(MOVES, max_size=40))
def test_slots_are_a_function_of_what_was_learned(moves: list[tuple[str, object]]) -> None:
    clock, plain = Clock(), Plain()
    cache = NameCache(clock)
    for what, argument in moves:
        if what == "put":
            assert isinstance(argument, Record)
            cache.put(argument)
            plain.put(argument, clock.now)
        elif what == "time":
            assert isinstance(argument, int)
            clock.now += argument
        elif what == "forget":
            keys = [key for key in plain.records if key.name == argument]
            cache.forget(keys)
            for key in keys:
                del plain.records[key]
        elif what == "rename":
            assert isinstance(argument, int)
            number = argument
            cache.rename(1, lambda name, number=number: number)  # type: ignore[misc]
            cache.fade()
            for key, r in list(plain.records.items()):
                if key.endpoint == 1 and r.expires_at > clock.now and r.identity != number:
                    plain.records[key] = Record(
                        key, number, r.ttl_seconds, r.learned_at, r.expires_at, PROXY
                    )
        else:
            cache.take_stale()
        for endpoint in (1, 2):
            for address in ADDRESSES:
                place = (endpoint, address)
                assert dict(cache.slots(place)) == plain.slots(place, clock.now)
    live = {key for key, r in plain.records.items() if r.expires_at > clock.now}
    assert {r.key for r in cache.records()} == live
    clock.now = 1000.0
    cache.take_stale()
    assert (cache.endpoints(), len(cache), set(cache.identities)) == ((), 0, set())
    assert not cache._by_place
    assert not cache._latest
    assert not cache._unsure


def test_a_hundred_thousand_names_on_one_address_cost_a_query_no_time() -> None:
    clock = Clock()
    cache = NameCache(clock, capacity=100_000)
    place = (1, ADDRESSES[0])
    for number in range(20_000):
        cache.put(record(f"n{number}.com", ends=200.0 + number))
    began = time.perf_counter()
    for number in range(200):
        cache.put(record(f"n{number}.com", ends=90_000.0 + number))
        assert cache.slots(place)
        assert cache.names_of(1, ADDRESSES[0])
    assert time.perf_counter() - began < 0.5, "a walk over all names each time takes seconds"
