"""What is under test: the agent of this network namespace, and `fqdnwall run` in it."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from fqdnwall import run
from fqdnwall.agent import daemon
from fqdnwall.api.client import AgentClient
from fqdnwall.api.options import AgentOptions, CleanupOptions, RunOptions
from fqdnwall.api.sockets import Liveness, liveness
from tests.kernels.guest.world import CLOSED, SERVER, SERVER6, child, policy_folder

AGENT_SECONDS = 60.0
SETTINGS = "conntrack-entries: 8192\nlearned-entries: 8192\nipcache-entries: 8192\n"


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
            resolvers=(ip_address(SERVER), ip_address(SERVER6)),
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
