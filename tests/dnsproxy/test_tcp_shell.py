"""The TCP shell with real connections: framing, pipelining, bounds, and peers that misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator

import pytest
import trio

from dnsproxy import EngineConfig, ProxyConfig, TcpConfig
from dnsproxy.framing import frame
from dnsproxy.model import Failure
from tests.dnsproxy.conftest import Agent, Running, running
from tests.dnsproxy.messages import (
    QR,
    RD,
    REFUSED,
    SERVFAIL,
    TXT,
    address,
    message,
    opt,
    pointer,
    query,
    question,
    record,
)
from tests.dnsproxy.net import CLIENT_V4, CLIENT_V6, PORT, SERVER_V4, SERVER_V6, Net

pytestmark = pytest.mark.kernel

GOOD = address(pointer(12), "192.0.2.1", 30)
CONFIG = ProxyConfig(port=PORT, listen_ipv4="0.0.0.0", listen_ipv6="::")


def opened_gate() -> Agent:
    agent = Agent()
    agent.gate.set()
    return agent


def with_tcp(**changes: float) -> ProxyConfig:
    return dataclasses.replace(CONFIG, tcp=dataclasses.replace(TcpConfig(), **changes))  # type: ignore[arg-type]


async def connected(
    run: Running, family: int = socket.AF_INET, server: str = SERVER_V4
) -> trio.SocketStream:
    sock = run.client(family, socket.SOCK_STREAM)
    await sock.connect((server, PORT))
    return trio.SocketStream(sock)


async def receive(stream: trio.SocketStream) -> bytes:
    """One framed message; b"" at the end of the stream, however it ends."""
    octets = b""
    while len(octets) < 2 or len(octets) < 2 + int.from_bytes(octets[:2], "big"):
        wanted = 2 + int.from_bytes(octets[:2], "big") if len(octets) >= 2 else 2
        try:
            more = await stream.receive_some(wanted - len(octets))
        except trio.BrokenResourceError:
            return b""
        if not more:
            return b""
        octets += more
    return octets[2:]


def answer_to(asked: bytes, *records: bytes) -> bytes:
    return asked[:2] + message(0, QR, (asked[12:],), records or (GOOD,))[2:]


@contextlib.asynccontextmanager
async def serving(
    run: Running, family: int = socket.AF_INET
) -> AsyncIterator[trio.MemoryReceiveChannel[trio.SocketStream]]:
    """The upstream server; its accepted connections arrive on the channel."""
    send, accepted = trio.open_memory_channel[trio.SocketStream](10)
    listener = run.server(family, socket.SOCK_STREAM)

    async def accept() -> None:
        while True:
            sock, _ = await listener.accept()
            await send.send(trio.SocketStream(sock))

    try:
        with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                yield accepted
                nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(trio.WouldBlock):
            while True:
                accepted.receive_nowait().socket.close()


@pytest.mark.parametrize(
    ("family", "server_address", "client_address"),
    [
        pytest.param(socket.AF_INET, SERVER_V4, CLIENT_V4, id="ipv4"),
        pytest.param(socket.AF_INET6, SERVER_V6, CLIENT_V6, id="ipv6"),
    ],
)
async def test_client_and_server_see_each_other_and_not_the_proxy(
    inside: Net, family: int, server_address: str, client_address: str
) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run, family) as accepted,
        await connected(run, family, server_address) as client,
    ):
        asked = query("wWw.example.com", message_id=7)
        await client.send_all(frame(asked))
        async with await accepted.receive() as server:
            assert server.socket.getpeername()[0] == client_address
            assert client.socket.getpeername()[:2] == (server_address, PORT)
            got = await receive(server)
            assert got[2:] == asked[2:]
            await server.send_all(frame(answer_to(got)))
            assert await receive(client) == answer_to(asked)
    assert [learned.qname for learned in run.agent.learned] == ["www.example.com"]


async def test_query_octet_by_octet_and_answer_octet_by_octet(inside: Net) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = query("www.example.com", message_id=7)
        for octet in frame(asked):
            await client.send_all(bytes([octet]))
        async with await accepted.receive() as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            got = await receive(server)
            for octet in frame(answer_to(got)):
                await server.send_all(bytes([octet]))
            assert await receive(client) == answer_to(asked)


async def test_two_queries_in_one_segment_are_both_answered(inside: Net) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        first = query("one.example.com", message_id=7)
        second = query("two.example.com", message_id=7)
        await client.send_all(frame(first) + frame(second))
        async with await accepted.receive() as server:
            one, two = await receive(server), await receive(server)
            await server.send_all(frame(answer_to(two)) + frame(answer_to(one)))
            replies = {await receive(client), await receive(client)}
            assert replies == {answer_to(first), answer_to(second)}


async def test_refused_name_opens_no_connection_upstream(inside: Net) -> None:
    async with running(inside) as run, serving(run) as accepted, await connected(run) as client:
        await client.send_all(frame(query("evil.test")))
        got = await receive(client)
        assert got[3] & 15 == REFUSED
        with pytest.raises(trio.WouldBlock):
            accepted.receive_nowait()


async def test_reply_waits_for_the_installer(inside: Net) -> None:
    async with running(inside) as run, serving(run) as accepted, await connected(run) as client:
        await client.send_all(frame(query("www.example.com")))
        async with await accepted.receive() as server:
            await server.send_all(frame(answer_to(await receive(server))))
            with trio.move_on_after(0.1) as waited:
                await receive(client)
            assert waited.cancelled_caught
            run.agent.gate.set()
            assert await receive(client) != b""


async def test_client_that_closes_its_sending_half_is_still_answered(inside: Net) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        asked = query("www.example.com")
        await client.send_all(frame(asked))
        await client.send_eof()
        async with await accepted.receive() as server:
            got = await receive(server)
            await trio.sleep(0.05)
            await server.send_all(frame(answer_to(got)))
            assert await receive(client) == answer_to(asked)
            assert await receive(client) == b""


async def test_refused_connection_upstream_is_servfail(inside: Net) -> None:
    async with running(inside) as run, await connected(run) as client:
        await client.send_all(frame(query("www.example.com")))  # nobody listens there
        assert (await receive(client))[3] & 15 == SERVFAIL
    assert run.proxy.metrics.failures[Failure.UPSTREAM] == 1


async def test_upstream_that_hangs_up_is_servfail_and_the_next_query_connects_anew(
    inside: Net,
) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        asked = query("www.example.com")
        await client.send_all(frame(asked))
        async with await accepted.receive() as server:
            await receive(server)
        assert (await receive(client))[3] & 15 == SERVFAIL
        await client.send_all(frame(asked))
        async with await accepted.receive() as server:
            await server.send_all(frame(answer_to(await receive(server))))
            assert await receive(client) == answer_to(asked)


@pytest.mark.parametrize("octets", [b"\x00\x00", b"\x00\x0b" + b"x" * 11])
async def test_length_that_no_message_has_ends_the_connection(inside: Net, octets: bytes) -> None:
    async with running(inside) as run, await connected(run) as client:
        await client.send_all(octets)
        assert await receive(client) == b""
    assert run.proxy.metrics.framing_errors == 1


@pytest.mark.parametrize("octets", [b"", b"\x00", b"\xff\xff" + b"x" * 40])
async def test_message_that_does_not_come_whole_in_time_ends_the_connection(
    inside: Net, octets: bytes
) -> None:
    async with (
        running(inside, with_tcp(idle_seconds=0.2)) as run,
        await connected(run) as client,
    ):
        if octets:
            await client.send_all(octets)
        assert await receive(client) == b""
    assert run.proxy.metrics.connections_timed_out == 1


async def test_octets_that_trickle_do_not_keep_a_connection(inside: Net) -> None:
    async with (
        running(inside, with_tcp(idle_seconds=0.2)) as run,
        await connected(run) as client,
    ):
        start = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            for octet in b"\x00\x40" + b"x" * 60:
                await client.send_all(bytes([octet]))
                await trio.sleep(0.05)
        assert trio.current_time() - start < 1
    assert run.proxy.metrics.connections_timed_out == 1


async def test_connections_of_an_endpoint_are_bounded(inside: Net) -> None:
    async with (
        running(inside, with_tcp(connections_per_endpoint=2)) as run,
        await connected(run) as one,
        await connected(run) as two,
    ):
        for stream in (one, two):
            await stream.send_all(frame(query("evil.test")))
            assert await receive(stream) != b""
        async with await connected(run) as three:
            assert await receive(three) == b""
        await one.send_eof()
        await one.receive_some(1)  # the proxy's end closes after ours
        async with await connected(run) as four:
            await four.send_all(frame(query("evil.test")))
            assert await receive(four) != b""
    assert run.proxy.metrics.connections_rejected == 1
    assert run.proxy.metrics.connections == 0


async def test_connection_of_nobody_is_closed(inside: Net) -> None:
    async with (
        running(inside, agent=Agent(stranger=True)) as run,
        await connected(run) as client,
    ):
        assert await receive(client) == b""
    assert run.proxy.metrics.connections_rejected == 1


async def test_pipelined_queries_beyond_the_bound_wait_their_turn(inside: Net) -> None:
    config = with_tcp(pipelined=3)
    async with (
        running(inside, config, opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        names = [f"n{i}.example.com" for i in range(10)]
        await client.send_all(b"".join(frame(query(name)) for name in names))
        async with await accepted.receive() as server:
            waiting = [await receive(server) for _ in range(3)]
            with trio.move_on_after(0.1) as waited:
                await receive(server)
            assert waited.cancelled_caught
            assert run.proxy.metrics.in_flight == 3
            for asked in waiting:
                await server.send_all(frame(answer_to(asked)))
            for _ in range(7):
                await server.send_all(frame(answer_to(await receive(server))))
            for _ in names:
                assert await receive(client) != b""


async def test_silence_upstream_is_silence_and_the_connection_goes_on(inside: Net) -> None:
    config = dataclasses.replace(
        with_tcp(pipelined=1), engine=EngineConfig(upstream_timeout_seconds=0.3)
    )
    async with (
        running(inside, config, opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        await client.send_all(frame(query("www.example.com")) * 2)
        async with await accepted.receive() as server:
            await receive(server)
            second = await receive(server)  # comes when the first has been given up
            await server.send_all(frame(answer_to(second)))
            assert await receive(client) == answer_to(query("www.example.com"))
    assert run.proxy.metrics.failures[Failure.SILENCE] == 1


async def test_client_that_takes_no_answers_is_cut_off(inside: Net) -> None:
    config = with_tcp(send_seconds=0.3)
    async with (
        running(inside, config, opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = query("www.example.com", TXT)
        await client.send_all(frame(asked) * 60)
        async with await accepted.receive() as server:
            long = record(pointer(12), 0xFF00, b"x" * 60000)
            with contextlib.suppress(trio.BrokenResourceError):
                for _ in range(60):
                    got = await receive(server)
                    await server.send_all(frame(answer_to(got, long)))
            while await receive(server):
                pass
    assert run.proxy.metrics.connections_timed_out == 1


async def test_server_that_resets_is_servfail(inside: Net) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        await client.send_all(frame(query("www.example.com")))
        server = await accepted.receive()
        await receive(server)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await server.aclose()
        assert (await receive(client))[3] & 15 == SERVFAIL
        assert run.proxy.metrics.failures[Failure.CRASH] == 0


@pytest.mark.parametrize("send_seconds", [0.2, 10])
async def test_server_that_takes_no_queries_is_given_up(inside: Net, send_seconds: float) -> None:
    """By time, or by what lies unread: whichever is met first."""
    config = dataclasses.replace(
        with_tcp(send_seconds=send_seconds),
        engine=EngineConfig(pending_bytes=1 << 30, pending_bytes_per_endpoint=1 << 30),
    )
    padding = b"\x00\x0c" + (60000).to_bytes(2, "big") + b"\x00" * 60000
    asked = message(1, RD, (question("www.example.com"),), additionals=(opt(padding),))
    async with (
        running(inside, config) as run,
        serving(run) as accepted,
        await connected(run) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send_all, frame(asked) * 150)
        async with await accepted.receive():
            assert (await receive(client))[3] & 15 == SERVFAIL
        nursery.cancel_scope.cancel()
    assert run.proxy.metrics.failures[Failure.UPSTREAM] >= 10


async def test_client_that_vanishes_leaves_nothing(inside: Net) -> None:
    async with running(inside) as run, serving(run) as accepted:
        client = await connected(run)
        await client.send_all(frame(query("www.example.com")))
        async with await accepted.receive() as server:
            await receive(server)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await client.aclose()  # a reset
            assert await receive(server) == b""
        metrics = run.proxy.metrics
        assert metrics.in_flight == metrics.flows == 0


async def test_lying_upstream_ends_its_flow_only(inside: Net) -> None:
    async with (
        running(inside, agent=opened_gate()) as run,
        serving(run) as accepted,
        await connected(run) as client,
    ):
        await client.send_all(frame(query("www.example.com")))
        async with await accepted.receive() as server:
            await receive(server)
            await server.send_all(b"\x00\x03abc")
            assert (await receive(client))[3] & 15 == SERVFAIL
        await client.send_all(frame(query("evil.test")))
        assert (await receive(client))[3] & 15 == REFUSED


async def test_bug_on_one_connection_leaves_the_others(
    inside: Net, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashing(Agent):
        def endpoint_of(self, address: str) -> int | None:
            if self.broken:
                raise ZeroDivisionError
            return 1

    agent = Crashing()
    async with running(inside, agent=agent) as run, await connected(run) as good:
        await good.send_all(frame(query("evil.test")))
        assert await receive(good) != b""
        agent.broken = True
        async with await connected(run) as bad:
            assert await receive(bad) == b""
        agent.broken = False
        await good.send_all(frame(query("evil.test")))
        assert await receive(good) != b""
    assert run.proxy.metrics.failures[Failure.CRASH] == 1
    assert "ZeroDivisionError" in caplog.text


async def test_bug_in_the_judge_leaves_its_connection(
    inside: Net, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running(inside, with_tcp(pipelined=1)) as run,
        await connected(run) as client,
    ):
        run.agent.broken = True
        await client.send_all(frame(query("evil.test")))
        await run.agent.crashed.wait()
        run.agent.broken = False
        await client.send_all(frame(query("evil.test", message_id=5)))
        assert (await receive(client))[:2] == b"\x00\x05"
    assert "ZeroDivisionError" in caplog.text
