"""An agent without a kernel: a Backend with fixed answers, served on a real socket in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from fqdnwall.api.backend import Conflict, Invalid, NotFound
from fqdnwall.api.broker import EventBroker, Subscription
from fqdnwall.api.events import EventFilter
from fqdnwall.api.models import (
    CtEntry,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Enforcement,
    FqdnCacheEntry,
    FqdnName,
    FqdnSource,
    IdentityEntry,
    IpcacheEntry,
    LearnedEntry,
    MapInfo,
    PolicyDocument,
    PolicyMapEntry,
    ProgInfo,
    Status,
)
from fqdnwall.api.report import Report
from fqdnwall.api.server import serve
from tests.api import samples


@dataclass
class FakeBackend:
    """Answers from ``samples``; records what it was asked to change."""

    broker: EventBroker = field(default_factory=EventBroker)
    held: dict[int, Endpoint] = field(default_factory=lambda: {e.id: e for e in samples.ENDPOINTS})
    ct: Sequence[CtEntry] = samples.CT
    the_status: Status = samples.STATUS
    the_report: Report | None = samples.REPORT
    asked: list[tuple[object, ...]] = field(default_factory=list)
    bug: bool = False
    on_shutdown: Callable[[], None] = lambda: None

    async def status(self) -> Status:
        if self.bug:
            raise ZeroDivisionError
        return self.the_status

    async def endpoints(self) -> Sequence[Endpoint]:
        return tuple(reversed(self.held.values()))

    async def endpoint(self, endpoint_id: int) -> Endpoint:
        try:
            return self.held[endpoint_id]
        except KeyError:
            raise NotFound(
                f"there is no endpoint {endpoint_id}", "see: fqdnwall endpoint list"
            ) from None

    async def endpoint_add(self, spec: EndpointSpec) -> Endpoint:
        self.asked.append(("add", spec))
        if spec.interface == "lo":
            raise Invalid("lo is not one side of a veth pair", "name the host's side")
        if any(spec.name == e.name for e in self.held.values()):
            raise Conflict(f"endpoint {spec.name} exists", "delete it first")
        added = Endpoint(
            99,
            spec.name,
            spec.namespace,
            spec.labels,
            4242,
            EndpointState.READY,
            spec.interface or "veth99",
            ("10.0.0.99",),
            Enforcement.DISABLED,
            Enforcement.ENABLED,
        )
        self.held[99] = added
        return added

    async def endpoint_delete(self, endpoint_id: int) -> None:
        await self.endpoint(endpoint_id)
        del self.held[endpoint_id]

    async def identities(self) -> Sequence[IdentityEntry]:
        return tuple(reversed(samples.IDENTITIES))

    async def policies(self) -> Sequence[PolicyDocument]:
        return samples.POLICIES

    async def policy_entries(self, endpoint_id: int) -> Sequence[PolicyMapEntry]:
        await self.endpoint(endpoint_id)
        return [replace(e, endpoint_id=endpoint_id) for e in samples.POLICY_ENTRIES]

    async def fqdn_cache(
        self,
        endpoint_id: int | None = None,
        pattern: str | None = None,
        source: FqdnSource | None = None,
    ) -> Sequence[FqdnCacheEntry]:
        self.asked.append(("cache", endpoint_id, pattern, source))
        return [e for e in samples.CACHE if endpoint_id in (None, e.endpoint_id)]

    async def fqdn_cache_clean(self, pattern: str | None = None) -> int:
        self.asked.append(("clean", pattern))
        if pattern == "a..b":
            raise Invalid("'a..b' is not a pattern", "write a matchPattern")
        return len(samples.CACHE)

    async def fqdn_names(self) -> Sequence[FqdnName]:
        return samples.NAMES

    async def ct_entries(self, limit: int) -> Sequence[CtEntry]:
        return self.ct[:limit]

    async def ipcache(self) -> Sequence[IpcacheEntry]:
        return samples.IPCACHE

    async def learned(self) -> Sequence[LearnedEntry]:
        return samples.LEARNED

    async def progs(self) -> Sequence[ProgInfo]:
        return samples.PROGS

    async def maps(self) -> Sequence[MapInfo]:
        return samples.STATUS.maps

    def events(self, wanted: EventFilter) -> Subscription:
        return self.broker.subscribe(wanted)

    async def report(self) -> Report:
        if self.the_report is None:
            raise NotFound("this agent guards no command", "only fqdnwall run has a report")
        return self.the_report

    async def shutdown(self, *, cleanup: bool) -> None:
        self.asked.append(("shutdown", cleanup))
        self.on_shutdown()


@dataclass
class LiveAgent:
    """A served backend. ``call`` runs a function in its loop."""

    path: Path
    backend: FakeBackend
    call: Callable[..., object]
    stop: Callable[[], None]
    """Cancel it, and wait for its end."""
    wait: Callable[[], None]
    """Wait for it to end by itself."""


@contextmanager
def live_agent(path: Path, backend: FakeBackend | None = None) -> Iterator[LiveAgent]:
    """Serve the backend on a socket at the path until the block ends."""
    backend = backend or FakeBackend()
    started = threading.Event()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []
    failures: list[BaseException] = []

    async def main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, backend, path)
                started.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)

    def call(function: Callable[..., object], *args: object) -> object:
        return trio.from_thread.run_sync(function, *args, trio_token=token[0])

    def wait() -> None:
        thread.join(10)
        assert not thread.is_alive(), "the API did not end"

    def stop() -> None:
        if thread.is_alive():
            with suppress(trio.RunFinishedError):
                call(scope.cancel)
        wait()

    # What ends the agent from within its own loop must not wait for that loop.
    backend.on_shutdown = scope.cancel
    try:
        if failures:
            raise failures[0]
        yield LiveAgent(path, backend, call, stop, wait)
    finally:
        stop()
    if failures:
        raise failures[0]
