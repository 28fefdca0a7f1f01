"""Slots: which instances of `fqdnwall run` live, told by locks alone.

RUN_DIR/<N>.lock is locked for as long as the instance that has slot N lives, and says its pid. A
lock that can be had is a slot that is free, whatever it left behind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fqdnwall.sandbox.locks import LockFile

_LOCK_NAME = re.compile(r"(0|[1-9][0-9]{0,4})\.lock")


class NoFreeSlot(Exception):
    """Every slot is taken, or clashes with the host's own networks."""


class Slot:
    """A slot that this process has."""

    def __init__(self, number: int, lock: LockFile) -> None:
        self.number = number
        self._lock = lock

    def claim(self) -> None:
        """Say whose it is, for whoever clears up after us."""
        self._lock.write(f"{os.getpid()}\n".encode())

    def former_pid(self) -> int | None:
        """The pid of the process that died with this slot, where that is known."""
        text = self._lock.read().strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Give it up; calling again does nothing."""
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
    return Slot(number, lock) if lock.acquire(blocking=False) else None
