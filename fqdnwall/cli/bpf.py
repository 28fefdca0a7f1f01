"""``fqdnwall bpf``: what the kernel holds, map by map."""

from __future__ import annotations

from typing import Annotated

import typer

from fqdnwall.cli.params import Output, OutputOption, SocketOption, group

app = group("What the kernel holds: maps and programs.")
ct = group("Connection tracking.")
policy = group("Policy maps.")
ipcache = group("Prefixes and their identities.")
learned = group("Addresses that were learned from DNS answers.")
prog = group("Programs.")
maps = group("Maps.")
for _group, _name in (
    (ct, "ct"),
    (policy, "policy"),
    (ipcache, "ipcache"),
    (learned, "learned"),
    (prog, "prog"),
    (maps, "map"),
):
    app.add_typer(_group, name=_name)


@ct.command("list")
def ct_list(
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="At most so many entries.")
    ] = None,
    time_diff: Annotated[
        bool, typer.Option("--time-diff", "-d", help="Show the seconds left, too.")
    ] = False,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List connections, one line each as cilium-dbg writes them.

    \b
    Example: fqdnwall bpf ct list -d
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.lines import ct_key, ct_line
    from fqdnwall.cli.output import lines, show

    entries = sorted(connect(socket).ct_entries(limit), key=ct_key)
    show(entries, output, lambda: lines(ct_line(e, remaining=time_diff) for e in entries))


@policy.command("get")
def policy_get(
    endpoint_id: Annotated[
        int | None, typer.Argument(metavar="[ID]", min=0, help="An endpoint; without it, all.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All endpoints.")] = False,
    numeric: Annotated[
        bool, typer.Option("--numeric", "-n", help="Identities as numbers, not labels.")
    ] = False,
    socket: SocketOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the policy map of an endpoint, the entry that wins over others first.

    \b
    Example: fqdnwall bpf policy get 7
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.errors import UsageError
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import policy_map_table

    if endpoint_id is not None and every:
        raise UsageError("ID and --all contradict each other", "give one of them")
    client = connect(socket)
    if endpoint_id is not None:
        ids = [endpoint_id]
    else:
        ids = sorted(endpoint.id for endpoint in client.endpoints())
    entries = {i: client.policy_entries(i) for i in ids}

    def text() -> str:
        parts = []
        for i in ids:
            table = render(policy_map_table(entries[i], numeric=numeric))
            parts.append(f"Endpoint ID: {i}\n\n{table}")
        return "\n".join(parts)

    show([entry for i in ids for entry in entries[i]], output, text)


@ipcache.command("list")
def ipcache_list(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List prefixes with the identity that each stands for.

    \b
    Example: fqdnwall bpf ipcache list
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.order import address_key
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import ipcache_table

    entries = sorted(connect(socket).ipcache(), key=lambda e: address_key(e.prefix))
    show(entries, output, lambda: render(ipcache_table(entries)))


@learned.command("list")
def learned_list(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List learned addresses, the selectors they stand for, and when they expire.

    \b
    Example: fqdnwall bpf learned list -o json
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.order import address_key
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import learned_table

    entries = sorted(
        connect(socket).learned(),
        key=lambda e: (e.endpoint_id, address_key(e.address), e.identity),
    )
    show(entries, output, lambda: render(learned_table(entries)))


@prog.command("list")
def prog_list(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List loaded programs, where they are attached, and what the verifier walked.

    RUNS and NS/RUN need the sysctl kernel.bpf_stats_enabled=1.

    \b
    Example: fqdnwall bpf prog list
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import prog_table

    progs = sorted(connect(socket).progs(), key=lambda p: (p.interface, p.hook, p.name, p.id))
    show(progs, output, lambda: render(prog_table(progs)))


@maps.command("list")
def map_list(socket: SocketOption = None, output: OutputOption = Output.TABLE) -> None:
    """List maps with their sizes and how full they are.

    \b
    Example: fqdnwall bpf map list
    """
    from fqdnwall.cli.agents import connect
    from fqdnwall.cli.output import render, show
    from fqdnwall.cli.views import map_table

    found = sorted(connect(socket).maps(), key=lambda m: (m.name, m.id))
    show(found, output, lambda: render(map_table(found)))
