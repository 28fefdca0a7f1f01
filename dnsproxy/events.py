"""The engine's vocabulary: what happens to it, and what it wants done.

An *exchange* is one query on its way through the proxy, a *flow* one upstream socket. Both are
numbered by the engine, and a number is never used twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnsproxy.model import Learned, Query, SocketAddress, Transport

# ---- events (`Query` from the model is one of them) ----


@dataclass(frozen=True, slots=True)
class Response:
    """A message arrived on an upstream flow."""

    flow: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class FlowFailed:
    """The flow cannot be opened or written, was refused by ICMP, or was closed by the server."""

    flow: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Installed:
    """The kernel holds the addresses of this exchange."""

    exchange: int


@dataclass(frozen=True, slots=True)
class InstallFailed:
    exchange: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The client's TCP connection to `server` is gone; nobody waits for its answers."""

    connection: int
    server: SocketAddress


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Due at least every `Engine.TICK_SECONDS`."""


Event = Query | Response | FlowFailed | Installed | InstallFailed | ConnectionClosed | Tick

# ---- commands ----


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """Open an upstream socket to `server` on behalf of `client`, from a port nobody can guess."""

    flow: int
    transport: Transport
    client: SocketAddress
    server: SocketAddress
    connection: int = 0


@dataclass(frozen=True, slots=True)
class Forward:
    flow: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class CloseFlow:
    flow: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `payload` to `client` as if `server` had."""

    transport: Transport
    client: SocketAddress
    server: SocketAddress
    connection: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class NoReply:
    """One query of this TCP connection will never be answered: stop waiting for it."""

    connection: int


@dataclass(frozen=True, slots=True)
class Install:
    """Put the addresses into the kernel, then say `Installed` or `InstallFailed`."""

    exchange: int
    learned: Learned


Command = OpenFlow | Forward | CloseFlow | Reply | NoReply | Install
