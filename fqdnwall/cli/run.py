"""``fqdnwall run``, ``agent`` and ``cleanup``: from arguments to options, then into the program.

Everything is checked here before root is asked for, so that a mistake costs nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fqdnwall.api.sockets import DEFAULT_SOCKET
from fqdnwall.cli.params import Output, OutputOption

ResolverOption = Annotated[
    list[str] | None,
    typer.Option(metavar="IP", help="A resolver to use instead of the host's own (repeatable)."),
]


@contextmanager
def nothing_collected() -> Iterator[None]:
    """For imports, of which nothing is garbage: a tenth of their time goes into looking for some.

    What is there at the end is never looked through again.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def run(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="CMD", help="The command to guard, and its arguments; best after --."
        ),
    ],
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="CiliumNetworkPolicy YAML, one or more documents (repeatable)."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PORT[/PROTO]]",
            help="A name or pattern to allow, with the DNS that it needs (repeatable).",
        ),
    ] = None,
    allow_cidr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR[:PORT[/PROTO]]",
            help="A prefix to allow; an IPv6 address before a port in brackets (repeatable).",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit", help="Let everything pass, and report what would have been dropped."
        ),
    ] = False,
    resolver: ResolverOption = None,
    kernel_dns: Annotated[
        bool,
        typer.Option(
            "--kernel-dns/--proxy-dns",
            help="Settle DNS in the kernel where it can be, or send every query through the proxy.",
        ),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report at the end.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JSON to FILE.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A label of the command, for policies (repeatable)."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="The Kubernetes namespace that policies go by.")
    ] = "default",
    socket: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Serve the API here. [default: /run/fqdnwall/run/PID.sock]"
        ),
    ] = None,
) -> None:
    """Run a command behind a policy. Needs root.

    It reaches the names that policy allows and nothing else. CMD runs as the user who called
    sudo, in a network namespace of its own, with its terminal, signals, working directory,
    environment and exit status passed through. At the end (and on SIGUSR1) a report of what it
    asked, reached and was refused goes to stderr.

    Without --policy, --allow or --allow-cidr there is nothing that it may reach. A policy that
    does not select the command (by --label and --namespace) is an error, never an open door.

    \b
    Examples:
      sudo fqdnwall run --allow example.com:443 -- curl https://example.com
      sudo fqdnwall run --allow '*.debian.org' -- apt-get update
      sudo fqdnwall run --policy apis.yaml --label app=web -- ./web
      sudo fqdnwall run --audit --report seen.json -- make
    """
    with nothing_collected():
        from fqdnwall.api import options
        from fqdnwall.cli.arguments import absolute, allowed, parsed, readable, socket_path
        from fqdnwall.cli.errors import UsageError

        chosen = options.RunOptions(
            command=tuple(command),
            policies=readable("--policy", policy),
            allow=tuple(allow or ()),
            allow_cidr=tuple(allow_cidr or ()),
            audit=audit,
            resolvers=parsed("--resolver", resolver, options.parse_resolver),
            quiet=quiet,
            report=None if report is None else absolute("--report", report),
            labels=parsed("--label", label, options.parse_label),
            namespace=namespace,
            socket=socket_path(socket),
            kernel_dns=kernel_dns,
        )
        allowed(allow, allow_cidr)
        if not namespace:
            raise UsageError("--namespace is empty", "leave it out for 'default'")
        if chosen.report is not None and not chosen.report.parent.is_dir():
            raise UsageError(
                f"--report: there is no folder {chosen.report.parent}", "make it first"
            )
        _need_root("run")
        from fqdnwall.cli.report import print_report
        from fqdnwall.run import run as guard
    raise typer.Exit(guard(chosen, print_report))


def agent(
    policy_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of policies that is watched.")
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The agent's configuration (YAML).")
    ] = None,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Let everything pass, and tell what would have been dropped."),
    ] = False,
    resolver: ResolverOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    socket: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Serve the API here. [default: /run/fqdnwall/agent.sock]"
        ),
    ] = None,
) -> None:
    """Guard network namespaces of this node. Needs root.

    Runs in the foreground, until SIGTERM or Ctrl-C.

    Policies are read again when their files change; a file that is not valid is reported (see
    status), and its last good version stays in force. What is put under guard is said by
    fqdnwall endpoint add. When the agent ends the datapath stays in force: fqdnwall cleanup
    takes it away.

    \b
    Example: sudo fqdnwall agent --policy-dir /etc/fqdnwall/policies
    """
    from fqdnwall.api import options
    from fqdnwall.cli.arguments import absolute, parsed, readable, socket_path
    from fqdnwall.cli.errors import UsageError

    if not policy_dir.is_dir():
        raise UsageError(f"--policy-dir: there is no folder {policy_dir}", "make it first")
    chosen = options.AgentOptions(
        policy_dir=absolute("--policy-dir", policy_dir),
        config=None if config is None else readable("--config", [config])[0],
        socket=socket_path(socket) or DEFAULT_SOCKET,
        audit=audit,
        resolvers=parsed("--resolver", resolver, options.parse_resolver),
        verbose=verbose,
    )
    _need_root("agent")
    with nothing_collected():
        from fqdnwall.agent import main

    raise typer.Exit(main(chosen))


def cleanup(
    socket: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help=f"The socket of the agent to end, dead or alive. [default: {DEFAULT_SOCKET}]",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End an agent and all that it put in force. Needs root.

    Programs, maps and pins are taken away. Works on an agent that runs, and on what a killed one
    left.

    \b
    Example: sudo fqdnwall cleanup
    """
    from fqdnwall.api import options
    from fqdnwall.cli.arguments import socket_path
    from fqdnwall.cli.output import show

    path = socket_path(socket) or DEFAULT_SOCKET
    _need_root("cleanup")
    ended = _end(path)
    from fqdnwall.agent import cleanup as clear

    status = clear(options.CleanupOptions(path))
    if status == 0:
        what = "the agent was ended" if ended else "no agent was running"
        show({"agent_ended": ended}, output, lambda: f"{what}; nothing of it is in force\n")
    raise typer.Exit(status)


def _end(path: Path) -> bool:
    """Ask a live agent to clean up and end, and wait for it; False where none lives."""
    import time

    from fqdnwall.api.client import AgentClient, AgentNotRunning
    from fqdnwall.api.sockets import Liveness, liveness
    from fqdnwall.cli.errors import CommandError

    try:
        AgentClient(path).shutdown(cleanup=True)
    except AgentNotRunning:
        return False
    for _ in range(300):
        if liveness(path) is not Liveness.LIVE:
            return True
        time.sleep(0.1)
    raise CommandError(
        f"the agent at {path} did not end in 30 s", "see its log; end its process, then try again"
    )


def _need_root(command: str) -> None:
    from fqdnwall.cli.errors import CommandError

    if os.geteuid() != 0:
        raise CommandError(
            f"fqdnwall {command} needs root: it loads programs into the kernel",
            f"run it by sudo: sudo fqdnwall {command} ...",
        )
