"""The UDP shell: one task, one epoll, every datagram socket of the proxy.

A trio task (or even a trio wake-up) for each query would cost more than the query. So listeners and
upstream sockets sit in an epoll of our own, trio waits for that one descriptor, and each wake-up
takes whatever is there, a bounded number from each socket in turn so that none starves another.
Nothing here waits for anything else: a send that would block is a lost datagram, and counted.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import trio

from dnsproxy.config import ProxyConfig
from dnsproxy.events import CloseFlow, Event, FlowFailed, Forward, OpenFlow, Reply, Response
from dnsproxy.metrics import Metrics
from dnsproxy.model import EndpointLookup, Query, SocketAddress, Transport
from dnsproxy.packet import ipv4_datagram, ipv6_datagram
from dnsproxy.sockets import (
    ORIGINAL_DESTINATION,
    QUEUE_OVERFLOW,
    original_destination,
    raw_reply_socket,
    upstream_socket,
)
from dnsproxy.wire import cut_to_question

_MOST_OCTETS: Final = 0xFFFF
_CONTROL_OCTETS: Final = 128
_LISTENER_BATCH: Final = 64
_FLOW_BATCH: Final = 16
_READY_SOCKETS: Final = 256
_TURN_SECONDS: Final = 0.002
_CACHED_SERVERS: Final = 1024


class UdpShell:
    def __init__(
        self,
        listeners: tuple[socket.socket, ...],
        config: ProxyConfig,
        endpoints: EndpointLookup,
        metrics: Metrics,
        dispatch: Callable[[Event], None],
        crashed: Callable[[str], None],
    ) -> None:
        self._config = config
        self._crashed = crashed
        self._endpoint_of = endpoints.endpoint_of
        self._metrics = metrics
        self._dispatch = dispatch
        self._epoll = select.epoll()
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._flows: dict[int, socket.socket] = {}
        self._flow_by_fd: dict[int, int] = {}
        self._raw: dict[int, socket.socket] = {}
        self._servers: dict[bytes, SocketAddress] = {}
        self._overflows: dict[int, int] = {}
        for fd, sock in self._listeners.items():
            self._raw[sock.family] = raw_reply_socket(sock.family, config.reply_mark)
            self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        self._epoll.close()
        for sock in (*self._flows.values(), *self._raw.values()):
            sock.close()
        self._flows.clear()

    async def run(self) -> None:
        """Take what is there for at most a moment, then let the other tasks run."""
        poll = self._epoll.poll
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            until = time.monotonic() + _TURN_SECONDS
            while ready := poll(0, _READY_SOCKETS):
                for fd, _ in ready:
                    try:
                        self._drain(fd)
                    except Exception:  # the agent's look-up; the datagram is lost, no other
                        self._crashed("a datagram crashed the DNS proxy; it goes on")
                if time.monotonic() > until:
                    break

    # ---- commands ----

    def open_flow(self, command: OpenFlow) -> None:
        try:
            sock, target = upstream_socket(
                self._config.upstream, Transport.UDP, command.client, command.server
            )
        except OSError as error:
            self._dispatch(FlowFailed(command.flow, str(error)))
            return
        self._flows[command.flow] = sock
        self._flow_by_fd[sock.fileno()] = command.flow
        try:
            sock.connect(target)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except OSError as error:
            self._dispatch(FlowFailed(command.flow, str(error)))

    def forward(self, command: Forward) -> None:
        sock = self._flows.get(command.flow)
        if sock is None:
            return
        try:
            sock.send(command.payload)
        except BlockingIOError:
            pass  # as lost as on the wire; the client asks again
        except OSError as error:
            self._dispatch(FlowFailed(command.flow, str(error)))

    def close_flow(self, command: CloseFlow) -> None:
        sock = self._flows.pop(command.flow, None)
        if sock is not None:
            del self._flow_by_fd[sock.fileno()]
            sock.close()

    def reply(self, command: Reply) -> None:
        try:
            self._send(command.server, command.client, command.payload)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._reply_truncated(command)
            else:
                self._metrics.replies_unsent += 1

    def _reply_truncated(self, command: Reply) -> None:
        self._metrics.truncated += 1
        try:
            self._send(command.server, command.client, cut_to_question(command.payload))
        except OSError:
            self._metrics.replies_unsent += 1

    def _send(self, server: SocketAddress, client: SocketAddress, payload: bytes) -> None:
        host = client[0]
        if ":" in host:
            self._raw[socket.AF_INET6].sendto(ipv6_datagram(server, client, payload), (host, 0))
        else:
            self._raw[socket.AF_INET].sendto(ipv4_datagram(server, client, payload), (host, 0))

    # ---- events ----

    def _drain(self, fd: int) -> None:
        flow = self._flow_by_fd.get(fd)
        if flow is not None:
            self._drain_flow(flow)
        elif fd in self._listeners:
            self._drain_listener(self._listeners[fd])

    def _drain_flow(self, flow: int) -> None:
        for _ in range(_FLOW_BATCH):
            sock = self._flows.get(flow)  # an event may have closed it
            if sock is None:
                return
            try:
                payload = sock.recv(_MOST_OCTETS)
            except BlockingIOError:
                return
            except OSError as error:
                self._dispatch(FlowFailed(flow, str(error)))
                return
            self._dispatch(Response(flow, payload))

    def _drain_listener(self, sock: socket.socket) -> None:
        for _ in range(_LISTENER_BATCH):
            try:
                payload, control, _, client = sock.recvmsg(_MOST_OCTETS, _CONTROL_OCTETS)
            except BlockingIOError:
                return
            except OSError:
                self._metrics.listener_errors += 1
                return
            if len(control) > 1:
                self._count_overflow(sock, control)
            server = self._server_of(control)
            if server is None:
                self._metrics.listener_errors += 1
                continue
            host = client[0]
            self._dispatch(
                Query(
                    self._endpoint_of(host.partition("%")[0] if "%" in host else host),
                    (host, client[1]),
                    server,
                    Transport.UDP,
                    payload,
                )
            )

    def _count_overflow(self, sock: socket.socket, control: list[tuple[int, int, bytes]]) -> None:
        """The kernel tells, with a datagram, how many it dropped on this socket before it."""
        for level, kind, octets in control:
            if (level, kind) == QUEUE_OVERFLOW:
                dropped = int.from_bytes(octets, sys.byteorder)
                known = self._overflows.get(sock.fileno(), 0)
                self._metrics.listener_overflows += (dropped - known) & 0xFFFFFFFF
                self._overflows[sock.fileno()] = dropped

    def _server_of(self, control: list[tuple[int, int, bytes]]) -> SocketAddress | None:
        for level, kind, octets in control:
            if (level, kind) not in ORIGINAL_DESTINATION:
                continue
            server = self._servers.get(octets)
            if server is None:
                if len(self._servers) >= _CACHED_SERVERS:
                    self._servers.clear()
                server = self._servers[octets] = original_destination(octets)
            return server
        return None
