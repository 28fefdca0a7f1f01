"""The sandbox's processes from fqdnwall's side: spawn, launch, relay, wait.

`child.py` tells the other side of this conversation.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

_PATIENCE_SECONDS = 2.0
_SCRIPT = Path(__file__).with_name("child.py")


class SandboxError(Exception):
    """The sandbox cannot be made, or broke; the message is for the person who asked for it."""


class CommandNotStarted(SandboxError):
    """CMD could not be executed; `exit_status` is the shell's for that."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True, slots=True)
class Stopped:
    """CMD was stopped, as by Ctrl-Z."""

    signal: int


@dataclass(frozen=True, slots=True)
class Exited:
    """CMD ended; `status` as a shell would show it: 128 + N for signal N."""

    status: int


class SandboxProcess:
    """The namespaces' first process, and later CMD."""

    def __init__(self) -> None:
        """Start it, in the main thread: it dies with the thread that started it.

        Raises RuntimeError elsewhere.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread lives as long as the sandbox must")
        ours, theirs = socket.socketpair()
        with theirs:
            inherited = _inheritable_fds()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(_SCRIPT),
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=(theirs.fileno(), *inherited),
            )
        ours.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._pending = b""

    @property
    def pid(self) -> int:
        """Of the process whose namespaces they are."""
        return self._process.pid

    async def ready(self) -> int:
        """Wait for the namespaces; an fd on the network namespace. Raises SandboxError."""
        await self._expect("ready")
        return os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def launch(self, description: Mapping[str, Any]) -> None:
        """Execute CMD. Raises CommandNotStarted, SandboxError."""
        await self._send({"launch": dict(description)})
        answer = await self._expect("started", "refused")
        if "refused" in answer:
            raise _not_started(description["argv"][0], *answer["refused"])

    async def signal(self, number: int) -> None:
        """Send CMD a signal; one that ended already gets none."""
        try:
            await self._send({"signal": int(number)})
        except (OSError, trio.ClosedResourceError):
            return

    async def next_change(self) -> Stopped | Exited:
        """Wait until CMD stops or ends. Raises SandboxError when its namespace is lost."""
        answer = await self._expect("stopped", "exited")
        if "stopped" in answer:
            return Stopped(answer["stopped"])
        status = os.waitstatus_to_exitcode(answer["exited"])
        return Exited(status if status >= 0 else 128 - status)

    async def end(self) -> None:
        """End everything inside; it is gone on return. Milliseconds. May be repeated.

        Init ends when the other end of its socket is closed, the kernel kills whatever else is in
        its pid namespace before it is gone itself, and our child waits for that.
        """
        self._socket.close()
        if self._process.poll() is not None:
            return
        ended = os.pidfd_open(self.pid)
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                await trio.lowlevel.wait_readable(ended)
            if self._process.poll() is None:
                self._process.kill()
                await trio.lowlevel.wait_readable(ended)
        finally:
            os.close(ended)
        self._process.wait()

    async def _send(self, message: Mapping[str, Any]) -> None:
        remaining = memoryview(json.dumps(message).encode() + b"\n")
        while remaining:
            sent = await self._socket.send(remaining)
            remaining = remaining[sent:]

    async def _expect(self, *kinds: str) -> dict[str, Any]:
        message = await self._receive()
        if message is None:
            raise SandboxError("the sandbox was killed")
        if "broken" in message:
            raise SandboxError(f"cannot make the sandbox: {message['broken']}")
        if not any(kind in message for kind in kinds):
            raise RuntimeError(f"the sandbox says {message} where {kinds} was due")
        return message

    async def _receive(self) -> dict[str, Any] | None:
        while b"\n" not in self._pending:
            try:
                chunk = await self._socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return None
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


def _not_started(name: str, code: int, text: str) -> CommandNotStarted:
    # POSIX, "Exit Status for Commands": 127 not found, 126 found but not executable.
    if code in (2, 20):  # ENOENT, ENOTDIR
        what = "no such file, or its interpreter is missing" if "/" in name else "command not found"
        return CommandNotStarted(f"{name}: {what}", 127)
    return CommandNotStarted(f"{name}: cannot be executed: {text}", 126)


def _inheritable_fds() -> tuple[int, ...]:
    """What the shell handed on above standard error: CMD gets it too. Python's own are private."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:  # the listing's own descriptor
            continue
    return tuple(found)
