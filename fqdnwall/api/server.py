"""Serves the API on a unix socket, as one task of the agent's nursery.

``path = await nursery.start(serve, backend, path)`` returns when the socket accepts connections;
cancelling the nursery ends it at once, whatever its peers do. HTTP is Hypercorn's trio worker; its
connection handler is driven from here because its own server can neither bound a write nor the
number of connections (see ``listener``). It comes with the first connection: a command that nobody
asks about neither waits for it nor has it in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from fqdnwall.api.backend import Backend
from fqdnwall.api.listener import TimedStream, listening

Handler = Callable[[TimedStream], Awaitable[None]]


async def serve(
    backend: Backend,
    path: Path,
    *,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
) -> None:
    """Serve until cancelled. Raises SocketInUse where a live agent has the path, and OSError."""
    known: list[Handler] = []

    async def handle(stream: TimedStream) -> None:
        if not known:
            known.append(await trio.to_thread.run_sync(_handler, backend))
        await known[0](stream)

    async with listening(path) as listener:
        task_status.started(path)
        async with trio.open_nursery() as connections:
            try:
                await trio.serve_listeners(handle, [listener], handler_nursery=connections)
            finally:
                listener.abort()


def _handler(backend: Backend) -> Handler:
    from fqdnwall.api.http import connection_handler

    return connection_handler(backend)
