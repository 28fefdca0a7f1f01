"""``fqdnwall run``: one command in a namespace of its own, behind a policy.

    prepare namespace ─┐
    load datapath ─────┼─▶ policy and endpoint into the maps ─▶ attach ─▶ CMD ─▶ report, undo
    start proxy, API ──┘

CMD starts only when everything before it holds. Whatever ends it, the namespace, the datapath and
all that was changed on the host are undone; after a ``kill -9`` the next start does that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from dnsproxy.config import UpstreamPolicy
from fqdnwall import __version__, sandbox
from fqdnwall.agent.backend import AgentBackend, Hooks
from fqdnwall.agent.clock import boot_seconds, rfc3339
from fqdnwall.agent.firewall import Settings
from fqdnwall.agent.node import host_addresses
from fqdnwall.agent.policyfiles import Loaded, combined, load_text
from fqdnwall.agent.service import Agent, Setup
from fqdnwall.api.backend import Conflict
from fqdnwall.api.codec import encode
from fqdnwall.api.listener import SocketInUse
from fqdnwall.api.models import EndpointSpec, Problem, Severity
from fqdnwall.api.options import RunOptions
from fqdnwall.api.report import Report, Subject
from fqdnwall.api.server import serve
from fqdnwall.api.sockets import RUN_DIR
from fqdnwall.datapath import attach, loader
from fqdnwall.datapath.compiler import CompileError
from fqdnwall.datapath.maps import MapFull
from fqdnwall.endpoint.endpoint import Endpoint, Place
from fqdnwall.endpoint.endpoint import Subject as EndpointSubject
from fqdnwall.netlink.errors import NetworkError
from policies import (
    AllowPolicy,
    CidrGroup,
    InvalidAllow,
    Policy,
    allow_policy,
    selected_by,
    selecting_labels,
)

FAILED = 1
SETTLE_SECONDS = 0.05
"""How long the last events of a command may take from the ring into the report."""

SIZES = {
    "conntrack": 65536,
    "learned": 131072,
    "answers": 131072,
    "ipcache": 65536,
    "endpoints": 16,
    "endpoint_stats": 64,
    "policies": 16,
}
"""One command needs smaller maps than a node; see ``layouts.MAPS``."""


class RunError(Exception):
    """The command cannot be guarded; nothing was started. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Timings:
    """Where the time of the start goes: seconds by step."""

    began: float = field(default_factory=boot_seconds)
    last: float = field(default_factory=boot_seconds)
    seconds: dict[str, float] = field(default_factory=dict)

    def done(self, step: str) -> None:
        now = boot_seconds()
        self.seconds[step] = round(now - self.last, 4)
        self.last = now

    def finish(self) -> None:
        self.seconds["first_packet"] = round(boot_seconds() - self.began, 4)


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is to be enforced, checked before anything is made."""

    subject: EndpointSubject
    policies: tuple[Policy, ...]
    groups: tuple[CidrGroup, ...]
    documents: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...] = ()


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


def read_policies(options: RunOptions) -> Guarded:
    """All that the options ask for. Raises RunError where it is not valid or selects nothing."""
    loaded: list[Loaded] = []
    documents: list[tuple[str, str]] = []
    for path in options.policies:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        loaded.append(load_text(text, str(path)))
        documents.append((str(path), text))
    if options.allow or options.allow_cidr or not options.policies:
        allowed = _allowed(options)
        loaded.append(Loaded((allowed.policy,)))
        documents.append((allowed.policy.source, allowed.text))
    found = combined(loaded)
    if errors := [p.message for p in found.problems if p.severity is Severity.ERROR]:
        raise RunError("\n".join(errors), "`fqdnwall policy validate` checks without running")
    subject = EndpointSubject(
        name=os.path.basename(options.command[0]),
        namespace=options.namespace,
        labels=tuple(f"{key}={value}" for key, value in options.labels),
    )
    _must_select(found.policies, subject)
    return Guarded(subject, found.policies, found.groups, tuple(documents), found.problems)


def _allowed(options: RunOptions) -> AllowPolicy:
    try:
        return allow_policy(options.allow, options.allow_cidr, namespace=options.namespace)
    except InvalidAllow as error:
        raise RunError(str(error)) from error


def _must_select(policies: Sequence[Policy], subject: EndpointSubject) -> None:
    labels = subject.identity_labels()
    if any(selected_by(policy, labels, subject.namespace) for policy in policies):
        return
    shown = ", ".join(subject.labels) or "no labels"
    raise RunError(
        f"no policy selects the command ({shown}, namespace {subject.namespace}), "
        "so nothing would be enforced",
        "these would, given by --label and --namespace:\n"
        + "\n".join(f"    {name}: {text}" for name, text in selecting_labels(policies).items()),
    )


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
        self._started = boot_seconds()
        self._status: int | None = None
        self._agent: Agent | None = None
        self._endpoint: Endpoint | None = None

    async def main(self) -> int:
        hidden = (self._options.socket,) if self._options.socket else ()
        prepared = sandbox.SandboxOptions(resolvers=self._options.resolvers, hidden=hidden)
        async with await sandbox.prepare(prepared, self._signals) as box:
            self._timings.done("namespace")
            datapath = await trio.to_thread.run_sync(loader.load, box.plan.pins, SIZES)
            self._timings.done("datapath")
            try:
                return await self._guard(box, datapath)
            finally:
                # Nothing inside may outlive what guards it.
                with trio.CancelScope(shield=True):
                    await box.end()
                datapath.close()
                loader.unload(box.plan.pins)

    async def _guard(self, box: sandbox.Sandbox, datapath: loader.Datapath) -> int:
        agent = self._agent = Agent(self._setup(box), datapath)
        backend = AgentBackend(agent, self._hooks(box))
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.serve)
            agent.setup.socket.parent.mkdir(parents=True, exist_ok=True)
            await nursery.start(serve, backend, agent.setup.socket)
            self._timings.done("proxy and API")
            self._enforce(agent, box)
            agent.attach_mode = attach.attach(datapath, box.host_ifindex, agent.clsact)
            self._timings.done("policy")
            nursery.start_soon(self._report_on_signal)
            await box.start(sandbox.command(self._options.command))
            self._timings.done("command")
            self._timings.finish()
            self._status = await box.wait()
            await trio.sleep(SETTLE_SECONDS)
            nursery.cancel_scope.cancel()
        self._finish()
        return self._status

    def _setup(self, box: sandbox.Sandbox) -> Setup:
        aliases = {str(alias): (str(real), 53) for alias, real in box.resolvers.stubs.items()}
        return Setup(
            instance=box.plan.pins,
            setting="run",
            socket=self._options.socket or RUN_DIR / f"{os.getpid()}.sock",
            settings=Settings(audit=self._options.audit),
            kernel_dns=self._options.kernel_dns,
            # The host masquerades for the sandbox: a server sees the host in either case.
            upstream=UpstreamPolicy(transparent=False, aliases=aliases),
        )

    def _enforce(self, agent: Agent, box: sandbox.Sandbox) -> None:
        firewall = agent.firewall
        place = Place(
            ifindex=box.host_ifindex,
            interface=box.host_ifname,
            addresses=tuple(box.plan.addresses),
        )
        with firewall.batch():
            firewall.set_hosts(host_addresses())
            entries = box.resolvers.entries
            firewall.set_resolvers([entry.address for entry in entries], box.resolvers.stubs)
            firewall.set_policies(self._guarded.policies, self._guarded.groups)
            self._endpoint = firewall.add(self._guarded.subject, place)
        agent.set_problems("policies", (*self._guarded.problems, *self._warnings()))

    def _warnings(self) -> list[Problem]:
        resolved = self._endpoint.resolved if self._endpoint else None
        if resolved is not None and resolved.fqdn_selectors and not resolved.dns:
            return [
                Problem(
                    Severity.WARNING,
                    "toFQDNs",
                    "no rule sends DNS through the proxy, so no name's addresses are learned",
                    "add an egress rule to the resolvers with toPorts 53 and rules.dns",
                )
            ]
        return []

    def _hooks(self, box: sandbox.Sandbox) -> Hooks:
        async def add(_spec: EndpointSpec) -> Endpoint:
            raise Conflict(
                "`fqdnwall run` guards its one command only", "start `fqdnwall agent` for others"
            )

        async def delete(_id: int) -> None:
            raise Conflict("the command's endpoint lives as long as the command", "end the command")

        def shutdown(_cleanup: bool) -> None:
            trio.lowlevel.spawn_system_task(box.signal, signal.SIGTERM)

        return Hooks(add, delete, self.report, shutdown, lambda: self._guarded.documents)

    def report(self) -> Report:
        """What happened until now."""
        agent, endpoint = self._agent, self._endpoint
        assert agent is not None
        assert endpoint is not None
        collector, firewall = agent.collector, agent.firewall
        lost = firewall.maps.events_lost() + firewall.maps.events_suppressed()
        return Report(
            subject=Subject(
                self._guarded.subject.name,
                self._guarded.subject.namespace,
                tuple(sorted(self._guarded.subject.labels)),
                tuple(str(address) for address in endpoint.place.addresses),
            ),
            command=self._options.command,
            started_at=rfc3339(self._started),
            ended_at=rfc3339(boot_seconds()),
            version=__version__,
            exit_status=self._status,
            audit=self._options.audit,
            policies=tuple(policy.title for policy in endpoint.policies),
            queries=collector.queries(),
            names=collector.names(endpoint.id),
            connections=collector.connections(endpoint.id, firewall.maps.conntrack.items()),
            drops=collector.drops(endpoint.id, audited=False),
            would_drop=collector.drops(endpoint.id, audited=True),
            events_lost=lost,
            omitted=dict(collector.omitted),
            seconds=self._timings.seconds,
            problems=agent.all_problems(),
        )

    async def _report_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as received:
            async for _ in received:
                self._tell(self.report())

    def _finish(self) -> None:
        report = self.report()
        self._tell(report)

    def _tell(self, report: Report) -> None:
        if not self._options.quiet:
            self._show(report)
        if self._options.report is not None:
            _write(self._options.report, report)


def _write(path: Path, report: Report) -> None:
    """The whole file or nothing of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(encode(report), indent=2) + "\n")
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        _fail(f"--report {path}: {error.strerror}")


def _fail(message: str, hint: str = "") -> int:
    print(f"fqdnwall: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return FAILED
