"""The API against peers that are wrong, slow, greedy or silent."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from fqdnwall.api import app, listener
from fqdnwall.api.client import AgentClient, Refused
from fqdnwall.api.events import EventFilter
from fqdnwall.api.listener import SocketInUse, listening
from fqdnwall.api.server import serve
from tests.api import samples
from tests.api.fake import FakeBackend, LiveAgent, live_agent

Talk = Callable[[bytes], tuple[int, dict[str, str]]]


@pytest.fixture
def talk(agent: LiveAgent) -> Talk:
    """Sends raw bytes, gives status and JSON error."""

    def exchange(request: bytes) -> tuple[int, dict[str, str]]:
        with closing(connected(agent.path)) as sock:
            sock.sendall(request)
            return answer(sock)

    return exchange


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(8)
    sock.connect(str(path))
    return sock


def answer(sock: socket.socket) -> tuple[int, dict[str, str]]:
    from http.client import HTTPResponse

    with closing(HTTPResponse(sock)) as response:
        response.begin()
        body = response.read()
    return response.status, json.loads(body) if body else {}


def request(method: str, target: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/v1/nothing", 404, "GET /v1/nothing: Not Found"),
        ("POST", "/v1/status", 405, "POST /v1/status: Method Not Allowed"),
        ("GET", "/v1/status?x=1", 400, "this path takes no parameters"),
        ("GET", "/v1/endpoints/abc", 404, "'abc' is not an endpoint id"),
        ("GET", "/v1/endpoints/-1", 404, "'-1' is not an endpoint id"),
        ("GET", "/v1/endpoints/99999999999", 404, "'99999999999' is not an endpoint id"),
        ("GET", "/v1/endpoints/8", 404, "there is no endpoint 8"),
        ("DELETE", "/v1/endpoints/8", 404, "there is no endpoint 8"),
        ("GET", "/v1/endpoints/8/policy", 404, "there is no endpoint 8"),
        ("GET", "/v1/bpf/ct?limit=-1", 400, "limit: '-1' is not a number"),
        ("GET", "/v1/bpf/ct?limit=1&limit=2", 400, "parameter 'limit' is given twice"),
        ("GET", "/v1/fqdn/cache?colour=1", 400, "unknown parameter 'colour'"),
        (
            "GET",
            "/v1/fqdn/cache?source=x",
            400,
            "source: 'x' is not one of lookup, connection, kernel, proxy",
        ),
        (
            "GET",
            "/v1/events?type=drop,x",
            400,
            "type: 'x' is not one of drop, trace, policy-verdict, dns, agent, lost",
        ),
        ("POST", "/v1/shutdown?cleanup=1", 400, "cleanup: '1' is not true or false"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    talk: Talk, method: str, target: str, status: int, error: str
) -> None:
    got, body = talk(request(method, target))
    assert (got, body["error"]) == (status, error)
    assert "hint" in body


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "document: not JSON"),
        (b"[]", "document: expected an object, got a list"),
        (b"{}", "document: give exactly one of netns, pid and interface"),
        (b'{"pid": "1"}', 'pid: expected an integer, got "1"'),
        (b'{"pid": 1, "color": 2}', "color: unknown key"),
        (b"[" * 60_000, "document: nested too deeply"),
    ],
)
def test_wrong_bodies_are_told_what_is_wrong(talk: Talk, body: bytes, error: str) -> None:
    status, answered = talk(request("POST", "/v1/endpoints", body))
    assert status == 400
    assert answered["error"].startswith(error)


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(talk: Talk) -> None:
    body = b" " * (app.MAX_BODY_BYTES + 1)
    status, _ = talk(request("POST", "/v1/endpoints", body, length=1 << 40))
    assert status == 413


def test_headers_beyond_the_bound_are_refused(talk: Talk) -> None:
    status, _ = talk(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000)
    assert 400 <= status < 500


def test_a_slow_body_is_given_up(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    status, _ = talk(request("POST", "/v1/endpoints", b"{", length=10))
    assert status == 408


def test_monitors_are_bounded(agent: LiveAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AgentClient(agent.path, timeout_seconds=5)
    streams = [client.events(EventFilter()) for _ in range(app.MAX_MONITORS)]
    with pytest.raises(Refused) as refused:
        client.events(EventFilter())
    assert refused.value.status == 503
    for stream in streams:
        stream.close()


def publish_many(backend: FakeBackend) -> None:
    for _ in range(3000):
        backend.broker.publish(samples.DROP)


def test_a_subscriber_that_does_not_read_holds_nobody_up(agent: LiveAgent) -> None:
    with closing(connected(agent.path)) as silent:
        silent.sendall(request("GET", "/v1/events"))
        while agent.backend.broker.subscribers == 0:
            AgentClient(agent.path).maps()
        for _ in range(5):
            agent.call(publish_many, agent.backend)
        client = AgentClient(agent.path, timeout_seconds=5)
        assert client.status() == samples.STATUS
        assert agent.backend.broker.lost > 0
        agent.stop()  # fails if the stuck write keeps the agent from ending


def test_a_subscriber_that_does_not_read_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "WRITE_SECONDS", 0.05)
    with (
        live_agent(tmp_path / "s") as agent,
        closing(connected(agent.path)) as silent,
    ):
        silent.sendall(request("GET", "/v1/events"))
        client = AgentClient(agent.path)
        while agent.backend.broker.subscribers == 0:
            client.maps()
        agent.call(publish_many, agent.backend)
        for _ in range(2000):
            if agent.backend.broker.subscribers == 0:
                break
            client.maps()
        assert agent.backend.broker.subscribers == 0


async def test_a_live_agents_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with listening(path):
        with pytest.raises(SocketInUse, match="already listens"):
            async with listening(path):
                pass
        assert path.is_socket()
    assert not path.exists()


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as dead:
        dead.bind(str(path))
    async with listening(path):
        with closing(connected(path)):
            pass


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("mine")
    with pytest.raises(SocketInUse, match="not a socket"):
        async with listening(path):
            pass
    assert path.read_text() == "mine"


async def test_a_successors_socket_survives_our_end(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with listening(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_a_path_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(SocketInUse, match="at most 107 bytes"):
        async with listening(tmp_path / ("x" * 200)):
            pass


async def test_of_many_starters_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as dead:
        dead.bind(str(path))
    outcomes: list[bool] = []

    async def start() -> None:
        try:
            async with listening(path):
                outcomes.append(True)
                await trio.testing.wait_all_tasks_blocked(0.05)
        except SocketInUse:
            outcomes.append(False)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(start)
    assert sorted(outcomes) == [False] * 4 + [True]


async def test_serve_says_when_it_is_ready_and_ends_when_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "new" / "agent.sock"
    async with trio.open_nursery() as nursery:
        assert await nursery.start(serve, FakeBackend(), path) == path
        client = AgentClient(path)
        assert await trio.to_thread.run_sync(client.status) == samples.STATUS
        nursery.cancel_scope.cancel()
    assert not path.exists()
