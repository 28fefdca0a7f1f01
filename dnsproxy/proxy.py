"""The proxy as the agent sees it: one engine, the two shells, and the way into the kernel.

    async with trio.open_nursery() as nursery:
        proxy = Proxy(judge, installer, endpoints, config)
        ports = await nursery.start(proxy.serve)

Everything runs in one trio thread, so the engine needs no lock. `Installer.install` is awaited by a
few worker tasks: they take one answer each from the queue, so that a slow one holds up nobody else.
An `InstantInstaller` spares the task switch.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import trio

from dnsproxy.config import ProxyConfig
from dnsproxy.engine import Engine
from dnsproxy.events import (
    CloseFlow,
    Command,
    Event,
    Forward,
    Install,
    Installed,
    InstallFailed,
    NoReply,
    OpenFlow,
    Reply,
    Tick,
)
from dnsproxy.metrics import Metrics
from dnsproxy.model import (
    EndpointLookup,
    Failure,
    Installer,
    InstallError,
    InstantInstaller,
    Judge,
    Observer,
    Query,
    Transport,
)
from dnsproxy.sockets import Ports, open_listeners
from dnsproxy.tcp import TcpShell
from dnsproxy.udp import UdpShell

_log = logging.getLogger(__name__)


class Proxy:
    """A transparent DNS proxy for UDP and TCP, IPv4 and IPv6."""

    def __init__(
        self,
        judge: Judge,
        installer: Installer,
        endpoints: EndpointLookup,
        config: ProxyConfig | None = None,
        observer: Observer | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.config = config or ProxyConfig()
        self.metrics = metrics or Metrics()
        self._installer = installer
        self._install_now = (
            installer.install_now if isinstance(installer, InstantInstaller) else None
        )
        self._endpoints = endpoints
        self._engine = Engine(judge, self.config.engine, self.metrics, observer)
        self._ports: Ports | None = None
        self._installs: deque[Install] = deque()
        self._idle_workers = trio.lowlevel.ParkingLot()
        self._executors: dict[type[Any], Callable[[Any], None]] = {}

    @property
    def ports(self) -> Ports:
        """Where the listeners are, once `serve` has started."""
        if self._ports is None:
            raise RuntimeError("the proxy has not started")
        return self._ports

    async def serve(
        self,
        task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
    ) -> None:
        """Run until cancelled. Raises `sockets.ListenError`, and OSError without CAP_NET_ADMIN."""
        config = self.config
        with ExitStack() as stack:
            listeners = open_listeners(config.listen_ipv4, config.listen_ipv6, config.port)
            stack.callback(listeners.close)
            if config.reply_mark:
                for sock in listeners.tcp:  # connections and their SYN-ACKs inherit it
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, config.reply_mark)
            partners = (config, self._endpoints, self.metrics, self._dispatch, self._crashed)
            udp = UdpShell(listeners.udp, *partners)
            stack.callback(udp.close)
            tcp = TcpShell(listeners.tcp, *partners)
            self._wire(udp, tcp)
            self._ports = listeners.ports
            async with trio.open_nursery() as nursery:
                for _ in range(config.install_workers):
                    nursery.start_soon(self._install_worker)
                nursery.start_soon(self._tick)
                nursery.start_soon(udp.run)
                nursery.start_soon(tcp.run)
                task_status.started(listeners.ports)

    def _wire(self, udp: UdpShell, tcp: TcpShell) -> None:
        def by_transport(name: str) -> Callable[[Any], None]:
            to_udp, to_tcp = getattr(udp, name), getattr(tcp, name)
            return lambda command: (to_udp if command.transport is Transport.UDP else to_tcp)(
                command
            )

        def to_both(name: str) -> Callable[[Any], None]:
            to_udp, to_tcp = getattr(udp, name), getattr(tcp, name)

            def execute(command: Any) -> None:
                to_udp(command)
                to_tcp(command)

            return execute

        self._executors = {
            OpenFlow: by_transport("open_flow"),
            Reply: by_transport("reply"),
            Forward: to_both("forward"),  # a flow is known to one shell only
            CloseFlow: to_both("close_flow"),
            NoReply: tcp.no_reply,
            Install: self._install_or_enqueue,
        }

    def _dispatch(self, event: Event) -> None:
        """Give the engine an event and do what it says. What breaks here breaks one event only."""
        try:
            command: Command
            for command in self._engine.receive(event, time.monotonic()):
                self._executors[type(command)](command)
        except Exception:
            self._crashed("an event crashed the DNS proxy; it goes on")
            if isinstance(event, Query) and event.connection:
                self._executors[NoReply](NoReply(event.connection))

    def _crashed(self, what: str) -> None:
        """Count each, log ever fewer: whoever can cause one can cause thousands a second."""
        self.metrics.failures[Failure.CRASH] += 1
        count = self.metrics.failures[Failure.CRASH]
        if count & (count - 1) == 0:
            _log.exception("%s (%d so far)", what, count)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(Engine.TICK_SECONDS)
            self._dispatch(Tick())

    def _install_or_enqueue(self, command: Install) -> None:
        done = None if self._install_now is None else self._try_now(command)
        if done is not None:
            self._dispatch(done)
            return
        self._installs.append(command)
        self._idle_workers.unpark()

    def _try_now(self, command: Install) -> Event | None:
        """What came of installing at once; None if it would have to wait."""
        assert self._install_now is not None
        try:
            return Installed(command.exchange) if self._install_now(command.learned) else None
        except InstallError as error:
            return InstallFailed(command.exchange, str(error))
        except Exception:
            self._crashed("the installer crashed; the client gets SERVFAIL")
            return InstallFailed(command.exchange, "installer crashed")

    async def _install_worker(self) -> None:
        while True:
            while self._installs:
                command = self._installs.popleft()
                if self._installs:  # this one may wait; the rest must not
                    self._idle_workers.unpark()
                await self._install(command)
            await self._idle_workers.park()

    async def _install(self, command: Install) -> None:
        event: Event = Installed(command.exchange)
        try:
            with trio.fail_after(self.config.engine.install_timeout_seconds):
                await self._installer.install(command.learned)
        except trio.TooSlowError:
            self.metrics.install_timeouts += 1
            event = InstallFailed(command.exchange, "not installed in time")
        except InstallError as error:
            event = InstallFailed(command.exchange, str(error))
        except Exception:
            self._crashed("the installer crashed; the client gets SERVFAIL")
            event = InstallFailed(command.exchange, "installer crashed")
        self._dispatch(event)
