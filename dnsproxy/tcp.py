"""The TCP shell: a task for each client connection, and one upstream connection for each of those.

Queries may be pipelined and are answered in any order (RFC 7766). A connection stops being read
while it has `pipelined` queries open, is closed when a message does not come whole within the idle
time, and when its client does not take the answers. What goes wrong on a connection ends that
connection and no other.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from dnsproxy.config import ProxyConfig
from dnsproxy.events import (
    CloseFlow,
    ConnectionClosed,
    Event,
    FlowFailed,
    Forward,
    NoReply,
    OpenFlow,
    Reply,
    Response,
)
from dnsproxy.framing import Deframer, FramingError, frame
from dnsproxy.metrics import Metrics
from dnsproxy.model import EndpointLookup, Query, SocketAddress, Transport
from dnsproxy.sockets import upstream_socket

_READ_OCTETS: Final = 16384
_UNREAD_OCTETS: Final = 512 << 10  # of what a peer leaves lying, before it is cut off
_NOT_READ: Final = "the server takes no queries"


class _Outbox:
    """Octets on their way to a peer; all that has come since the last write leaves in the next."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._closed = False
        self._changed = trio.Event()

    def put(self, octets: bytes) -> bool:
        """False when the peer has left too much lying: it is to be cut off."""
        self._octets += octets
        self._changed.set()
        return len(self._octets) <= _UNREAD_OCTETS

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def take(self) -> bytes:
        """Wait for octets; b"" once the box is closed and empty."""
        while not self._octets and not self._closed:
            self._changed = trio.Event()
            await self._changed.wait()
        octets, self._octets = bytes(self._octets), bytearray()
        return octets


class _Client:
    """One client connection, its upstreams' nursery, and the answers on their way out."""

    def __init__(self, number: int, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        self.number = number
        self.stream = stream
        self.nursery = nursery
        self.open_queries = 0
        self.changed = trio.Event()
        self.outbox = _Outbox()

    def settle(self) -> None:
        """One query less is open."""
        self.open_queries -= 1
        self.changed.set()

    async def wait_below(self, open_queries: int) -> None:
        while self.open_queries >= open_queries:
            self.changed = trio.Event()
            await self.changed.wait()


class _Upstream:
    """The upstream connection of a flow, and the queries on their way to it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.outbox = _Outbox()


class TcpShell:
    def __init__(
        self,
        listeners: tuple[socket.socket, ...],
        config: ProxyConfig,
        endpoints: EndpointLookup,
        metrics: Metrics,
        dispatch: Callable[[Event], None],
        crashed: Callable[[str], None],
    ) -> None:
        self._crashed = crashed
        self._listeners = [
            trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in listeners
        ]
        self._config = config
        self._endpoints = endpoints
        self._metrics = metrics
        self._dispatch = dispatch
        self._clients: dict[int, _Client] = {}
        self._upstreams: dict[int, _Upstream] = {}
        self._by_endpoint: dict[int, int] = {}
        # By then the engine has answered or given up every query that it was given.
        self._patience_seconds = config.engine.upstream_timeout_seconds + 1

    async def run(self) -> None:
        if self._listeners:
            await trio.serve_listeners(self._supervise, self._listeners)

    # ---- commands ----

    def open_flow(self, command: OpenFlow) -> None:
        client = self._clients.get(command.connection)
        if client is not None:
            upstream = self._upstreams[command.flow] = _Upstream()
            client.nursery.start_soon(self._run_upstream, command, upstream)

    def forward(self, command: Forward) -> None:
        upstream = self._upstreams.get(command.flow)
        if upstream is None:
            return
        if not upstream.outbox.put(frame(command.payload)):
            self._dispatch(FlowFailed(command.flow, _NOT_READ))

    def close_flow(self, command: CloseFlow) -> None:
        upstream = self._upstreams.pop(command.flow, None)
        if upstream is not None:
            upstream.scope.cancel()

    def reply(self, command: Reply) -> None:
        client = self._clients.get(command.connection)
        if client is None or client.nursery.cancel_scope.cancel_called:
            self._metrics.replies_unsent += 1
            return
        if not client.outbox.put(frame(command.payload)):
            self._metrics.connections_timed_out += 1
            client.nursery.cancel_scope.cancel()
        client.settle()

    def no_reply(self, command: NoReply) -> None:
        client = self._clients.get(command.connection)
        if client is not None:
            client.settle()

    # ---- the client's side ----

    async def _supervise(self, stream: trio.SocketStream) -> None:
        try:
            await self._admit(stream)
        except Exception:
            self._crashed("a DNS connection crashed; the others go on")

    async def _admit(self, stream: trio.SocketStream) -> None:
        try:
            client, server = stream.socket.getpeername()[:2], stream.socket.getsockname()[:2]
        except OSError:
            return  # gone already
        endpoint = self._endpoints.endpoint_of(client[0].partition("%")[0])
        bounds = self._config.tcp
        if (
            endpoint is None
            or self._metrics.connections >= bounds.connections
            or self._by_endpoint.get(endpoint, 0) >= bounds.connections_per_endpoint
        ):
            self._metrics.connections_rejected += 1
            await trio.aclose_forcefully(stream)
            return
        self._metrics.connections += 1
        self._metrics.connections_accepted += 1
        number = self._metrics.connections_accepted
        self._by_endpoint[endpoint] = self._by_endpoint.get(endpoint, 0) + 1
        try:
            await self._serve_client(number, stream, endpoint, client, server)
        finally:
            self._metrics.connections -= 1
            self._by_endpoint[endpoint] -= 1
            if not self._by_endpoint[endpoint]:
                del self._by_endpoint[endpoint]

    async def _serve_client(
        self,
        number: int,
        stream: trio.SocketStream,
        endpoint: int,
        address: SocketAddress,
        server: SocketAddress,
    ) -> None:
        async with trio.open_nursery() as nursery:
            client = self._clients[number] = _Client(number, stream, nursery)
            nursery.start_soon(self._write_answers, client)
            try:
                if not await self._read_queries(client, endpoint, address, server):
                    nursery.cancel_scope.cancel()
                with trio.move_on_after(self._patience_seconds):
                    await client.wait_below(1)
                client.outbox.close()  # the writer empties it, then ends the nursery
                await trio.sleep_forever()
            finally:
                del self._clients[number]
                self._dispatch(ConnectionClosed(number, server))

    async def _read_queries(
        self, client: _Client, endpoint: int, address: SocketAddress, server: SocketAddress
    ) -> bool:
        """Until the client sends no more: True if it may still be waiting for answers."""
        deframer = Deframer()
        bounds = self._config.tcp
        message_deadline = trio.current_time() + bounds.idle_seconds
        extended = False
        while True:
            with trio.move_on_at(message_deadline) as scope:
                try:
                    octets = await client.stream.receive_some(_READ_OCTETS)
                except trio.BrokenResourceError:
                    return False
            if scope.cancelled_caught:
                if client.open_queries and not deframer.partial and not extended:
                    message_deadline = trio.current_time() + self._patience_seconds
                    extended = True
                    continue
                self._metrics.connections_timed_out += 1
                return False
            if not octets:
                return True
            if not deframer.partial:
                message_deadline = trio.current_time() + bounds.idle_seconds
            extended = False
            deframer.feed(octets)
            try:
                while (message := deframer.next_message()) is not None:
                    client.open_queries += 1
                    self._dispatch(
                        Query(endpoint, address, server, Transport.TCP, message, client.number)
                    )
                    await client.wait_below(bounds.pipelined)
                    message_deadline = trio.current_time() + bounds.idle_seconds
            except FramingError:
                self._metrics.framing_errors += 1
                return True

    async def _write_answers(self, client: _Client) -> None:
        try:
            while octets := await client.outbox.take():
                with trio.fail_after(self._config.tcp.send_seconds):
                    await client.stream.send_all(octets)
            await client.stream.send_eof()
        except trio.TooSlowError:
            self._metrics.connections_timed_out += 1
        except trio.BrokenResourceError:
            pass
        client.nursery.cancel_scope.cancel()

    # ---- the upstream's side ----

    async def _run_upstream(self, command: OpenFlow, upstream: _Upstream) -> None:
        reason = "closed"
        with upstream.scope:
            reason = await self._converse(command, upstream)
        self._dispatch(FlowFailed(command.flow, reason))

    async def _converse(self, command: OpenFlow, upstream: _Upstream) -> str:
        """Until the connection ends; returns why."""
        try:
            with trio.fail_after(self._config.engine.upstream_timeout_seconds):
                stream = await self._connect(command)
        except (OSError, trio.TooSlowError) as error:
            return str(error) or "no connection in time"
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._write_upstream, stream, command.flow, upstream)
            reason = await self._read_upstream(stream, command.flow)
            nursery.cancel_scope.cancel()
        return reason

    async def _connect(self, command: OpenFlow) -> trio.SocketStream:
        sock, target = upstream_socket(
            self._config.upstream, Transport.TCP, command.client, command.server
        )
        wrapped = trio.socket.from_stdlib_socket(sock)
        try:
            await wrapped.connect(target)
        except BaseException:
            wrapped.close()
            raise
        return trio.SocketStream(wrapped)

    async def _write_upstream(
        self, stream: trio.SocketStream, flow: int, upstream: _Upstream
    ) -> None:
        try:
            while octets := await upstream.outbox.take():
                with trio.fail_after(self._config.tcp.send_seconds):
                    await stream.send_all(octets)
        except trio.BrokenResourceError:
            pass  # the reader sees it too, and tells
        except trio.TooSlowError:
            self._dispatch(FlowFailed(flow, _NOT_READ))

    async def _read_upstream(self, stream: trio.SocketStream, flow: int) -> str:
        deframer = Deframer()
        try:
            while octets := await stream.receive_some(_READ_OCTETS):
                deframer.feed(octets)
                while (message := deframer.next_message()) is not None:
                    self._dispatch(Response(flow, message))
        except trio.BrokenResourceError:
            return "reset by the server"
        except FramingError as error:
            self._metrics.framing_errors += 1
            return str(error)
        return "closed by the server"
