"""Readers of events get all of them, or are told how many they missed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.api.broker import EventBroker
from fqdnwall.api.events import Event, EventFilter, EventType, Peer
from tests.api import samples


def numbered(count: int) -> list[Event]:
    return [replace(samples.DROP, length_bytes=n) for n in range(count)]


async def drained(broker: EventBroker, subscription) -> list[Event]:
    broker.close()
    return [event async for event in subscription]


async def test_each_reader_gets_what_it_asked_for_in_order() -> None:
    broker = EventBroker()
    everything = broker.subscribe(EventFilter())
    drops = broker.subscribe(EventFilter(frozenset({EventType.DROP})))
    for event in samples.EVENTS:
        broker.publish(event)
    assert await drained(broker, everything) == list(samples.EVENTS)
    assert await drained(broker, drops) == [samples.DROP]
    assert (broker.seen, broker.lost, broker.subscribers) == (5, 0, 0)


async def test_a_waiting_reader_is_woken() -> None:
    broker = EventBroker()
    got: list[Event] = []

    async def read() -> None:
        async with broker.subscribe(EventFilter()) as subscription:
            got.append(await anext(aiter(subscription)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        broker.publish(samples.DNS)
    assert got == [samples.DNS]
    assert broker.subscribers == 0


async def test_a_reader_that_does_not_read_is_bounded_and_told() -> None:
    broker = EventBroker(capacity=4)
    subscription = broker.subscribe(EventFilter())
    sent = numbered(10)
    for event in sent:
        broker.publish(event)
    assert broker.lost == subscription.lost == 6
    got = await drained(broker, subscription)
    assert got[:4] == sent[:4]
    assert [(e.type, e.lost) for e in got[4:]] == [(EventType.LOST, 6)]


async def test_the_notice_of_a_loss_stands_where_the_events_are_missing() -> None:
    broker = EventBroker(capacity=2)
    subscription = broker.subscribe(EventFilter())
    sent = numbered(5)
    for event in sent[:4]:
        broker.publish(event)
    assert await anext(subscription) == sent[0]
    assert await anext(subscription) == sent[1]
    broker.publish(sent[4])
    got = await drained(broker, subscription)
    assert [(e.type, e.lost) for e in got] == [(EventType.LOST, 2), (EventType.DROP, 0)]


@given(st.lists(st.booleans(), max_size=60), st.integers(2, 5))
def test_what_is_read_and_what_is_told_lost_add_up(steps: list[bool], capacity: int) -> None:
    async def scenario() -> None:
        broker = EventBroker(capacity)
        subscription = broker.subscribe(EventFilter())
        published, got = 0, []
        for publish in steps:
            if publish:
                broker.publish(replace(samples.DROP, length_bytes=published))
                published += 1
            elif subscription._queue:
                got.append(await anext(subscription))
            assert len(subscription._queue) <= capacity
        got += await drained(broker, subscription)
        position = 0
        for event in got:
            if event.type is EventType.LOST:
                position += event.lost
            else:
                assert event.length_bytes == position
                position += 1
        assert position == published

    trio.run(scenario)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (replace(samples.AGENT, endpoint_id=7), True),
        (replace(samples.AGENT, source=Peer(endpoint_id=7)), True),
        (replace(samples.AGENT, destination=Peer(endpoint_id=7)), True),
        (replace(samples.AGENT, endpoint_id=8), False),
        (samples.AGENT, False),
    ],
)
def test_related_to_means_at_from_or_to_the_endpoint(event: Event, wanted: bool) -> None:
    assert EventFilter(endpoint_id=7).wants(event) is wanted


def test_a_queue_without_room_for_a_notice_is_our_bug() -> None:
    with pytest.raises(ValueError):
        EventBroker(capacity=1)
