"""``fqdnwall run``: one command in a namespace of its own, behind a policy.

    prepare namespace ─▶ load datapath ─▶ start proxy, API ─▶ policy into the maps ─▶ attach ─▶ CMD

CMD starts only when everything before it holds. Whatever ends it, the namespace, the datapath and
all that was changed on the host are undone; after a ``kill -9`` the next start does that.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import trio

from fqdnwall import sandbox
from fqdnwall.agent.command import GuardedCommand
from fqdnwall.agent.guarded import Guarded, RunError, Timings, read_policies
from fqdnwall.api.listener import SocketInUse
from fqdnwall.api.options import RunOptions
from fqdnwall.api.report import Report
from fqdnwall.datapath import loader
from fqdnwall.datapath.compiler import CompileError
from fqdnwall.datapath.maps import MapFull
from fqdnwall.netlink.errors import NetworkError

FAILED = 1

SIZES = {
    "conntrack": 65536,
    "learned": 131072,
    "answers": 65536,
    "dns_exchanges": 4096,
    "ipcache": 65536,
    "endpoints": 16,
    "endpoint_stats": 64,
    "policies": 16,
}
"""One command needs smaller maps than a node; see ``layouts.MAPS``."""


def run(options: RunOptions, show: Callable[[Report], None]) -> int:
    """Guard the command; its exit status, or 1 with a message when it could not be started.

    ``show`` gets the report at the end and on SIGUSR1, unless ``quiet``.
    """
    try:
        guarded = read_policies(options)
        # Before the report can be made, a request for it must not end us.
        signal.signal(signal.SIGUSR1, lambda *_: None)
        with sandbox.caught_signals() as signals:
            return trio.run(_Run(options, guarded, signals, show).main)
    except Exception as error:
        return _explain(_only(error))


def _only(error: Exception) -> Exception:
    """Nurseries wrap what ends them; one failure is shown as itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _explain(error: Exception) -> int:
    """The exit status for what a person can do something about; the rest is a bug of ours."""
    match error:
        case RunError():
            return _fail(str(error), error.hint)
        case sandbox.Interrupted():
            return error.exit_status
        case sandbox.CommandNotStarted():
            _fail(str(error))
            return error.exit_status
        case (
            sandbox.SandboxError()
            | sandbox.NoResolver()
            | sandbox.NoFreeSlot()
            | NetworkError()
            | loader.LoadError()
            | CompileError()
            | SocketInUse()
            | MapFull()
        ):
            return _fail(str(error))
    raise error


class _Run:
    """One guarded command, from its preparation to its end."""

    def __init__(
        self,
        options: RunOptions,
        guarded: Guarded,
        signals: sandbox.Signals,
        show: Callable[[Report], None],
    ) -> None:
        self._options = options
        self._guarded = guarded
        self._signals = signals
        self._show = show
        self._timings = Timings()

    async def main(self) -> int:
        self._timings.done("python")
        hidden = (self._options.socket,) if self._options.socket else ()
        prepared = sandbox.SandboxOptions(resolvers=self._options.resolvers, hidden=hidden)
        async with await sandbox.prepare(prepared, self._signals) as box:
            self._timings.done("namespace")
            datapath = await trio.to_thread.run_sync(loader.load, box.plan.pins, SIZES)
            self._timings.done("datapath")
            return await self._guard(box, datapath)

    async def _guard(self, box: sandbox.Sandbox, datapath: loader.Datapath) -> int:
        command = GuardedCommand(self._options, self._guarded, self._show, self._timings)
        try:
            return await command.guard(box, datapath)
        finally:
            # Nothing inside may outlive what guards it.
            with trio.CancelScope(shield=True):
                await box.end()
            datapath.close()
            loader.unload(box.plan.pins)


def _fail(message: str, hint: str = "") -> int:
    print(f"fqdnwall: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return FAILED
