"""A command under guard, once its namespace and its datapath are there.

start proxy, API ─▶ policy and endpoint into the maps ─▶ attach ─▶ CMD ─▶ report
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from dnsproxy.config import UpstreamPolicy
from fqdnwall import __version__, sandbox
from fqdnwall.agent.backend import AgentBackend, Hooks
from fqdnwall.agent.clock import boot_seconds, rfc3339
from fqdnwall.agent.firewall import Settings
from fqdnwall.agent.guarded import Guarded, Timings
from fqdnwall.agent.node import host_addresses
from fqdnwall.agent.service import Agent, Setup
from fqdnwall.api.backend import Conflict
from fqdnwall.api.codec import encode
from fqdnwall.api.models import EndpointSpec, Problem, Severity
from fqdnwall.api.options import RunOptions
from fqdnwall.api.report import Report, Subject
from fqdnwall.api.server import serve
from fqdnwall.api.sockets import RUN_DIR
from fqdnwall.datapath import attach, loader
from fqdnwall.endpoint.endpoint import Endpoint, Place

SETTLE_SECONDS = 0.05
"""How long the last events of a command may take from the ring into the report."""


class GuardedCommand:
    """From the first rule in force to the report. ``guard`` runs it once."""

    def __init__(
        self,
        options: RunOptions,
        guarded: Guarded,
        show: Callable[[Report], None],
        timings: Timings,
    ) -> None:
        self._options = options
        self._guarded = guarded
        self._show = show
        self._timings = timings
        self._started = boot_seconds()
        self._status: int | None = None
        self._agent: Agent | None = None
        self._endpoint: Endpoint | None = None

    async def guard(self, box: sandbox.Sandbox, datapath: loader.Datapath) -> int:
        """Run the command; its exit status."""
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
        self._tell(self.report())
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

    def _tell(self, report: Report) -> None:
        if not self._options.quiet:
            self._show(report)
        if self._options.report is not None:
            _write(self._options.report, report)


def _write(path: Path, report: Report) -> None:
    text = json.dumps(encode(report), indent=2) + "\n"
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text)  # a device, a pipe: what others use is not to be replaced
        else:
            _replace(path, text)
    except OSError as error:
        print(f"fqdnwall: --report {path}: {error.strerror}", file=sys.stderr)


def _replace(path: Path, text: str) -> None:
    """The whole file or nothing of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
