"""Options that many commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fqdnwall.api.sockets import DEFAULT_SOCKET, RUN_DIR


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help=f"The agent's socket. [default: {DEFAULT_SOCKET}, or else that of the only command "
        f"under guard, in {RUN_DIR}]",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="A table for people, or JSON for programs.")
]


def group(help_text: str) -> typer.Typer:
    """A group of commands. Help is plain text: Rich's help costs 60 ms at every start."""
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=settings,
    )
