"""The smoke test: an agent guards a box, and what it promises is tried with real packets.

The node is the network namespace that this runs in: a machine's own, or one made for it. Results
are JSON lines on standard output; the last one says that the test came to its end.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from fqdnwall import run
from fqdnwall.agent import daemon
from fqdnwall.api.client import AgentClient
from fqdnwall.api.models import EndpointSpec
from fqdnwall.api.options import AgentOptions, CleanupOptions, RunOptions
from fqdnwall.api.sockets import Liveness, liveness
from fqdnwall.datapath import compiler
from tests.kernels.guest import maps, measure
from tests.kernels.guest.world import (
    CLOSED,
    HUGE,
    MANY,
    SERVER,
    ZONE,
    World,
    child,
    echoes,
    policy_folder,
)

AGENT_SECONDS = 60.0
REFUSED_EVERYWHERE = base64.b64encode(bytes([0x95, 0, 0, 0, 0, 0, 0, 0])).decode()
"""A program that ends without a result."""
SETTINGS = "conntrack-entries: 8192\nlearned-entries: 8192\nipcache-entries: 8192\n"
(API,) = (a for a in ZONE["api.example.com"] if "." in a)
(API6,) = (a for a in ZONE["api.example.com"] if ":" in a)
(EARLY,), (LATE,), (BLUE,) = (
    ZONE[name] for name in ("early.example.com", "late.example.com", "svc-blue.example.net")
)


def tell(**record: object) -> None:
    print(json.dumps({**record, "at": round(time.monotonic(), 1)}), flush=True)


def logged(main: Callable[[], int], path: Path) -> Callable[[], None]:
    """Ends its process with what `main` returns; what is printed goes to a file."""

    def role() -> None:
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 1
        try:
            status = main()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    return role


@dataclass
class Node:
    """The agent of this namespace, in a process of its own."""

    folder: Path
    pid: int = 0

    @property
    def socket(self) -> Path:
        return self.folder / "agent.sock"

    @property
    def client(self) -> AgentClient:
        return AgentClient(self.socket)

    def start(self) -> None:
        options = AgentOptions(
            policy_dir=policy_folder(self.folder / "policies"),
            config=self.folder / "agent.yaml",
            socket=self.socket,
            resolvers=(ip_address(SERVER),),
        )
        (self.folder / "agent.yaml").write_text(SETTINGS)

        self.pid = child(logged(lambda: daemon.main(options), self.folder / "log"))
        deadline = time.monotonic() + AGENT_SECONDS
        while liveness(self.socket) is not Liveness.LIVE:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended or time.monotonic() > deadline:
                self.pid = 0 if ended else self.pid
                raise RuntimeError(f"the agent does not start ({status}):\n{self.log()}")
            time.sleep(0.05)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def close(self) -> None:
        """Ends the agent, and what it put in force."""
        self.kill()
        daemon.cleanup(CleanupOptions(socket=self.socket))

    def log(self) -> str:
        return (self.folder / "log").read_text()


def checks(world: World, node: Node) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What is promised, in order; each is tried when the one before it is done."""
    client = node.client

    def by_kernel() -> int:
        return client.endpoints()[0].dns.by_kernel

    def by_proxy(reason: str) -> int:
        return client.endpoints()[0].dns.by_proxy.get(reason, 0)

    def answers(name: str, wanted: tuple[str, ...], kind: str = "A", *, tcp: bool = False) -> bool:
        told = world.ask(name, kind, tcp=tcp)
        return told.rcode == "NOERROR" and told.addresses == wanted

    yield "an address that nobody learned is dropped", lambda: world.is_dropped(API)
    before = by_kernel()
    yield "an allowed name is answered", lambda: answers("api.example.com", (API,))
    yield "its address is reached", lambda: world.reaches(API)
    yield (
        "over IPv6 too",
        lambda: answers("api.example.com", (API6,), "AAAA") and world.reaches(API6),
    )
    yield "another name is refused", lambda: world.ask("www.example.org").rcode == "REFUSED"
    yield "the kernel alone did so", lambda: by_kernel() == before + 3
    yield "an address that no answer held is dropped", lambda: world.is_dropped(CLOSED)
    yield (
        "30 addresses behind two CNAMEs are learned",
        lambda: (
            answers("www.example.com", MANY) and world.reaches(MANY[0]) and world.reaches(MANY[-1])
        ),
    )
    yield (
        "an answer beyond the bounds is truncated",
        lambda: world.ask("huge.example.com").truncated and world.is_dropped(HUGE[0]),
    )
    yield (
        "and taken over TCP, by the proxy",
        lambda: (
            answers("huge.example.com", HUGE, tcp=True)
            and by_proxy("tcp") == 1
            and world.reaches(HUGE[-1])
        ),
    )
    yield (
        "a star inside a label is judged by the proxy",
        lambda: (
            answers("svc-blue.example.net", (BLUE,))
            and by_proxy("name to be asked about") == 1
            and world.reaches(BLUE)
        ),
    )
    yield (
        "and from then on by the kernel",
        lambda: (
            answers("svc-blue.example.net", (BLUE,)) and by_proxy("name to be asked about") == 1
        ),
    )
    yield (
        "every listing is answered",
        lambda: all(
            listing()
            for listing in (
                client.endpoints,
                client.identities,
                client.policies,
                client.fqdn_cache,
                client.fqdn_names,
                client.ipcache,
                client.learned,
                client.progs,
                client.maps,
                lambda: client.ct_entries(10),
                lambda: client.policy_entries(client.endpoints()[0].id),
            )
        ),
    )
    held = world.connect(API)
    node.kill()
    yield "the agent is dead: a connection lives", lambda: held is not None and echoes(held)
    yield "the agent is dead: what is learned is reached", lambda: world.reaches(API)
    yield (
        "the agent is dead: a new name is learned",
        lambda: answers("early.example.com", (EARLY,)) and world.reaches(EARLY),
    )
    yield (
        "the agent is dead: others are refused",
        lambda: world.ask("www.example.org").rcode == "REFUSED" and world.is_dropped(CLOSED),
    )
    node.start()
    yield (
        "the next agent takes over",
        lambda: (
            len(client.endpoints()) == 1
            and EARLY in {entry.address for entry in client.learned()}
            and world.reaches(EARLY)
            and world.is_dropped(CLOSED)
        ),
    )
    yield (
        "and its proxy serves",
        lambda: answers("late.example.com", (LATE,), tcp=True) and world.reaches(LATE),
    )


def checks_without_kernel_dns(world: World, node: Node) -> Iterator[tuple[str, Callable[[], bool]]]:
    """What holds where the kernel refuses a program that reads DNS."""
    status = node.client.status()
    yield (
        "status says so",
        lambda: (
            not status.kernel_features["kernel dns"]
            and any(problem.subject.startswith("program ") for problem in status.problems)
        ),
    )
    yield (
        "an allowed name is answered, and reached",
        lambda: world.ask("api.example.com").addresses == (API,) and world.reaches(API),
    )
    yield "another name is refused", lambda: world.ask("www.example.org").rcode == "REFUSED"
    yield (
        "the proxy did all of it",
        lambda: node.client.endpoints()[0].dns.by_proxy == {"kernel path off": 2},
    )
    yield "an address that no answer held is dropped", lambda: world.is_dropped(CLOSED)


def run_guards_one_command(node: Node) -> bool:
    """`fqdnwall run` around a visitor, which says by its exit status what it found."""
    visitor = [str(Path(__file__).with_name("visitor.py")), SERVER, "api.example.com", CLOSED]
    options = RunOptions(
        command=("/usr/bin/python3", "-I", "-S", *visitor),
        allow=("api.example.com:80",),
        resolvers=(ip_address(SERVER),),
        quiet=True,
        socket=node.folder / "run.sock",
    )
    log = node.folder / "run.log"
    pid = child(logged(lambda: run.run(options, print), log))
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{os.waitstatus_to_exitcode(status)}: {log.read_text()}")
    return True


def try_all(world: World, node: Node) -> None:
    node.start()
    attempt("without a guard all is reached", lambda: world.reaches(CLOSED) and world.reaches(API))
    guard(world, node)
    for name, check in checks(world, node):
        attempt(name, check)
    node.close()
    attempt("after cleanup nothing guards", lambda: world.reaches(CLOSED))
    attempt("`fqdnwall run` guards a command", lambda: run_guards_one_command(node))


def try_without(program: str, world: World, node: Node) -> None:
    """As on a kernel that refuses this program."""
    compiled: dict[str, Any] = compiler.objects()
    compiled["programs"][program] = {"code": REFUSED_EVERYWHERE, "maps": {}}
    with mock.patch.object(compiler, "objects", return_value=compiled):
        node.start()
    guard(world, node)
    for name, check in checks_without_kernel_dns(world, node):
        attempt(name, check)


def guard(world: World, node: Node) -> None:
    node.client.endpoint_add(
        EndpointSpec(netns=str(world.box.path), name="box", labels=("app=web",))
    )
    status = node.client.status()
    tell(kind="status", attach=status.attach_mode, features=dict(status.kernel_features))


def attempt(name: str, check: Callable[[], bool]) -> None:
    """Tell whether it holds, or what went wrong."""
    started = time.monotonic()
    try:
        passed, why = check(), ""
    except Exception:
        passed, why = False, traceback.format_exc()
    seconds = round(time.monotonic() - started, 2)
    tell(kind="check", name=name, passed=passed, why=why, seconds=seconds)


def main(without: str = "") -> None:
    """Everything, or what holds without a program."""
    tell(kind="kernel", release=platform.release(), machine=platform.machine())
    if not without:
        for record in measure.programs():
            tell(**record)
        for name, check in maps.checks():
            attempt(name, check)
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        world = World()
        try:
            if without:
                try_without(without, world, node)
            else:
                try_all(world, node)
        finally:
            node.close()
            world.close()
            sys.stderr.write(node.log())
    tell(kind="end")


if __name__ == "__main__":
    main(*sys.argv[1:])
