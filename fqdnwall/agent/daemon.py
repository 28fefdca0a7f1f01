"""``fqdnwall agent``: the firewall of a node, for network namespaces that exist.

What is guarded stays guarded when this process ends, however it ends: programs, maps and links are
pinned, and a new agent takes them over with everything that they hold. Only ``fqdnwall cleanup``
takes them away.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from dnsproxy.config import EngineConfig, UpstreamPolicy
from fqdnwall.agent import names, texts
from fqdnwall.agent.backend import AgentBackend, Hooks
from fqdnwall.agent.config import Config, ConfigError, read_config
from fqdnwall.agent.firewall import REFUSALS, Settings
from fqdnwall.agent.node import Node, host_addresses, host_resolvers, network_namespace
from fqdnwall.agent.policyfiles import PolicyDir
from fqdnwall.agent.service import Agent, Clsact, Setup
from fqdnwall.agent.watch import FolderChanges, network_changes
from fqdnwall.api.listener import SocketInUse
from fqdnwall.api.models import EndpointSpec, Problem, Severity
from fqdnwall.api.options import AgentOptions, CleanupOptions
from fqdnwall.api.server import serve
from fqdnwall.api.sockets import DEFAULT_SOCKET, STATE_DIR, Liveness, liveness
from fqdnwall.datapath import loader
from fqdnwall.datapath.compiler import CompileError
from fqdnwall.datapath.layouts import Mark
from fqdnwall.endpoint.endpoint import Endpoint
from fqdnwall.netlink import (
    NetworkError,
    ProxyMarks,
    add_local_delivery,
    add_proxy_rules,
    remove_local_delivery,
    remove_proxy_rules,
)

log = logging.getLogger("fqdnwall.agent")

SETTLE_SECONDS = 0.05
"""After the first change of several, before looking."""
LOOK_SECONDS = 2.0
"""Between two looks at the policies when nothing tells of a change."""
LOOK_AT_NETWORK_SECONDS = 30.0
SAVE_SECONDS = 2.0
SETTLED_WITHIN_SECONDS = 2.0
"""A policy file that changes again and again is read after so long all the same."""
ROUTING_TABLES = 0x66700000
"""Below those of ``fqdnwall run``: the default agent's first, others by their socket's digest."""


class Instance:
    """Everything that is named after one agent, which is known by its socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        digest = hashlib.sha256(str(socket).encode()).digest()
        default = socket == DEFAULT_SOCKET
        self.name = "agent" if default else f"agent-{digest[:6].hex()}"
        offset = 0 if default else 1 + int.from_bytes(digest[:2], "big") % 0xFFFE
        self.routing_table = ROUTING_TABLES + offset
        self.nft_table = f"fqdnwall-{self.name}"
        self.names = STATE_DIR / f"{self.name}.names.json"
        self.policies = STATE_DIR / f"{self.name}.policies.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time has the datapath of an instance. Raises SocketInUse, LoadError."""
        folder = os.open(loader.folder(self.name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SocketInUse(f"another agent for {self.socket} runs or starts") from None
            yield
        finally:
            os.close(folder)


def main(options: AgentOptions) -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if not options.verbose:
        logging.getLogger("hypercorn").setLevel(logging.ERROR)
    try:
        config = read_config(options.config)
        instance = Instance(options.socket)
        directory = PolicyDir(options.policy_dir, texts.load(instance.policies))
        if not options.policy_dir.is_dir():
            return _fail(f"{options.policy_dir} is no directory of policies")
        trio.run(_Daemon(options, config, directory).main)
    except Exception as error:
        known = _only(error)
        if isinstance(known, EXPLAINED):
            return _fail(str(known))
        raise
    return 0


class PoliciesUnknown(Exception):
    """What is to be enforced cannot be said, and something is guarded already."""


EXPLAINED = (
    OSError,
    PoliciesUnknown,
    ConfigError,
    NetworkError,
    SocketInUse,
    loader.LoadError,
    CompileError,
    *REFUSALS,
)


def _only(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def cleanup(options: CleanupOptions) -> int:
    """Take away what the agent of this socket put in force; the agent itself has ended."""
    instance = Instance(options.socket)
    try:
        if liveness(options.socket) is Liveness.LIVE:
            return _fail(f"the agent at {options.socket} still runs")
        with instance.alone():
            _clear(instance)
        if options.socket.is_socket():
            options.socket.unlink()
    except EXPLAINED as error:
        return _fail(str(error))
    return 0


def _clear(instance: Instance) -> None:
    clsact = Clsact()
    for ifindex in loader.guarded_interfaces(instance.name):
        clsact.detach(ifindex)
    loader.unload(instance.name)
    remove_local_delivery(instance.routing_table)
    remove_proxy_rules(instance.nft_table)
    names.remove(instance.names)
    texts.remove(instance.policies)


class _Daemon:
    """One life of an agent."""

    def __init__(self, options: AgentOptions, config: Config, directory: PolicyDir) -> None:
        self._options = options
        self._config = config
        self._directory = directory
        self._instance = Instance(options.socket)
        self._resolvers = options.resolvers or config.resolvers
        self._clean = False
        self._scope = trio.CancelScope()

    async def main(self) -> None:
        with self._instance.alone():
            if liveness(self._options.socket) is Liveness.LIVE:
                raise SocketInUse(f"an agent serves {self._options.socket} already")
            datapath = loader.load(self._instance.name, self._config.map_sizes)
            agent = Agent(self._setup(), datapath)
            node = Node(agent)
            try:
                node.must_be_the_same_node()
                with self._scope:
                    await self._live(agent, node)
                if self._clean:
                    for endpoint_id in list(agent.firewall.endpoints):
                        node.delete(endpoint_id)
            finally:
                datapath.close()
            if self._clean:
                _clear(self._instance)
                log.info("nothing of this agent is in force any more")

    async def _live(self, agent: Agent, node: Node) -> None:
        add_local_delivery(None, Mark.TO_PROXY, Mark.MASK, self._instance.routing_table)
        marks = ProxyMarks(Mark.TO_PROXY, Mark.FROM_PROXY, Mark.MASK)
        add_proxy_rules(self._instance.nft_table, marks, self._config.transparent_upstream)
        agent.firewall.learning.adopt(names.load(self._instance.names))
        await self._first_scan()
        self._tell(agent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_on_signal)
            await nursery.start(agent.serve)
            restored = node.restore(
                self._directory.policies,
                self._resolvers or host_resolvers(),
                self._directory.groups,
            )
            backend = AgentBackend(agent, self._hooks(node))
            self._options.socket.parent.mkdir(parents=True, exist_ok=True)
            await nursery.start(serve, backend, self._options.socket)
            log.info(
                "in force: %d policies of %s, %d endpoints taken over; API at %s",
                len(agent.firewall.policies),
                self._directory.directory,
                len(restored),
                self._options.socket,
            )
            nursery.start_soon(self._watch_network, agent, node)
            nursery.start_soon(self._watch_policies, agent)
            nursery.start_soon(self._save, agent)

    async def _first_scan(self) -> None:
        """Policies before anything changes in the kernel. Raises PoliciesUnknown.

        What an earlier agent guards must not be let go because a file is broken today.
        """
        await self._settled()
        self._directory.scan()
        uncovered = self._directory.uncovered
        if uncovered and loader.guarded_interfaces(self._instance.name):
            found = "\n".join(problem.message for problem in self._directory.problems)
            raise PoliciesUnknown(
                f"{found}\nno good version of {', '.join(map(str, uncovered))} is known, and "
                "endpoints are guarded: what is in force stays so. Mend the files and start again"
            )
        texts.save(self._instance.policies, self._directory.good_texts)

    async def _settled(self) -> None:
        """Until no policy file is being written."""
        with trio.move_on_after(SETTLED_WITHIN_SECONDS):
            while self._directory.is_settling:  # noqa: ASYNC110 - nothing tells when that ends
                await trio.sleep(SETTLE_SECONDS)

    def _setup(self) -> Setup:
        config = self._config
        return Setup(
            instance=self._instance.name,
            setting="agent",
            socket=self._options.socket,
            settings=Settings(
                audit=self._options.audit,
                per_endpoint=config.learning_scope == "endpoint",
                node=network_namespace(),
            ),
            kernel_dns=config.kernel_dns,
            upstream=UpstreamPolicy(transparent=config.transparent_upstream),
            engine=EngineConfig(
                refusal=config.refusal,
                min_ttl_seconds=config.dns_min_ttl_seconds,
                max_ttl_seconds=config.dns_max_ttl_seconds,
                upstream_timeout_seconds=config.dns_upstream_timeout_seconds,
                in_flight=config.dns_in_flight,
                in_flight_per_endpoint=config.dns_in_flight_per_endpoint,
                tcp_addresses=config.dns_addresses_per_answer,
            ),
        )

    def _hooks(self, node: Node) -> Hooks:
        async def add(spec: EndpointSpec) -> Endpoint:
            return node.add(spec)

        async def delete(endpoint_id: int) -> None:
            node.delete(endpoint_id)

        def shutdown(clean: bool) -> None:
            self._clean = clean
            self._scope.cancel()

        return Hooks(add, delete, None, shutdown, self._directory.documents)

    async def _watch_network(self, agent: Agent, node: Node) -> None:
        """Interfaces that go, addresses that the host gets."""
        wakes = network_changes()
        try:
            while True:
                await wakes.changed(LOOK_AT_NETWORK_SECONDS)
                await trio.sleep(SETTLE_SECONDS)
                for endpoint in node.forget_gone():
                    log.info("endpoint %d is gone with %s", endpoint.id, endpoint.place.interface)
                self._reach(agent, "hosts", lambda: agent.firewall.set_hosts(host_addresses()))
        finally:
            wakes.close()

    async def _watch_policies(self, agent: Agent) -> None:
        folder = FolderChanges(self._directory.directory)
        try:
            while True:
                await folder.changed(
                    SETTLE_SECONDS if self._directory.is_settling else LOOK_SECONDS
                )
                await self._settled()
                if self._directory.scan():
                    self._put_in_force(agent)
        finally:
            folder.close()

    def _put_in_force(self, agent: Agent) -> None:
        self._tell(agent)
        policies, groups = self._directory.policies, self._directory.groups
        if self._reach(agent, "policies", lambda: agent.firewall.set_policies(policies, groups)):
            log.info("in force: %d policies", len(agent.firewall.policies))

    def _reach(self, agent: Agent, about: str, change: Callable[[], None]) -> bool:
        """Whether a change could be made; if not, that is a problem to see to."""
        try:
            change()
        except (*REFUSALS, NetworkError) as error:
            agent.set_problems(
                about,
                [
                    Problem(
                        Severity.ERROR,
                        about,
                        f"{error}; what was in force stays so",
                        "`fqdnwall status` shows how full the maps are",
                    )
                ],
            )
            log.error("%s stay as they were: %s", about, error)  # noqa: TRY400
            return False
        agent.set_problems(about, ())
        return True

    def _tell(self, agent: Agent) -> None:
        agent.set_problems("files", self._directory.problems)
        for problem in self._directory.problems:
            log.warning("%s", problem.message)

    async def _save(self, agent: Agent) -> None:
        """Write names down when they have changed."""
        written = -1
        try:
            while True:
                await trio.sleep(SAVE_SECONDS)
                written = self._save_names(agent, written)
        finally:
            if not self._clean:
                self._save_names(agent, -1)

    def _save_names(self, agent: Agent, written: int) -> int:
        cache = agent.firewall.learning.cache
        if cache.changes != written:
            try:
                names.save(self._instance.names, cache.records())
            except OSError as error:
                problem = Problem(
                    Severity.WARNING,
                    str(self._instance.names),
                    f"cannot be written: {error.strerror}",
                    "without it the next agent knows learned addresses, but not their names",
                )
                agent.set_problems("names", [problem])
            else:
                agent.set_problems("names", ())
        return cache.changes

    async def _end_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                log.info("ending; what is guarded stays guarded (`fqdnwall cleanup` ends that)")
                self._scope.cancel()


def _fail(message: str) -> int:
    print(f"fqdnwall: {message}", file=sys.stderr)
    return 1
