"""Hands events to any number of readers, and never waits for one.

Each subscription holds at most ``capacity`` events. What comes while it is full is counted, and the
reader is told how many it missed, in order, by an event of type ``lost`` before the next event that
it gets. So memory is bounded, the agent's loop is never held up, and nothing is lost silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from fqdnwall.api.events import Event, EventFilter, EventType

CAPACITY = 4096
"""Events held for one reader: up to 6 MB (1.4 kB an event), shared with other readers."""


class Subscription:
    """An async iterator over events, and a context manager that ends the subscription."""

    def __init__(
        self, wanted: EventFilter, capacity: int, on_close: Callable[[Subscription], None]
    ) -> None:
        self._wanted = wanted
        self._capacity = capacity
        self._on_close = on_close
        self._queue: deque[Event] = deque()
        self._untold = 0
        self._untold_time = ""
        self._wakeup = trio.Event()
        self._closed = False
        self.lost = 0
        """Events that this reader was too slow for, since it subscribed."""

    def offer(self, event: Event) -> bool:
        """Queue the event if it is wanted; False if it was lost."""
        if self._closed or not self._wanted.wants(event):
            return True
        room = self._capacity - len(self._queue)
        # The notice of a loss takes a place of its own, so that it keeps its place in the order.
        if room < (2 if self._untold else 1):
            self._untold += 1
            self._untold_time = event.time
            self.lost += 1
            return False
        if self._untold:
            self._queue.append(self._notice())
        self._queue.append(event)
        self._wakeup.set()
        return True

    def close(self) -> None:
        """End it: the reader gets what is queued and then the end. May be called twice."""
        if not self._closed:
            self._closed = True
            self._wakeup.set()
            self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._untold:
                return self._notice()
            if self._closed:
                raise StopAsyncIteration
            self._wakeup = trio.Event()
            await self._wakeup.wait()
        return self._queue.popleft()

    def _notice(self) -> Event:
        """The event that tells of what was lost and not yet told; they are told with it."""
        lost, self._untold = self._untold, 0
        message = f"{lost} events lost: this reader was too slow for them"
        return Event(EventType.LOST, self._untold_time, lost=lost, message=message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class EventBroker:
    """``publish`` from the agent's loop, ``subscribe`` from the API. Not for other threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2:
            raise ValueError("a subscription needs room for an event and a notice of loss")
        self._capacity = capacity
        self._subscriptions: dict[Subscription, None] = {}
        self.seen = 0
        self.lost = 0
        """Events lost by readers, all together, since the start."""

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def publish(self, event: Event) -> None:
        self.seen += 1
        for subscription in self._subscriptions:
            if not subscription.offer(event):
                self.lost += 1

    def subscribe(self, wanted: EventFilter) -> Subscription:
        subscription = Subscription(wanted, self._capacity, self._forget)
        self._subscriptions[subscription] = None
        return subscription

    def close(self) -> None:
        """End all subscriptions, so that their readers see the end of the stream."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
