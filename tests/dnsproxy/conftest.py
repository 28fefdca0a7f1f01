"""Fixtures for the shells' tests: the namespaces, and a proxy that runs inside one of them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
import trio

from dnsproxy import InstallError, Judgement, Learned, Proxy, ProxyConfig, Question
from tests.dnsproxy.net import ENDPOINT, PORT, Net, net

PATIENCE_SECONDS = 5.0


@dataclass
class Agent:
    """What the proxy asks of its owner. `gate` holds installations back until it is set."""

    gate: trio.Event = field(default_factory=trio.Event)
    learned: list[Learned] = field(default_factory=list)
    full: bool = False
    broken: bool = False
    crashed: trio.Event = field(default_factory=trio.Event)
    stranger: bool = False

    def judge(self, query: Question) -> Judgement:
        if self.broken:
            self.crashed.set()
            raise ZeroDivisionError
        return Judgement(query.qname.endswith("example.com"), "test")

    async def install(self, learned: Learned) -> None:
        await self.gate.wait()
        if self.full:
            raise InstallError("map full")
        self.learned.append(learned)

    def endpoint_of(self, address: str) -> int | None:
        return None if self.stranger else ENDPOINT


@pytest.fixture(scope="session")
def shared_net() -> Iterator[Net]:
    if os.geteuid() != 0:
        pytest.fail("kernel tests need root: run `sudo make test`")
    with net() as made:
        yield made


@pytest.fixture
def inside(shared_net: Net) -> Iterator[Net]:
    """The test's thread, and so the proxy, is in the proxy's namespace."""
    with shared_net.proxy.entered():
        yield shared_net


@dataclass
class Running:
    """A proxy at work between the namespaces, and its agent."""

    net: Net
    agent: Agent
    proxy: Proxy

    def client(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> Socket:
        return trio.socket.from_stdlib_socket(_unblocked(self.net.client_socket(family, kind)))

    def server(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> Socket:
        return trio.socket.from_stdlib_socket(_unblocked(self.net.server_socket(family, kind)))


Socket = trio.socket.SocketType


def _unblocked(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def running(
    net: Net, config: ProxyConfig | None = None, agent: Agent | None = None
) -> AsyncIterator[Running]:
    """Run a proxy until the block ends, and fail if the block takes too long."""
    agent = agent or Agent()
    config = config or ProxyConfig(port=PORT, listen_ipv4="0.0.0.0", listen_ipv6="::")
    proxy = Proxy(agent, agent, agent, config)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve)
            try:
                yield Running(net, agent, proxy)
            finally:
                nursery.cancel_scope.cancel()
