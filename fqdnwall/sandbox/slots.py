"""Slots: which instances of `fqdnwall run` live, told by locks alone.

RUN_DIR/<N>.lock is locked for as long as the instance that has slot N lives, and says its pid. A
lock that can be had is a slot that is free, whatever it left behind.

Instances that share a network namespace but not the run directory (a container with the host's
network) are told by an abstract unix socket, which belongs to the network namespace, and which the
kernel too drops when its process ends.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fqdnwall.sandbox.locks import LockFile

_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_LOCK_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.lock")


class NoFreeSlot(Exception):
    """Every slot is taken, or clashes with the host's own networks."""


class Slot:
    """A slot that this process has."""

    def __init__(self, number: int, lock: LockFile, presence: socket.socket) -> None:
        self.number = number
        self._lock = lock
        self._presence = presence

    def claim(self) -> None:
        """Say whose it is, for whoever clears up after us."""
        self._lock.write(f"{os.getpid()}\n".encode())

    def former_pid(self) -> int | None:
        """The pid of the process that died with this slot, where that is known."""
        text = self._lock.read().strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Give it up; calling again does nothing."""
        self._presence.close()
        self._lock.release(remove=True)


def take_slot(run_dir: Path, count: int, usable: Callable[[int], bool]) -> Slot:
    """The lowest free slot below `count` that is `usable`. Raises NoFreeSlot, OSError."""
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    clashing = 0
    for number in range(count):
        if not usable(number):
            clashing += 1
            continue
        slot = _try(run_dir, number)
        if slot is not None:
            return slot
    raise NoFreeSlot(
        f"none of {count} address blocks is free: {clashing} clash with the host's networks, "
        f"{count - clashing} are in use"
    )


@contextmanager
def dead_slot(run_dir: Path, number: int) -> Iterator[Slot | None]:
    """Hold a slot while its traces are cleared; None when its instance lives."""
    slot = _try(run_dir, number)
    try:
        yield slot
    finally:
        if slot is not None:
            slot.release()


def recorded_slots(run_dir: Path) -> frozenset[int]:
    """The slots that have a lock file, of a live instance or a dead one."""
    try:
        names = [entry.name for entry in run_dir.iterdir()]
    except FileNotFoundError:
        return frozenset()
    return frozenset(int(m.group(1)) for name in names if (m := _LOCK_NAME.fullmatch(name)))


def _try(run_dir: Path, number: int) -> Slot | None:
    lock = LockFile(run_dir / f"{number}.lock")
    if not lock.acquire(blocking=False):
        return None
    presence = _presence(number)
    if presence is None:
        lock.release(remove=True)
        return None
    return Slot(number, lock, presence)


def _presence(number: int) -> socket.socket | None:
    """The slot's socket in this network namespace; None when an instance of root has it.

    Anybody may bind the name, but only root's word counts.
    """
    name = f"\0fqdnwall/run/{number}"
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        own.bind(name)
        own.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            own.close()
            raise
        if _listener_is_root(name):
            own.close()
            return None
    return own


def _listener_is_root(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.setblocking(False)
        try:
            caller.connect(name)
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except BlockingIOError:  # its queue is full: somebody asks all the time
            return True
        except ConnectionRefusedError:  # gone meanwhile, or bound without listening
            return False
    _, uid, _ = _PEER.unpack(credentials)
    return bool(uid == 0)
