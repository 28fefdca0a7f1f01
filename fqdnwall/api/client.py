"""Calls the agent's API: synchronous, standard library only, quick to import.

Every failure is an ``ApiError`` that says what happened and, in ``hint``, what to do about it.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

from fqdnwall.api.codec import CodecError, Json, decode, dump_bytes, loads
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
from fqdnwall.api.sockets import DEFAULT_SOCKET, RUN_DIR, candidates, live_sockets

TIMEOUT_SECONDS = 30
START_HINT = (
    "start it: fqdnwall agent --policy-dir DIR, or guard one command: fqdnwall run -- CMD; "
    "with --socket PATH if it listens elsewhere"
)
MAX_EVENT_BYTES = 1 << 20

T = TypeVar("T")
Query = dict[str, str]


class ApiError(Exception):
    """A call that failed: what happened, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class AgentNotRunning(ApiError):
    """Nobody listens at the socket."""


class Forbidden(ApiError):
    """The socket is not for this user."""


class Ambiguous(ApiError):
    """Several agents run, and none of them is the default."""


class Refused(ApiError):
    """The agent answered with an error; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


class BrokenAnswer(ApiError):
    """The agent ended in the middle, or what answers is not (this version of) an agent."""


def find_socket(default: Path = DEFAULT_SOCKET, run_dir: Path = RUN_DIR) -> Path:
    """The agent's socket, or that of the one command under guard. Raises AgentNotRunning or
    Ambiguous."""
    live = live_sockets(default, run_dir)
    if default in live:
        return default
    if len(live) == 1:
        return live[0]
    if live:
        listed = ", ".join(map(str, live))
        raise Ambiguous(f"{len(live)} commands are under guard", f"choose by --socket: {listed}")
    dead = candidates(default, run_dir)
    if dead:
        raise AgentNotRunning(f"no agent is running: {dead[0]} is left of one", START_HINT)
    raise AgentNotRunning(f"no agent is running: there is no {default}", START_HINT)


class AgentClient:
    """One agent, one connection a call. Use as a context manager or as it is."""

    def __init__(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.path = path
        self._timeout_seconds = timeout_seconds

    def status(self) -> Status:
        return decode(Status, self._get("/v1/status"))

    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._list("/v1/endpoints", Endpoint)

    def endpoint(self, endpoint_id: int) -> Endpoint:
        return self._one(Endpoint, "GET", f"/v1/endpoints/{endpoint_id}")

    def endpoint_add(self, spec: EndpointSpec) -> Endpoint:
        return self._one(Endpoint, "POST", "/v1/endpoints", dump_bytes(spec))

    def endpoint_delete(self, endpoint_id: int) -> None:
        self._call("DELETE", f"/v1/endpoints/{endpoint_id}")

    def identities(self) -> tuple[IdentityEntry, ...]:
        return self._list("/v1/identities", IdentityEntry)

    def policies(self) -> tuple[PolicyDocument, ...]:
        return self._list("/v1/policies", PolicyDocument)

    def policy_entries(self, endpoint_id: int) -> tuple[PolicyMapEntry, ...]:
        return self._list(f"/v1/endpoints/{endpoint_id}/policy", PolicyMapEntry)

    def fqdn_cache(
        self,
        endpoint_id: int | None = None,
        pattern: str | None = None,
        source: FqdnSource | None = None,
    ) -> tuple[FqdnCacheEntry, ...]:
        query = _query(endpoint=endpoint_id, pattern=pattern, source=source)
        return self._list("/v1/fqdn/cache", FqdnCacheEntry, query)

    def fqdn_cache_clean(self, pattern: str | None = None) -> int:
        """Forget names (all, or those that match the pattern); how many were forgotten."""
        answer = self._call("DELETE", "/v1/fqdn/cache", query=_query(pattern=pattern))
        forgotten = answer.get("forgotten") if isinstance(answer, dict) else None
        if not isinstance(forgotten, int):
            raise self._broken("DELETE /v1/fqdn/cache gave no count")
        return forgotten

    def fqdn_names(self) -> tuple[FqdnName, ...]:
        return self._list("/v1/fqdn/names", FqdnName)

    def ct_entries(self, limit: int | None = None) -> tuple[CtEntry, ...]:
        return self._list("/v1/bpf/ct", CtEntry, _query(limit=limit))

    def ipcache(self) -> tuple[IpcacheEntry, ...]:
        return self._list("/v1/bpf/ipcache", IpcacheEntry)

    def learned(self) -> tuple[LearnedEntry, ...]:
        return self._list("/v1/bpf/learned", LearnedEntry)

    def progs(self) -> tuple[ProgInfo, ...]:
        return self._list("/v1/bpf/progs", ProgInfo)

    def maps(self) -> tuple[MapInfo, ...]:
        return self._list("/v1/bpf/maps", MapInfo)

    def report(self) -> Report:
        return self._one(Report, "GET", "/v1/report")

    def shutdown(self, *, cleanup: bool) -> None:
        """Ask the agent to end; with ``cleanup``, to leave nothing in force."""
        self._call("POST", "/v1/shutdown", b"", _query(cleanup="true" if cleanup else "false"))

    def events(self, wanted: EventFilter) -> EventStream:
        """Events from now on: the subscription stands when this returns."""
        types = ",".join(sorted(wanted.types))
        query = _query(**{"type": types or None, "related-to": wanted.endpoint_id})
        connection, response = self._request("GET", "/v1/events", None, query)
        if connection.sock is not None:
            connection.sock.settimeout(None)  # events may be rare
        return EventStream(self, connection, response)

    def _list(self, path: str, kind: type[T], query: Query | None = None) -> tuple[T, ...]:
        answer = self._call("GET", path, query=query)
        if not isinstance(answer, list):
            raise self._broken(f"GET {path} gave no list")
        try:
            return tuple(decode(kind, item, path=f"[{i}]") for i, item in enumerate(answer))
        except CodecError as error:
            raise self._broken(f"GET {path}: {error}") from None

    def _one(self, kind: type[T], method: str, path: str, body: bytes | None = None) -> T:
        try:
            return decode(kind, self._call(method, path, body))
        except CodecError as error:
            raise self._broken(f"{method} {path}: {error}") from None

    def _get(self, path: str) -> Json:
        return self._call("GET", path)

    def _call(
        self, method: str, path: str, body: bytes | None = None, query: Query | None = None
    ) -> Json:
        connection, response = self._request(method, path, body, query)
        try:
            content = response.read()
            return loads(content) if content else None
        except TimeoutError:
            raise self._slow() from None
        except (OSError, http.client.HTTPException, CodecError) as error:
            raise self._broken(f"{method} {path}: {error}") from None
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: bytes | None, query: Query | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, self._timeout_seconds)
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._unreachable(error) from None
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, target, body, headers)
            response = connection.getresponse()
        except TimeoutError:
            connection.close()
            raise self._slow() from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._broken(f"{method} {path}: {error}") from None
        if response.status >= HTTPStatus.BAD_REQUEST:
            refusal = _refusal(response)
            connection.close()
            raise refusal
        return connection, response

    def _unreachable(self, error: OSError) -> ApiError:
        match error:
            case FileNotFoundError():
                return AgentNotRunning(f"no agent is running: there is no {self.path}", START_HINT)
            case ConnectionRefusedError() | NotADirectoryError():
                return AgentNotRunning(f"no agent listens at {self.path}", START_HINT)
            case PermissionError():
                return Forbidden(f"{self.path} is for root", "run this command as root (sudo)")
            case TimeoutError():
                return self._slow()
        return AgentNotRunning(f"{self.path}: {error.strerror or error}", START_HINT)

    def _slow(self) -> ApiError:
        return BrokenAnswer(
            f"the agent at {self.path} did not answer in {self._timeout_seconds:g} s",
            "see its log; if it hangs, end it and start it again: what it put in force stays",
        )

    def _broken(self, what: str) -> ApiError:
        return BrokenAnswer(
            f"broken answer from {self.path}: {what}",
            "the agent ended meanwhile, or is of another version: see fqdnwall version and status",
        )


class EventStream:
    """An iterator of events; ends when the agent does. Close it, or use it in a ``with``."""

    def __init__(
        self,
        client: AgentClient,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self._client = client
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                line = self._response.readline(MAX_EVENT_BYTES)
                if not line:
                    return
                yield decode(Event, loads(line))
            except (OSError, http.client.HTTPException):
                return  # the agent was killed: the end of the stream
            except CodecError as error:
                raise self._client._broken(f"event: {error}") from None

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _refusal(response: http.client.HTTPResponse) -> Refused:
    try:
        answer = loads(response.read())
    except (CodecError, OSError, http.client.HTTPException):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        return Refused(response.status, str(answer["error"]), str(answer.get("hint") or ""))
    return Refused(response.status, f"the agent answered {response.status} {response.reason}")


def _query(**parameters: str | int | None) -> Query:
    return {name: str(value) for name, value in parameters.items() if value is not None}
