"""``fqdnwall status`` and ``fqdnwall version``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption


def status(
    every: Annotated[
        bool, typer.Option("--all", help="All agents that run; JSON is then always a list.")
    ] = False,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the agent in one look, and what is wrong.

    Without --socket all agents that run are shown: that of the node, and those of commands under
    guard. JSON is an object for one agent, and a list for several.

    \b
    Example: fqdnwall status
    """
    from fqdnwall.api.client import AgentClient
    from fqdnwall.cli.details import status_text
    from fqdnwall.cli.output import show

    answers = [AgentClient(path).status() for path in _sockets(socket)]
    alone = len(answers) == 1 and not every
    show(
        answers[0] if alone else answers,
        output,
        lambda: "\n".join(map(status_text, answers)),
    )


def version(output: OutputOption = Output.TABLE) -> None:
    """Show the version.

    Of this command; that of the agent is in fqdnwall status.

    \b
    Example: fqdnwall version -o json
    """
    from importlib.metadata import version as installed

    from fqdnwall.cli.output import show

    number = installed("fqdnwall")
    show({"version": number}, output, lambda: f"fqdnwall {number}\n")


def _sockets(socket: Path | None) -> list[Path]:
    from fqdnwall.api.client import find_socket
    from fqdnwall.api.sockets import live_sockets

    if socket is not None:
        return [socket]
    return live_sockets() or [find_socket()]
