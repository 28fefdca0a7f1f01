"""HTTP over one connection, by Hypercorn's trio worker; imported when the first one comes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from fqdnwall.api.app import make_app
from fqdnwall.api.backend import Backend
from fqdnwall.api.listener import TimedStream

log = logging.getLogger("fqdnwall.api.server")


def connection_handler(backend: Backend) -> Callable[[TimedStream], Awaitable[None]]:
    """What serves a connection until it ends."""
    handler: Callable[[TimedStream], Awaitable[None]] = partial(
        TCPServer,
        ASGIWrapper(make_app(backend)),
        _config(),
        WorkerContext(None),
        ConnectionState({}),
    )
    return handler


def _config() -> Config:
    config = Config()
    config.errorlog = log
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = 5  # seconds; also the limit for a request's headers to arrive
    config.h11_max_incomplete_size = 16 * 1024  # bytes of headers
    return config
