"""``fqdnwall endpoint``: which network namespaces are under guard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

app = group("Network namespaces and containers under guard.")

EndpointId = Annotated[int, typer.Argument(metavar="ID", min=0, help="As in endpoint list.")]


@app.command("list")
def list_(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List endpoints, with their identity, labels and enforcement.

    \b
    Example: fqdnwall endpoint list -o json
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import endpoint_table

    endpoints = sorted(connect(socket).endpoints(), key=lambda e: e.id)
    show(endpoints, output, lambda: render(endpoint_table(endpoints)))


@app.command()
def get(
    endpoint_id: EndpointId, socket: SocketOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Show one endpoint: policies that select it, counters, DNS.

    \b
    Example: fqdnwall endpoint get 7
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.details import endpoint_text
    from fqdnwall.cli.output import show

    endpoint = connect(socket).endpoint(endpoint_id)
    show(endpoint, output, lambda: endpoint_text(endpoint))


@app.command()
def add(
    netns: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A network namespace, such as /run/netns/web."),
    ] = None,
    pid: Annotated[
        int | None, typer.Option(metavar="PID", help="A process in the namespace.", min=1)
    ] = None,
    interface: Annotated[
        str | None,
        typer.Option(metavar="IF", help="The host's side of the namespace's veth pair."),
    ] = None,
    name: Annotated[str, typer.Option(metavar="N", help="A name for people.")] = "",
    namespace: Annotated[
        str, typer.Option(metavar="NS", help="The Kubernetes namespace that policies go by.")
    ] = "default",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A label that policies select by (repeatable)."),
    ] = None,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put an existing network namespace under guard; its addresses and routes stay as they are.

    Returns when the datapath is attached and policy is in force. Give exactly one of --netns,
    --pid and --interface.

    \b
    Example: fqdnwall endpoint add --netns /run/netns/web --label app=web
    """
    from fqdnwall.api.models import EndpointSpec
    from fqdnwall.api.options import parse_label
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.arguments import parsed
    from fqdnwall.cli.details import endpoint_text
    from fqdnwall.cli.errors import UsageError
    from fqdnwall.cli.output import show

    labels = tuple("=".join(pair) for pair in parsed("--label", label, parse_label))
    try:
        spec = EndpointSpec(
            netns=None if netns is None else str(netns.absolute()),
            pid=pid,
            interface=interface,
            name=name,
            namespace=namespace,
            labels=labels,
        )
    except ValueError as error:
        raise UsageError(
            str(error), "one of --netns PATH, --pid PID and --interface IF says what to guard"
        ) from None
    endpoint = connect(socket).endpoint_add(spec)
    show(endpoint, output, lambda: endpoint_text(endpoint))


@app.command()
def delete(endpoint_id: EndpointId, socket: SocketOption = None) -> None:
    """Take an endpoint off guard: its traffic is no longer filtered.

    \b
    Example: fqdnwall endpoint delete 7
    """
    from fqdnwall.cli.agents import connect

    connect(socket).endpoint_delete(endpoint_id)
