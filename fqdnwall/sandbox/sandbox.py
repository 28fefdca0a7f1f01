"""The sandbox of `fqdnwall run`: prepare, start, wait, close.

    async with await prepare(SandboxOptions(), signals) as sandbox:
        ...                      # attach the datapath to sandbox.host_ifindex, start the proxy
        await sandbox.start(command(argv))
        status = await sandbox.wait()

Invariants: CMD does not run before `start`. `close` undoes everything, also when something before
it failed or was cancelled, and may be called at any point and more than once. What it cannot do
because fqdnwall was killed, the next `prepare` does first.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from fqdnwall.netlink.errors import NetworkError
from fqdnwall.netlink.namespaces import current_namespace, entered
from fqdnwall.netlink.untracked import ProxyMarks
from fqdnwall.sandbox import network
from fqdnwall.sandbox.caller import Account, Caller, caller
from fqdnwall.sandbox.confinement import ROOT_CAPABILITIES, seccomp_filter
from fqdnwall.sandbox.forwarding import Forwarding
from fqdnwall.sandbox.network import Places
from fqdnwall.sandbox.plan import PREFIX4, PREFIX6, IPAddress, Plan, capacity, clash, plan
from fqdnwall.sandbox.process import Exited, SandboxError, SandboxProcess, Stopped
from fqdnwall.sandbox.resolvers import NoResolver, ResolvConf, Resolvers, parse, resolvers
from fqdnwall.sandbox.signals import ENDING, Signals
from fqdnwall.sandbox.slots import take_slot
from fqdnwall.sandbox.terminal import Terminal

RESOLV_CONF = Path("/etc/resolv.conf")
MARKS = ProxyMarks(to_proxy=0x0200, from_proxy=0x0B00, mask=0x0F00)
_KILLED = 128 + signal.SIGKILL
# Ways to have a name resolved by the host, past the sandbox's own DNS.
_NAME_SERVICES = (
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
)


class Interrupted(Exception):
    """A signal asked fqdnwall to end before CMD was started."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number} before the command was started")
        self.exit_status = 128 + number


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How the sandbox is made; the defaults are those of `fqdnwall run`.

    `marks` are what the datapath and the proxy set on packets that go between them.
    """

    marks: ProxyMarks = MARKS
    resolvers: tuple[IPAddress, ...] = ()
    prefix4: IPv4Network = PREFIX4
    prefix6: IPv6Network = PREFIX6
    places: Places = field(
        default_factory=lambda: Places(Path("/run/fqdnwall"), Path("/sys/fs/bpf/fqdnwall"))
    )
    resolv_conf: Path = RESOLV_CONF
    hidden: tuple[Path, ...] = ()  # further files and directories that CMD shall not see


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and as whom; in `/` where the directory is gone or hidden."""

    argv: tuple[str, ...]
    caller: Caller
    cwd: str


def command(argv: Sequence[str]) -> Command:
    """The command of a command line, as the user who called sudo, in this process's directory."""
    found = caller(os.environ, tuple(os.getgroups()), _account, _groups)
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = "/"
    return Command(tuple(argv), found, cwd)


async def prepare(options: SandboxOptions, signals: Signals) -> Sandbox:
    """Make the namespace and all that belongs to it. Undone again if anything fails.

    Call in the main thread. Raises SandboxError, NoResolver, NetworkError, NoFreeSlot.
    """
    sandbox = Sandbox(options, signals)
    try:
        await sandbox._prepare()
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


class Sandbox:
    """One namespace. Made by `prepare`."""

    plan: Plan
    resolvers: Resolvers
    netns_fd: int
    host_ifindex: int

    def __init__(self, options: SandboxOptions, signals: Signals) -> None:
        """Nothing is made yet."""
        self._options = options
        self._signals = signals
        self._terminal = Terminal()
        self._undo: list[Callable[[], None]] = [self._terminal.restore]
        self._process: SandboxProcess | None = None
        self._ending: int | None = None

    @property
    def host_ifname(self) -> str:
        """The host side of the veth, to which the datapath is attached."""
        return self.plan.interface

    @property
    def pins(self) -> Path:
        """The directory for this instance's pins; it is removed by `close`, and not made here."""
        return self._options.places.pins / self.plan.pins

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self, command: Command) -> None:
        """Run CMD. Raises CommandNotStarted, Interrupted, SandboxError."""
        self._note_ending()
        if self._ending is not None:
            raise Interrupted(self._ending)
        await self._running.launch(self._description(command))

    async def wait(self) -> int:
        """Wait for CMD, passing signals on; its exit status as a shell shows it (128 + signal).

        However this ends, by CMD, by an exception or by being cancelled, nothing inside lives on:
        whoever takes the datapath off afterwards leaves nobody unguarded.
        """
        try:
            return await self._until_exit()
        finally:
            await self.end()

    async def _until_exit(self) -> int:
        status: int | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay_signals)
            while status is None:
                try:
                    change = await self._running.next_change()
                except SandboxError:
                    status = _KILLED  # its init was killed, and it with it
                    continue
                match change:
                    case Stopped():
                        self._terminal.stop_with_command()
                    case Exited():
                        status = change.status
            nursery.cancel_scope.cancel()
        return status

    async def end(self) -> None:
        """Kill CMD and whatever it started; they are gone on return. May be repeated.

        To be called before the datapath is taken off, where `wait` was not.
        """
        if self._process is not None:
            with trio.CancelScope(shield=True):
                await self._process.end()

    async def signal(self, number: int) -> None:
        """Send CMD a signal; nothing happens when it ended."""
        await self._running.signal(number)

    async def interrupted(self) -> int:
        """Before `start`: wait until a signal asks us to end; its number. `start` then refuses."""
        while self._ending is None:
            await trio.lowlevel.wait_readable(self._signals.fd)
            self._note_ending()
        return self._ending

    async def close(self) -> None:
        """End CMD and whatever it started, and leave the host as it was."""
        await self.end()
        with trio.CancelScope(shield=True):
            await self._in_thread(self._close)

    async def _prepare(self) -> None:
        if os.geteuid() != 0:
            raise SandboxError("only root can make a network namespace: run it with sudo")
        # Its start-up overlaps with ours. It dies with this thread, so no worker may start it.
        self._process = SandboxProcess()
        await self._in_thread(self._plan)
        self.netns_fd = await self._process.ready()
        self._undo.append(lambda: os.close(self.netns_fd))
        await self._in_thread(self._connect)

    async def _in_thread(self, step: Callable[[], None]) -> None:
        """Run a blocking step in the network namespace that the main thread is in.

        A worker thread is in the one where it was first started, which need not be that.
        """
        home = current_namespace()
        try:
            await trio.to_thread.run_sync(lambda: _within(home, step))
        finally:
            os.close(home)

    def _plan(self) -> None:
        options = self._options
        facts = network.host_facts()

        def usable(number: int) -> bool:
            candidate = plan(number, facts, options.prefix4, options.prefix6)
            return clash(candidate, facts.destinations) is None

        try:
            slot = take_slot(options.places.run, capacity(options.prefix4, options.prefix6), usable)
            self._undo.append(slot.release)
            network.clear_dead(slot, options.places)
            slot.claim()
        except OSError as error:
            raise SandboxError(
                f"cannot note in {options.places.run} what is in use: {error.strerror}"
            ) from error
        self.plan = plan(slot.number, facts, options.prefix4, options.prefix6)
        self.resolvers = resolvers(_host_resolvers(options), options.resolvers, self.plan)

    def _connect(self) -> None:
        options = self._options
        forwarding = Forwarding(options.places.state)
        self._undo.append(forwarding.release)
        self._undo.append(lambda: network.clear(self.plan.slot, options.places))
        try:
            self.host_ifindex = network.set_up(self.plan, self.netns_fd, options.marks, forwarding)
        except OSError as error:
            raise SandboxError(
                f"cannot set the host's forwarding ({error}); switch on net.ipv4.ip_forward and "
                "net.ipv6.conf.all.forwarding yourself, then nothing needs to be set"
            ) from error

    def _close(self) -> None:
        """Undo in reverse order; every step is tried, the first failure raised at the end."""
        failures = []
        while self._undo:
            try:
                self._undo.pop()()
            except (OSError, NetworkError) as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @property
    def _running(self) -> SandboxProcess:
        if self._process is None:
            raise RuntimeError("the sandbox is not prepared")
        return self._process

    def _description(self, command: Command) -> dict[str, Any]:
        options, who = self._options, command.caller
        return {
            "argv": list(command.argv),
            "environment": dict(who.environment),
            "cwd": command.cwd,
            "uid": who.uid,
            "gid": who.gid,
            "groups": list(who.groups),
            "capabilities": sorted(ROOT_CAPABILITIES.values()) if who.is_root else [],
            "seccomp": seccomp_filter().hex(),
            "blocked_signals": sorted(self._signals.formerly_blocked),
            "hidden_state": str(options.places.state),
            "hidden_paths": [*_NAME_SERVICES, *map(str, options.hidden)],
            "resolv_conf": self.resolvers.resolv_conf,
            "resolv_conf_path": str(options.resolv_conf),
        }

    def _note_ending(self) -> None:
        for caught in self._signals.read():
            if caught.number in ENDING:
                self._ending = caught.number

    async def _relay_signals(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._signals.fd)
            for caught in self._signals.read():
                if not caught.from_kernel:
                    await self._running.signal(caught.number)


def _within(netns_fd: int, step: Callable[[], None]) -> None:
    with entered(netns_fd):
        step()


def _host_resolvers(options: SandboxOptions) -> ResolvConf:
    try:
        return parse(options.resolv_conf.read_text(errors="replace"))
    except FileNotFoundError as error:
        raise NoResolver(
            f"the host has no {options.resolv_conf}, in whose place the command's own would be put"
        ) from error


def _account(uid: int) -> Account | None:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_gid, entry.pw_dir, entry.pw_shell)


def _groups(name: str, gid: int) -> tuple[int, ...]:
    return tuple(os.getgrouplist(name, gid))
