"""Which agent a command talks to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fqdnwall.api.client import AgentClient


def connect(socket: Path | None) -> AgentClient:
    """A client of ``--socket``, or of the agent that is found. Raises client.ApiError."""
    from fqdnwall.api.client import AgentClient, find_socket

    return AgentClient(socket if socket is not None else find_socket())
