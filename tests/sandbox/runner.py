"""What `fqdnwall run` does with a sandbox, and nothing else: for tests that need a process to kill.

    python -m tests.sandbox.runner STATE [--resolver IP] [--pause FILE] [--plan FILE] -- CMD...

With --pause it is prepared but starts CMD only once FILE exists.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
from pathlib import Path

import trio

from fqdnwall.netlink import NetworkError
from fqdnwall.sandbox import (
    CommandNotStarted,
    Interrupted,
    NoFreeSlot,
    NoResolver,
    Places,
    Sandbox,
    SandboxError,
    SandboxOptions,
    Signals,
    caught_signals,
    command,
    prepare,
)


async def until_exists(path: Path, sandbox: Sandbox) -> None:
    """Wait for a file, or for a signal that asks us to end."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await sandbox.interrupted()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        while not await trio.Path(path).exists():  # noqa: ASYNC110 - another process makes it
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def run(arguments: argparse.Namespace, signals: Signals) -> int:
    options = SandboxOptions(
        resolvers=tuple(map(ipaddress.ip_address, arguments.resolver)),
        places=Places(arguments.state, arguments.state / "pins"),
    )
    try:
        async with await prepare(options, signals) as sandbox:
            if arguments.plan:
                describe(sandbox, arguments.plan)
            if arguments.pause:
                await until_exists(arguments.pause, sandbox)
            await sandbox.start(command(arguments.command))
            return await sandbox.wait()
    except (CommandNotStarted, Interrupted) as error:
        print(f"runner: {error}", file=sys.stderr)
        return error.exit_status
    except (SandboxError, NoResolver, NoFreeSlot, NetworkError) as error:
        print(f"runner: {error}", file=sys.stderr)
        return 125


def describe(sandbox: Sandbox, path: Path) -> None:
    plan = sandbox.plan
    new = path.with_suffix(".new")
    new.write_text(
        json.dumps(
            {
                "pid": os.getpid(),
                "slot": plan.slot,
                "interface": sandbox.host_ifname,
                "addresses": [str(address) for address in plan.addresses],
                "stubs": {str(k): str(v) for k, v in sandbox.resolvers.stubs.items()},
            }
        )
    )
    new.rename(path)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("--resolver", action="append", default=[])
    parser.add_argument("--pause", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    with caught_signals() as signals:
        return trio.run(run, arguments, signals)


if __name__ == "__main__":
    sys.exit(main())
