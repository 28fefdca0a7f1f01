"""A namespace that plays the host, and a server behind its uplink that knows only the uplink.

    sandbox --- fqw<N> [host] up0 --- srv0 [server]
                        203.0.113.2      203.0.113.1      2001:db8:1::/64

The server answers every connection with the client's address: what it sees was masqueraded or it
would have no way back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pyroute2 import IPRoute

from fqdnwall.netlink import links, sysctl
from fqdnwall.netlink.masquerade import masquerade_tables
from fqdnwall.netlink.routes import local_delivery_tables
from tests.lab.namespaces import Namespace

SERVER4, SERVER6 = "203.0.113.1", "2001:db8:1::1"
HOST4, HOST6 = "203.0.113.2", "2001:db8:1::2"
PORT = 8080

_SERVER = f"""
import socketserver, socket
class Tell(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.client_address[0].removeprefix("::ffff:").encode() + b"\\n")
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
server = Server(("::", {PORT}), Tell)
print("ready", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Host:
    """The two namespaces and a state directory that no other test shares."""

    namespace: Namespace
    server: Namespace
    state: Path
    directory: Path
    pipes: list[IO[str]] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def created(cls, directory: Path) -> Iterator[Host]:
        with contextlib.ExitStack() as cleanup:
            host = cls(
                Namespace.create("host", {}),
                Namespace.create("server", {}),
                directory / "state",
                directory,
            )
            cleanup.callback(host.namespace.close)
            cleanup.callback(host.server.close)
            _connect(host.namespace, host.server)
            process = host.server.start([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)
            assert process.stdout.readline() == "ready\n"
            cleanup.callback(process.stdout.close)
            yield host
            for pipe in host.pipes:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def command(self, argv: Sequence[str], *options: str | Path) -> list[str]:
        """The command line of the runner."""
        runner = [sys.executable, "-m", "tests.sandbox.runner", str(self.state)]
        return [*runner, *map(str, options), "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *options: str | Path,
        env: dict[str, str] | None = None,
        resolv_conf: str = "nameserver 203.0.113.53\n",
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in a sandbox to its end."""
        return self.namespace.run(
            self.command(argv, *options), env=env, resolv_conf=self.resolv_conf(resolv_conf)
        )

    def start(
        self, argv: Sequence[str], *options: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a sandbox with `argv`; its output and errors come by pipes."""
        process = self.namespace.start(
            self.command(argv, *options),
            env=env,
            resolv_conf=self.resolv_conf("nameserver 203.0.113.53\n"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pipes.extend(pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe)
        return process

    def resolv_conf(self, text: str) -> str:
        """The path of a resolv.conf that stands in for the host's."""
        path = self.directory / "resolv.conf"
        path.write_text(text)
        return str(path)

    def leftovers(self) -> list[str]:
        """All that an instance could have left in this host, but what any host has."""
        with self.namespace.entered():
            found = [f"link {each.name}" for each in links() if each.name not in ("lo", "up0")]
            found += [f"rule for table {table:#x}" for table in local_delivery_tables()]
            found += [f"nftables {name}" for name in masquerade_tables("fqdnwall")]
            with IPRoute() as socket:
                found += [
                    f"route in {route.get_attr('RTA_TABLE'):#x}"
                    for family in (2, 10)
                    for route in socket.get_routes(family=family)
                    if (route.get_attr("RTA_TABLE") or 0) > 255
                ]
            found += [
                f"{name} = {sysctl.read(name)}"
                for name in (
                    "ipv4/conf/all/forwarding",
                    "ipv4/conf/up0/forwarding",
                    "ipv6/conf/all/forwarding",
                    "ipv6/conf/up0/forwarding",
                    "ipv6/conf/up0/force_forwarding",
                )
                if sysctl.read(name) not in (None, "0")
            ]
        found += [str(path) for path in self.state.rglob("*") if not path.is_dir()]
        pins = self.state / "pins"
        return found + [str(path) for path in (pins.iterdir() if pins.is_dir() else ())]

    def plan(self, name: str = "plan") -> dict[str, Any]:
        """What the runner wrote with --plan, once it has."""
        path = self.directory / name
        eventually(path.exists)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def eventually(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait for what the kernel or another process does in its own time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to be so"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def pids_with(argument: str) -> list[int]:
    """The processes that were started with exactly this argument."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if argument.encode() in line:
                    found.append(int(entry.name))
    return found


def _connect(host: Namespace, server: Namespace) -> None:
    with host.netlink() as ours, server.netlink() as theirs:
        ours.link("add", ifname="up0", kind="veth", peer={"ifname": "srv0", "net_ns_fd": server.fd})
        for socket, name, v4, v6 in (
            (ours, "up0", HOST4, HOST6),
            (theirs, "srv0", SERVER4, SERVER6),
        ):
            index = socket.link_lookup(ifname=name)[0]
            socket.link("set", index=index, state="up")
            socket.addr("add", index=index, address=v4, prefixlen=24)
            socket.addr("add", index=index, address=v6, prefixlen=64, flags=2)
        ours.route("add", dst="default", gateway=SERVER4)
        ours.route("add", dst="default", gateway=SERVER6, family=10)
