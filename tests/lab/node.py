"""A node of the lab: an agent on the host, and a container that it guards."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fqdnwall.api.sockets import Liveness, liveness
from tests.lab.container import Container
from tests.lab.guard import FQDNWALL
from tests.lab.lab import Lab

SOON_SECONDS = 10.0


@dataclass
class Node:
    """An agent on the lab's host, and one container that it guards."""

    lab: Lab
    directory: Path
    box: Container
    transparent: bool = False
    """Whether DNS servers are to see the container's own address."""
    kernel_dns: bool = True
    """Whether the kernel settles DNS where it can, or the proxy all of it."""
    agent: subprocess.Popen[str] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    def start(self) -> None:
        """Starts an agent and waits for its API."""
        resolvers = [part for ip in self.lab.resolvers for part in ("--resolver", ip)]
        config = self.directory / "agent.yaml"
        config.write_text(
            f"transparent-upstream: {str(self.transparent).lower()}\n"
            f"kernel-dns: {str(self.kernel_dns).lower()}\n"
        )
        options = [
            "--config",
            str(config),
            "--policy-dir",
            str(self.directory / "policies"),
            "--socket",
            str(self.socket),
        ]
        with (self.directory / "agent.log").open("a") as log:
            self.agent = self.lab.host.start(
                [str(FQDNWALL), "agent", *options, *resolvers], stdout=log, stderr=log
            )
        agent = self.agent
        soon(lambda: agent.poll() is not None or liveness(self.socket) is Liveness.LIVE, self.log)
        assert agent.poll() is None, self.log()

    def kill(self) -> None:
        """As the kernel would when memory is short."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGKILL)
        self.agent.wait()

    def ask(self, *command: str) -> str:
        """Runs a command of the CLI against this agent; returns what it prints."""
        line = [str(FQDNWALL), *command, "--socket", str(self.socket)]
        done = self.lab.host.run(line)
        assert done.returncode == 0, f"{done.stderr}\n{self.log()}"
        return done.stdout

    def guard(self, app: str = "web") -> None:
        namespace = str(self.box.namespace.path)
        self.ask("endpoint", "add", "--netns", namespace, "--name", "box", "--label", f"app={app}")

    def policy(self, name: str, text: str) -> None:
        (self.directory / "policies" / name).write_text(text)

    def fetch(self, url: str, *options: str) -> int:
        """curl's exit status inside the container: 0 reached, 6 name refused, 28 dropped."""
        command = ["curl", "-4sS", "-o", "/dev/null", "--connect-timeout", "1", *options, url]
        done = self.box.namespace.run(command, resolv_conf=str(self.lab.resolv_conf))
        return done.returncode

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()[-3000:]


def soon(ready: Callable[[], bool], why: Callable[[], str] = str) -> None:
    """Returns when `ready`; fails with what `why` says when that takes too long."""
    deadline = time.monotonic() + SOON_SECONDS
    while not ready():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
