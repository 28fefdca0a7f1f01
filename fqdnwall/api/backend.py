"""What the API needs of the agent: one protocol, which the agent implements and tests fake."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fqdnwall.api.events import Event, EventFilter
from fqdnwall.api.models import (
    CtEntry,
    Endpoint,
    EndpointSpec,
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


class BackendError(Exception):
    """A request that cannot be carried out, with what a person can do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(BackendError):
    """What the request names does not exist (404)."""


class Conflict(BackendError):
    """It exists already, or its state forbids the request (409)."""


class Invalid(BackendError):
    """The request is well formed and asks for what cannot be (422)."""


class EventSource(Protocol):
    """An async iterator of events; ``broker.Subscription`` is one."""

    def __aiter__(self) -> EventSource: ...

    async def __anext__(self) -> Event: ...


class Backend(Protocol):
    """The agent, seen from its API. Methods raise BackendError and its kinds, nothing else.

    Lists may come in any order; the API and the CLI sort. A method must not hold up the loop:
    what walks a large map does it in a thread or in batches.
    """

    async def status(self) -> Status: ...

    async def endpoints(self) -> Sequence[Endpoint]: ...

    async def endpoint(self, endpoint_id: int) -> Endpoint: ...

    async def endpoint_add(self, spec: EndpointSpec) -> Endpoint:
        """Put it under guard; returns when the datapath is attached and policy in force."""
        ...

    async def endpoint_delete(self, endpoint_id: int) -> None: ...

    async def identities(self) -> Sequence[IdentityEntry]: ...

    async def policies(self) -> Sequence[PolicyDocument]: ...

    async def policy_entries(self, endpoint_id: int) -> Sequence[PolicyMapEntry]: ...

    async def fqdn_cache(
        self,
        endpoint_id: int | None = None,
        pattern: str | None = None,
        source: FqdnSource | None = None,
    ) -> Sequence[FqdnCacheEntry]:
        """Entries of one endpoint, of names that match a matchPattern, of one source."""
        ...

    async def fqdn_cache_clean(self, pattern: str | None = None) -> int:
        """Forget names (all, or those that match); how many were forgotten."""
        ...

    async def fqdn_names(self) -> Sequence[FqdnName]: ...

    async def ct_entries(self, limit: int) -> Sequence[CtEntry]: ...

    async def ipcache(self) -> Sequence[IpcacheEntry]: ...

    async def learned(self) -> Sequence[LearnedEntry]: ...

    async def progs(self) -> Sequence[ProgInfo]: ...

    async def maps(self) -> Sequence[MapInfo]: ...

    def events(self, wanted: EventFilter) -> AbstractAsyncContextManager[EventSource]:
        """A subscription with a bounded queue: ``return self.broker.subscribe(wanted)``."""
        ...

    async def report(self) -> Report:
        """Raises NotFound where the agent guards no command of its own (not ``run``)."""
        ...

    async def shutdown(self, *, cleanup: bool) -> None:
        """Begin to end the agent and return at once; with ``cleanup`` nothing stays in force."""
        ...
