"""``fqdnwall identity``."""

from __future__ import annotations

from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

app = group("Numbers that stand for sets of labels.")


@app.command("list")
def list_(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List identities and their labels.

    \b
    Example: fqdnwall identity list
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import identity_table

    identities = sorted(connect(socket).identities(), key=lambda i: i.id)
    show(identities, output, lambda: render(identity_table(identities)))
