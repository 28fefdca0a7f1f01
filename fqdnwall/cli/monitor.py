"""``fqdnwall monitor``: events as they happen."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption


class Kind(StrEnum):
    DROP = "drop"
    TRACE = "trace"
    POLICY_VERDICT = "policy-verdict"
    DNS = "dns"
    AGENT = "agent"


def monitor(
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--type", "-t", help="Only events of this type (repeatable)."),
    ] = None,
    related_to: Annotated[
        int | None,
        typer.Option(metavar="ID", min=0, help="Only events at, from or to this endpoint."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With times.")] = False,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show events as they happen.

    Ends at Ctrl-C or with the agent. JSON is one object a line. What this reader is too slow for
    is told by a line that says how many events were lost.

    \b
    Example: fqdnwall monitor --type drop --type dns --related-to 7
    """
    from fqdnwall.api.codec import dumps
    from fqdnwall.api.events import EventFilter, EventType
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.lines import event_line
    from fqdnwall.cli.output import safe, write

    types = frozenset(EventType(k.value) for k in kind or ())
    client = connect(socket)
    try:
        with client.events(EventFilter(types, related_to)) as events:
            sys.stderr.write(f"Listening for events on {client.path}; Ctrl-C ends it.\n")
            for event in events:
                if output is Output.JSON:
                    write(dumps(event) + "\n")
                else:
                    write(safe(event_line(event, verbose=verbose)) + "\n")
    except KeyboardInterrupt:
        return
    sys.stderr.write("The agent ended the stream.\n")
