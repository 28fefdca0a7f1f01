"""The agent's unix socket: taken without a race, and connections that cannot hold the agent up.

A socket file that a dead agent left is replaced, a live agent's is an error. Hypercorn shields its
writes from cancellation, so a peer that does not read could keep a task for ever: here every write
has a limit in time, and ``UnixListener.abort`` ends all connections at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from fqdnwall.api.sockets import PATH_LIMIT, Liveness, liveness

BACKLOG = 64
MAX_CONNECTIONS = 64
"""Served at one time; others wait in the backlog."""
WRITE_SECONDS = 10
LOCK_SECONDS = 5


class SocketInUse(Exception):
    """Another agent listens at the path, or the path is not ours to take."""


class TimedStream(trio.abc.HalfCloseableStream):
    """A socket's stream whose writes end, with BrokenResourceError, within ``WRITE_SECONDS``."""

    def __init__(self, stream: trio.SocketStream, listener: UnixListener) -> None:
        self._stream = stream
        self._listener = listener
        self.socket = stream.socket
        """Hypercorn asks it for the addresses of both ends."""

    async def send_all(self, data: bytes | bytearray | memoryview[int]) -> None:
        with trio.move_on_after(WRITE_SECONDS) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.socket.close()
            raise trio.BrokenResourceError(f"the peer did not read for {WRITE_SECONDS} s")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._listener.forget(self)
        await self._stream.aclose()


class UnixListener(trio.abc.Listener[TimedStream]):
    """Accepts at most ``MAX_CONNECTIONS`` connections at one time."""

    def __init__(self, sock: socket.socket) -> None:
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._free = trio.Semaphore(MAX_CONNECTIONS)
        self._open: set[TimedStream] = set()

    async def accept(self) -> TimedStream:
        await self._free.acquire()
        try:
            stream = TimedStream(await self._listener.accept(), self)
        except BaseException:
            self._free.release()
            raise
        self._open.add(stream)
        return stream

    def forget(self, stream: TimedStream) -> None:
        if stream in self._open:
            self._open.remove(stream)
            self._free.release()

    def abort(self) -> None:
        """End every connection now; what waits to read or write fails."""
        for stream in tuple(self._open):
            stream.socket.close()

    async def aclose(self) -> None:
        await self._listener.aclose()


@asynccontextmanager
async def listening(path: Path, mode: int = 0o660) -> AsyncIterator[UnixListener]:
    """Listen at the path, and remove the socket file at the end if it is still ours.

    The folder is made if it is missing. Raises SocketInUse, or OSError.
    """
    sock = await _take(path, mode)
    listener = UnixListener(sock)
    ours = os.stat(path)
    try:
        yield listener
    finally:
        listener.abort()
        with trio.CancelScope(shield=True):
            await listener.aclose()
        _unlink_if(path, ours)


async def _take(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise SocketInUse(f"{path}: a socket's path has at most {PATH_LIMIT} bytes")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await _lock(folder, path)
        _clear_stale(path)
        return _bind(path, mode)
    finally:
        os.close(folder)  # and with it the lock


async def _lock(folder: int, path: Path) -> None:
    """One agent at a time looks at socket files of this folder and takes its own."""
    with trio.move_on_after(LOCK_SECONDS):
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await trio.sleep(0.01)
            else:
                return
    raise SocketInUse(f"{path.parent} is locked by another process")


def _clear_stale(path: Path) -> None:
    match liveness(path):
        case Liveness.ABSENT:
            return
        case Liveness.LIVE:
            raise SocketInUse(f"an agent already listens at {path}")
        case Liveness.FORBIDDEN:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        case Liveness.DEAD if not path.is_socket():
            raise SocketInUse(f"{path} exists and is not a socket")
        case Liveness.DEAD:
            path.unlink()


def _bind(path: Path, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux makes the file with the socket's own mode less the umask: never open wider.
        os.fchmod(sock.fileno(), mode)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SocketInUse(f"cannot listen at {path}: {error.strerror}") from error
    return sock


def _unlink_if(path: Path, ours: os.stat_result) -> None:
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return
    if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
        path.unlink()
