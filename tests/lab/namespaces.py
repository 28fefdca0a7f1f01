"""Network namespaces of the lab, and running things inside them.

A namespace is entered with setns(CLONE_NEWNET) and nothing else: `ip netns exec` would also mount
a fresh /sys over /sys/fs/bpf and so hide the pins of the product under test. The calling thread
enters, does its one thing (opens a socket, starts a process) and leaves; what it opened or started
stays in the namespace.

Invariants: a namespace has no name in the file system; an open descriptor holds it, so that it ends
with its owner, however that ends. A process started here dies with the thread that started it
(PR_SET_PDEATHSIG), so that a test run that is killed leaves no daemon.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pyroute2 import IPRoute

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)

File = int | IO[Any] | None


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, held open by `fd`; `role` is for people.

    `mark` is added to the environment of every process that is started inside.
    """

    role: str
    mark: Mapping[str, str]
    fd: int
    started: list[subprocess.Popen[Any]] = field(default_factory=list, compare=False)

    @classmethod
    def create(cls, role: str, mark: Mapping[str, str]) -> Namespace:
        """A new namespace with its loopback up."""
        before = _own_namespace()
        try:
            _checked(_libc.unshare(CLONE_NEWNET), "unshare network")
            try:
                namespace = cls(role, mark, _own_namespace())
            finally:
                _checked(_libc.setns(before, CLONE_NEWNET), "setns back")
        finally:
            os.close(before)
        with namespace.netlink() as netlink:
            netlink.link("set", index=1, state="up")
        return namespace

    @property
    def path(self) -> Path:
        """What `--netns PATH` takes, for as long as this process lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self.fd}")

    def processes(self) -> list[int]:
        """The ids of the processes that are inside."""
        inode = os.fstat(self.fd).st_ino
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{entry.name}/ns/net").st_ino == inode:
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Kills what still runs inside, and lets go: the kernel then ends the namespace.

        Raises TimeoutError when a process does not end.
        """
        for process in self.started:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 5
        while processes := self.processes():
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {processes} in {self.role} do not end")
            time.sleep(0.01)
        os.close(self.fd)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside. Nothing that may switch tasks belongs in the block."""
        before = _own_namespace()
        try:
            _checked(_libc.setns(self.fd, CLONE_NEWNET), f"setns {self.role}")
            try:
                yield
            finally:
                _checked(_libc.setns(before, CLONE_NEWNET), "setns back")
        finally:
            os.close(before)

    @contextlib.contextmanager
    def netlink(self) -> Iterator[Any]:
        """A netlink socket of this namespace."""
        with self.entered():
            netlink = IPRoute()
        try:
            yield netlink
        finally:
            netlink.close()

    def write_setting(self, name: str, value: str) -> None:
        """Writes a file below /proc/sys/net, whose value is the namespace's own."""
        with self.entered():
            Path("/proc/sys/net", name).write_text(value)

    def start(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        resolv_conf: str | None = None,
        stdin: File = subprocess.DEVNULL,
        stdout: File = None,
        stderr: File = None,
        text: bool = True,
        new_session: bool = False,
        directory: Path | None = None,
    ) -> subprocess.Popen[Any]:
        """Starts `command` inside.

        With `resolv_conf`, a file's path, the process sees that file as /etc/resolv.conf, in a
        mount namespace of its own; /sys/fs/bpf is the machine's.
        """

        def prepare_child() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if resolv_conf is not None:
                _bind_over(resolv_conf, "/etc/resolv.conf")

        with self.entered():
            process = subprocess.Popen(
                [os.fspath(part) for part in command],
                env={**os.environ, **self.mark, **(env or {})},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                text=text,
                start_new_session=new_session,
                cwd=directory,
                preexec_fn=prepare_child,
            )
        self.started.append(process)
        return process

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        timeout_seconds: float = 30,
        env: Mapping[str, str] | None = None,
        resolv_conf: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `command` inside to its end; its output is captured.

        Raises subprocess.TimeoutExpired after killing it when it takes longer.
        """
        process = self.start(
            command,
            env=env,
            resolv_conf=resolv_conf,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                out, err = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        self.started.remove(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _bind_over(source: str, target: str) -> None:
    _checked(_libc.unshare(CLONE_NEWNS), "unshare mounts")
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private")
    real_target = os.path.realpath(target).encode()
    _checked(_libc.mount(source.encode(), real_target, None, MS_BIND, None), f"bind {target}")
