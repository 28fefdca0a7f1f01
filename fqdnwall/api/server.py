"""Serves the API on a unix socket, as one task of the agent's nursery.

``path = await nursery.start(serve, backend, path)`` returns when the socket accepts connections;
cancelling the nursery ends it at once, whatever its peers do. HTTP is Hypercorn's trio worker; its
connection handler is driven from here because its own server can neither bound a write nor the
number of connections (see ``listener``).
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from fqdnwall.api.app import make_app
from fqdnwall.api.backend import Backend
from fqdnwall.api.listener import listening

log = logging.getLogger(__name__)


async def serve(
    backend: Backend,
    path: Path,
    *,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
) -> None:
    """Serve until cancelled. Raises SocketInUse where a live agent has the path, and OSError."""
    handler = partial(
        TCPServer,
        ASGIWrapper(make_app(backend)),
        _config(),
        WorkerContext(None),
        ConnectionState({}),
    )
    async with listening(path) as listener:
        task_status.started(path)
        async with trio.open_nursery() as connections:
            try:
                await trio.serve_listeners(handler, [listener], handler_nursery=connections)
            finally:
                listener.abort()


def _config() -> Config:
    config = Config()
    config.errorlog = log
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = 5  # seconds; also the limit for a request's headers to arrive
    config.h11_max_incomplete_size = 16 * 1024  # bytes of headers
    return config
