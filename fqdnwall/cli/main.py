"""The ``fqdnwall`` command: which commands there are, and how their failures are told.

Entry point ``main``. Exit status: 0, 1 (failure), 2 (usage), 130 (Ctrl-C), 141 (nobody reads the
output), or that of the command which ``run`` guards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from fqdnwall.cli import bpf, endpoint, fqdn, identity, policy
from fqdnwall.cli.completion import completion
from fqdnwall.cli.errors import FAILURE, INTERRUPTED, USAGE, CommandError
from fqdnwall.cli.monitor import monitor
from fqdnwall.cli.params import group
from fqdnwall.cli.run import agent, cleanup, run
from fqdnwall.cli.status import status, version

COMPLETE_VARIABLE = "_FQDNWALL_COMPLETE"

app = group(
    "DNS-aware egress firewall: programs reach the names that policy allows, and nothing else."
)
# What follows CMD belongs to CMD, also without the two dashes.
app.command(context_settings={"allow_interspersed_args": False})(run)
app.command()(agent)
app.command()(cleanup)
app.command()(status)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(identity.app, name="identity")
app.add_typer(policy.app, name="policy")
app.add_typer(fqdn.app, name="fqdn")
app.add_typer(bpf.app, name="bpf")
app.command()(monitor)
app.command()(version)
app.command()(completion)


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    _take_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if COMPLETE_VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        outcome = app(given, prog_name="fqdnwall", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except CommandError as error:
        return _tell(error.message, error.hint, error.exit_status)
    except TyperException as error:
        return _tell_usage(error)
    except Exception as error:
        return _tell_api_error(error)
    return outcome if isinstance(outcome, int) else 0


def _take_closed_streams() -> None:
    """No file of ours may get the number of a standard stream that the caller has closed.

    What takes its place is closed again for a command that is executed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 - for as long as we live


def _tell_api_error(error: Exception) -> int:
    """What the agent's client raises; anything else is a bug of ours, and shown as one."""
    client = sys.modules.get("fqdnwall.api.client")
    if client is None or not isinstance(error, client.ApiError):
        raise error
    return _tell(error.message, error.hint, FAILURE)


def _tell_usage(error: TyperException) -> int:
    """Typer's own complaints, in the shape of ours."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "fqdnwall"
    describe = getattr(error, "format_message", lambda: str(error))
    message = describe()
    if message.startswith("Usage:"):  # a group without a command: its help is the message
        sys.stderr.write(f"{message}\n")
        return USAGE
    return _tell(message, f"see: {where} --help", getattr(error, "exit_code", USAGE))


def _tell(message: str, hint: str, exit_status: int) -> int:
    from contextlib import suppress

    from fqdnwall.cli.output import safe

    with suppress(OSError):
        if message:
            sys.stderr.write(f"Error: {safe(message)}\n")
        if hint:
            sys.stderr.write(f"Hint: {safe(hint)}\n")
    return exit_status
