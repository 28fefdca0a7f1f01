"""``fqdnwall fqdn``: names, their addresses, and what a pattern matches."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

app = group("DNS names: learned addresses, selectors, matching.")
cache = group("Addresses that endpoints learned for names.")
app.add_typer(cache, name="cache")


class Selector(StrEnum):
    PATTERN = "pattern"
    NAME = "name"


class Source(StrEnum):
    LOOKUP = "lookup"
    CONNECTION = "connection"
    KERNEL = "kernel"
    PROXY = "proxy"


PatternOption = Annotated[
    str | None,
    typer.Option(
        "--matchpattern",
        "--pattern",
        "-p",
        metavar="PATTERN",
        help="Only names that this matchPattern matches.",
    ),
]


@cache.command("list")
def cache_list(
    endpoint: Annotated[
        int | None, typer.Option("--endpoint", "-e", metavar="ID", help="Only of this endpoint.")
    ] = None,
    pattern: PatternOption = None,
    source: Annotated[
        Source | None,
        typer.Option("--source", "-s", help="Only what came to be known, or is held, this way."),
    ] = None,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List learned names with their addresses, TTL and expiry.

    \b
    Example: fqdnwall fqdn cache list -p '*.example.com' -o json
    """
    from fqdnwall.api.models import FqdnSource
    from fqdnwall.cli import arguments
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import cache_key, fqdn_cache_table

    arguments.pattern(pattern)
    wanted = None if source is None else FqdnSource(source.value)
    entries = sorted(connect(socket).fqdn_cache(endpoint, pattern, wanted), key=cache_key)
    show(entries, output, lambda: render(fqdn_cache_table(entries)))


@cache.command("clean")
def cache_clean(
    pattern: PatternOption = None,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget learned names: new connections to their addresses need a new query.

    \b
    Example: fqdnwall fqdn cache clean -p api.example.com
    """
    from fqdnwall.cli import arguments
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import plural, show

    arguments.pattern(pattern)
    forgotten = connect(socket).fqdn_cache_clean(pattern)
    show({"forgotten": forgotten}, output, lambda: f"{plural(forgotten, 'name')} forgotten\n")


@app.command()
def names(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the selectors of the policies in force, with the names and addresses they stand for.

    \b
    Example: fqdnwall fqdn names
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.order import name_key
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import fqdn_names_table

    found = sorted(connect(socket).fqdn_names(), key=lambda n: (name_key(n.selector), n.kind))
    show(found, output, lambda: render(fqdn_names_table(found)))


@app.command()
def match(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="A matchPattern.")],
    name: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names to judge.")],
    selector: Annotated[
        Selector, typer.Option(help="Read PATTERN as a matchPattern or as a matchName.")
    ] = Selector.PATTERN,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say for each NAME whether PATTERN matches it: NAME, a tab, yes or no. Needs no agent.

    A pattern that is not valid is an error, exit status 2.

    \b
    Example: fqdnwall fqdn match '*.example.com' api.example.com example.com
    """
    from fqdnwall.cli.errors import UsageError
    from fqdnwall.cli.output import safe, show
    from policies.names import InvalidName, name_selector, pattern_selector

    make = name_selector if selector is Selector.NAME else pattern_selector
    try:
        selects = make(pattern)
    except InvalidName as error:
        raise UsageError(str(error), "quote stars from the shell: '*.example.com'") from None
    judged = [(text, selects.matches(text)) for text in name]
    shown = safe if sys.stdout.isatty() else str
    show(
        [{"name": text, "matches": matches} for text, matches in judged],
        output,
        lambda: "".join(
            f"{shown(text)}\t{'yes' if matches else 'no'}\n" for text, matches in judged
        ),
    )
