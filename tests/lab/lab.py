"""The lab: a machine with an uplink, and a small internet behind it (see `world`).

    with Lab() as lab:
        lab.host.run(["curl", "--cacert", lab.authority, "https://api.example.com/"],
                     resolv_conf=lab.resolv_conf)

Invariants: a lab's files are in its own directory, which stays locked for as long as it lives; its
namespaces have no names and its processes carry its mark. So labs run side by side, the end of a
lab is complete, and what a killed one left is known as such and cleared by `clear_leftovers` (the
next lab does it).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import dnslib

from tests.lab import certificates, daemons, world
from tests.lab.container import Container
from tests.lab.namespaces import Namespace

MARK = "FQWLAB"
"""In the environment of every process of a lab: the lab's id."""
DIRECTORY = Path("/run/fqwlab")
READY_WITHIN_SECONDS = 10.0
_numbers = itertools.count(1)


class LabError(Exception):
    """The lab could not be built: a server did not come up, or this is not root."""


class Lab:
    """See the module. `host` is where the product runs, `internet` is all the rest."""

    host: Namespace
    internet: Namespace

    def __init__(self) -> None:
        self.id = f"{os.getpid()}-{next(_numbers)}"
        self.directory = DIRECTORY / self.id
        self.resolvers = (str(world.RESOLVER_V4), str(world.RESOLVER_V6))
        self.other_resolvers = (str(world.OTHER_RESOLVER_V4), str(world.OTHER_RESOLVER_V6))
        self.containers: list[Container] = []
        self._daemons: list[daemons.Daemon] = []
        self._teardown = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces: run it as root")
        clear_leftovers()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _build(self) -> None:
        unlocked = DIRECTORY / f"new.{self.id.replace('-', '.')}"  # no lab yet to clear_leftovers
        unlocked.mkdir(parents=True)
        lock = os.open(unlocked, os.O_RDONLY | os.O_CLOEXEC)
        self._teardown.callback(os.close, lock)
        self._teardown.callback(self._remove_directory)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(self.directory)
        self.resolv_conf.write_text("".join(f"nameserver {ip}\n" for ip in self.resolvers))
        self.certificates = certificates.issue(
            self.directory,
            (*world.names(), world.ROTATING_NAME, world.ROTATING_ZONE, f"*.{world.ROTATING_ZONE}"),
            (address for address, _ in world.internet_addresses()),
        )
        self.internet = self.add_namespace("internet")
        self.host = self.add_namespace("host")
        _connect(self.host, self.internet)
        for name in ("knot", "rotating", "unbound", "nginx"):
            daemon = daemons.start(name, self.internet, self.directory, self.certificates)
            self._daemons.append(daemon)
            self._teardown.callback(daemon.stop)
        self._until("nginx", lambda: self._connects(str(world.OPEN_ADDRESS_V4), 443))
        self._until("knot", lambda: self._resolves(str(world.AUTHORITATIVE_V4), "api.example.com"))
        self._until("rotating", lambda: self._resolves(str(world.ROTATING_V4), "a.fresh.example"))
        for resolver in (*self.resolvers, *self.other_resolvers):
            self._until("unbound", lambda ip=resolver: self._resolves(ip, "api.example.com"))  # type: ignore[misc]

    @property
    def authority(self) -> Path:
        """The certificate authority that the lab's web servers are signed by: `curl --cacert`."""
        return self.certificates.authority

    @property
    def resolv_conf(self) -> Path:
        """A resolv.conf that names the lab's resolvers."""
        return self.directory / "resolv.conf"

    def add_namespace(self, role: str) -> Namespace:
        """One more namespace of this lab, connected to nothing."""
        namespace = Namespace.create(role, {MARK: self.id})
        self._teardown.callback(namespace.close)
        return namespace

    def add_container(self, name: str) -> Container:
        """A namespace behind `host`, with a veth pair, as a container engine would make it."""
        container = Container.connect(self.add_namespace(name), self.host, len(self.containers))
        self.containers.append(container)
        return container

    def query(
        self,
        name: str,
        kind: str = "A",
        *,
        server: str | None = None,
        tcp: bool = False,
        udp_octets: int = 1232,
        source: Namespace | None = None,
        timeout_seconds: float = 2.0,
    ) -> dnslib.DNSRecord:
        """Asks `server` (the lab's resolver) from `source` (the host).

        `udp_octets` is the EDNS buffer size; 0 asks without EDNS.

        Raises OSError when no answer comes in time.
        """
        question = dnslib.DNSRecord.question(name, kind)
        if udp_octets:
            question.add_ar(dnslib.EDNS0(udp_len=udp_octets))
        server = server or self.resolvers[0]
        with (source or self.host).entered():
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            udp_or_tcp = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
            asking = socket.socket(family, udp_or_tcp)
        with asking:
            asking.settimeout(timeout_seconds)
            asking.connect((server, 53))
            message = question.pack()
            asking.sendall(len(message).to_bytes(2, "big") + message if tcp else message)
            if not tcp:
                return dnslib.DNSRecord.parse(asking.recv(65535))
            with asking.makefile("rb") as stream:
                length = int.from_bytes(stream.read(2), "big")
                return dnslib.DNSRecord.parse(stream.read(length))

    def addresses_of(self, name: str, kind: str = "A") -> list[str]:
        """What the lab's resolver answers for `name`, asked from the host."""
        answer = self.query(name, kind)
        return [
            str(record.rdata) for record in answer.rr if record.rtype == dnslib.QTYPE.reverse[kind]
        ]

    def forget_answers(self) -> None:
        """Empties the resolver's cache."""
        control = ("unbound-control", "-c", self.directory / "unbound.conf", "flush_zone", ".")
        self.internet.run(control).check_returncode()

    def close(self) -> None:
        """Ends every process that runs in the lab's namespaces, and takes all of it away."""
        self._teardown.close()

    def _remove_directory(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            DIRECTORY.rmdir()

    def _until(self, what: str, ready: Callable[[], bool]) -> None:
        """Returns when `ready`; raises LabError when the daemon `what` ends or takes too long."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        daemon = next(daemon for daemon in self._daemons if daemon.name == what)
        while not ready():
            if daemon.process.poll() is not None or time.monotonic() > deadline:
                raise LabError(
                    f"{what} did not come up; it says:\n{daemon.log.read_text()[-2000:]}"
                )
            time.sleep(0.01)

    def _connects(self, address: str, port: int) -> bool:
        with self.host.entered():
            connection = socket.socket()
        with connection:
            connection.settimeout(0.5)
            return connection.connect_ex((address, port)) == 0

    def _resolves(self, server: str, name: str) -> bool:
        try:
            return bool(self.query(name, server=server, timeout_seconds=0.3).rr)
        except OSError:
            return False


def _connect(host: Namespace, internet: Namespace) -> None:
    """The uplink, the internet's addresses, and the blocks that it serves as a whole."""
    with internet.netlink() as netlink:
        netlink.link(
            "add",
            ifname="downlink0",
            kind="veth",
            peer={"ifname": "uplink0", "net_ns_fd": host.fd},
        )
        downlink = netlink.link_lookup(ifname="downlink0")[0]
        _address(netlink, downlink, str(world.ROUTER_V4), world.UPLINK_V4.prefixlen)
        _address(netlink, downlink, str(world.ROUTER_V6), world.UPLINK_V6.prefixlen)
        netlink.link("set", index=downlink, state="up")
        for address, prefix_length in world.internet_addresses():
            _address(netlink, 1, address, prefix_length)
        for block in (world.FRESH_V4, world.FRESH_V6):
            netlink.route("add", dst=str(block), type="local", table=255, oif=1, scope="host")
    with host.netlink() as netlink:
        uplink = netlink.link_lookup(ifname="uplink0")[0]
        _address(netlink, uplink, str(world.HOST_V4), world.UPLINK_V4.prefixlen)
        _address(netlink, uplink, str(world.HOST_V6), world.UPLINK_V6.prefixlen)
        netlink.link("set", index=uplink, state="up")
        netlink.route("add", dst="default", gateway=str(world.ROUTER_V4))
        netlink.route("add", dst="::/0", gateway=str(world.ROUTER_V6), family=socket.AF_INET6)


IFA_F_NODAD = 0x02


def _address(netlink: object, index: int, address: str, prefix_length: int) -> None:
    """Adds an address that is usable at once: no duplicate address detection."""
    flags = {"flags": IFA_F_NODAD} if ":" in address else {}
    netlink.addr("add", index=index, address=address, prefixlen=prefix_length, **flags)  # type: ignore[attr-defined]


def clear_leftovers() -> list[str]:
    """Takes away what labs left whose process was killed; returns what there was.

    A lab is dead when the lock on its directory is free. Its namespaces ended with it, unless a
    process was left inside: such a one has the lab's mark in its environment.
    """
    cleared = []
    for directory in DIRECTORY.glob("*-*"):
        if is_in_use(directory):
            continue
        for pid in _marked(directory.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            cleared.append(f"process {pid}")
        shutil.rmtree(directory, ignore_errors=True)
        cleared.append(str(directory))
    return cleared


def is_in_use(directory: Path) -> bool:
    """Whether the lab of this directory lives."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _marked(lab_id: str) -> list[int]:
    wanted = f"{MARK}={lab_id}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found
