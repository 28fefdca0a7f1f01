"""The API's paths, each a few lines between a request and the backend.

Answers are JSON, or newline-delimited JSON for the stream of events. Errors are
``{"error": what, "hint": what to do}`` with a fitting status. Request bodies and parameters are
bounded and checked here; what reaches the backend has the right types. Long lists are written in
batches with a checkpoint between, so that encoding never holds up the agent's loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TypeVar

import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fqdnwall.api.backend import Backend, BackendError, Conflict, Invalid, NotFound
from fqdnwall.api.codec import CodecError, decode, dump_bytes, loads
from fqdnwall.api.events import EventFilter, EventType
from fqdnwall.api.models import EndpointSpec, FqdnSource

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 5
MAX_MONITORS = 32
"""Streams of events at one time."""
MAX_CT_ENTRIES = 1_000_000
BATCH = 100
"""List items encoded between two checkpoints: a few milliseconds."""

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


class _RequestError(Exception):
    """A request that is wrong in itself."""

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint


def make_app(backend: Backend) -> Starlette:
    """The ASGI application. It holds no state but the number of open event streams."""
    api = _Api(backend)
    return Starlette(
        routes=[
            Route("/v1/status", api.plain(backend.status)),
            Route("/v1/endpoints", api.listing(backend.endpoints)),
            Route("/v1/endpoints", api.endpoint_add, methods=["POST"]),
            Route("/v1/endpoints/{id}", api.endpoint_get),
            Route("/v1/endpoints/{id}", api.endpoint_delete, methods=["DELETE"]),
            Route("/v1/endpoints/{id}/policy", api.policy_entries),
            Route("/v1/identities", api.listing(backend.identities)),
            Route("/v1/policies", api.listing(backend.policies)),
            Route("/v1/fqdn/cache", api.fqdn_cache),
            Route("/v1/fqdn/cache", api.fqdn_cache_clean, methods=["DELETE"]),
            Route("/v1/fqdn/names", api.listing(backend.fqdn_names)),
            Route("/v1/bpf/ct", api.ct),
            Route("/v1/bpf/ipcache", api.listing(backend.ipcache)),
            Route("/v1/bpf/learned", api.listing(backend.learned)),
            Route("/v1/bpf/progs", api.listing(backend.progs)),
            Route("/v1/bpf/maps", api.listing(backend.maps)),
            Route("/v1/events", api.events),
            Route("/v1/report", api.plain(backend.report)),
            Route("/v1/shutdown", api.shutdown, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            _RequestError: _request_error,
            BackendError: _backend_error,
            Exception: _bug,
        },
    )


class _Api:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._monitors = trio.CapacityLimiter(MAX_MONITORS)

    def plain(self, ask: Callable[[], Awaitable[object]]) -> Handler:
        async def answer(request: Request) -> Response:
            _no_query(request)
            return _json(await ask())

        return answer

    def listing(self, ask: Callable[[], Awaitable[Sequence[object]]]) -> Handler:
        async def answer(request: Request) -> Response:
            _no_query(request)
            return _list(await ask())

        return answer

    async def endpoint_add(self, request: Request) -> Response:
        spec = await _body(request, EndpointSpec)
        return _json(await self._backend.endpoint_add(spec), status=201)

    async def endpoint_get(self, request: Request) -> Response:
        return _json(await self._backend.endpoint(_id(request)))

    async def endpoint_delete(self, request: Request) -> Response:
        await self._backend.endpoint_delete(_id(request))
        return Response(status_code=204)

    async def policy_entries(self, request: Request) -> Response:
        return _list(await self._backend.policy_entries(_id(request)))

    async def fqdn_cache(self, request: Request) -> Response:
        query = _query(request, "endpoint", "pattern", "source")
        endpoint = query.get("endpoint")
        source = query.get("source")
        return _list(
            await self._backend.fqdn_cache(
                None if endpoint is None else _number("endpoint", endpoint),
                query.get("pattern"),
                None if source is None else _word("source", source, FqdnSource),
            )
        )

    async def fqdn_cache_clean(self, request: Request) -> Response:
        pattern = _query(request, "pattern").get("pattern")
        return _json({"forgotten": await self._backend.fqdn_cache_clean(pattern)})

    async def ct(self, request: Request) -> Response:
        limit = _query(request, "limit").get("limit")
        entries = MAX_CT_ENTRIES if limit is None else _number("limit", limit)
        return _list(await self._backend.ct_entries(min(entries, MAX_CT_ENTRIES)))

    async def shutdown(self, request: Request) -> Response:
        cleanup = _query(request, "cleanup").get("cleanup", "false")
        if cleanup not in ("true", "false"):
            raise _RequestError(400, f"cleanup: {cleanup!r} is not true or false")
        end = partial(self._backend.shutdown, cleanup=cleanup == "true")
        return Response(status_code=202, background=BackgroundTask(end))  # answers, then ends

    async def events(self, request: Request) -> Response:
        query = _query(request, "type", "related-to")
        words = [w for w in query.get("type", "").split(",") if w]
        related = query.get("related-to")
        wanted = EventFilter(
            frozenset(_word("type", word, EventType) for word in words),
            None if related is None else _number("related-to", related),
        )
        if wanted.endpoint_id is not None:
            await self._backend.endpoint(wanted.endpoint_id)  # an unknown one is a 404
        if self._monitors.available_tokens < 1:
            raise _RequestError(503, f"{MAX_MONITORS} monitors are open", "end one of them")
        return _EventStream(self._backend, wanted, self._monitors)


class _EventStream(Response):
    """Events as they come, a JSON object a line, until the reader or the agent ends it."""

    def __init__(
        self, backend: Backend, wanted: EventFilter, monitors: trio.CapacityLimiter
    ) -> None:
        super().__init__(media_type="application/x-ndjson")
        del self.headers["content-length"]
        self._backend = backend
        self._wanted = wanted
        self._monitors = monitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with (
            self._monitors,
            self._backend.events(self._wanted) as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_cancel_at_disconnect, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in events:
                line = dump_bytes(event) + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()


class _ListResponse(Response):
    """A JSON list, encoded in batches between which the loop goes on."""

    def __init__(self, items: Sequence[object]) -> None:
        super().__init__(media_type="application/json")
        del self.headers["content-length"]
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_disconnect, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for body in _batches(self._items):
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await trio.lowlevel.checkpoint()
            await send({"type": "http.response.body", "body": b"]", "more_body": False})
            nursery.cancel_scope.cancel()


def _batches(items: Sequence[object]) -> Iterator[bytes]:
    """The list's JSON but for its closing bracket."""
    rest = iter(items)
    lead = b"["
    while batch := list(islice(rest, BATCH)):
        yield lead + b",".join(map(dump_bytes, batch))
        lead = b","
    if lead == b"[":
        yield lead


async def _cancel_at_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _json(value: object, status: int = 200) -> Response:
    return Response(dump_bytes(value), status, media_type="application/json")


def _list(items: Sequence[object]) -> Response:
    return _json(tuple(items)) if len(items) <= BATCH else _ListResponse(items)


async def _body(request: Request, kind: type[T]) -> T:
    """The request's body as a model. Raises _RequestError."""
    try:
        with trio.fail_after(BODY_SECONDS):
            content = await _read(request)
        return decode(kind, loads(content), strict=True)
    except trio.TooSlowError:
        raise _RequestError(408, f"the body took longer than {BODY_SECONDS} s") from None
    except ClientDisconnect:
        raise _RequestError(400, "the body ended early") from None
    except CodecError as error:
        raise _RequestError(400, str(error)) from None


async def _read(request: Request) -> bytes:
    content = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                raise _RequestError(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    return bytes(content)


def _id(request: Request) -> int:
    _no_query(request)
    text = request.path_params["id"]
    if not _is_number(text):
        raise _RequestError(404, f"{text!r} is not an endpoint id", "see: fqdnwall endpoint list")
    return int(text)


def _query(request: Request, *known: str) -> dict[str, str]:
    """The query's parameters; unknown and repeated ones are errors."""
    query: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key not in known:
            raise _RequestError(400, f"unknown parameter {key!r}", f"known: {', '.join(known)}")
        if key in query:
            raise _RequestError(400, f"parameter {key!r} is given twice")
        query[key] = value
    return query


def _no_query(request: Request) -> None:
    if request.url.query:
        raise _RequestError(400, "this path takes no parameters")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _number(name: str, text: str) -> int:
    if not _is_number(text):
        raise _RequestError(400, f"{name}: {text!r} is not a number")
    return int(text)


E_ = TypeVar("E_", EventType, FqdnSource)


def _word(name: str, text: str, kind: type[E_]) -> E_:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise _RequestError(400, f"{name}: {text!r} is not one of {known}") from None


def _error(status: int, error: str, hint: str) -> Response:
    return _json({"error": error, "hint": hint}, status)


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, _RequestError)
    response = _error(error.status, error.error, error.hint)
    if error.status in (408, 413):
        response.headers["connection"] = "close"  # the rest of the body is not read
    return response


async def _backend_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BackendError)
    statuses = {NotFound: 404, Conflict: 409, Invalid: 422}
    status = next((s for kind, s in statuses.items() if isinstance(error, kind)), 503)
    return _error(status, error.message, error.hint)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "")


async def _bug(request: Request, error: Exception) -> Response:
    return _error(500, "the agent failed to answer: this is a bug in fqdnwall", "see its log")
