"""Being woken when a folder or the host's network changes, so that nothing polls in a hurry.

Only *that* something changed is told, never what: whoever is woken looks again. So nothing is lost
when a queue overflows, and a look from time to time, for what no event tells of (a file behind a
symbolic link, a network file system), runs the same code.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from pathlib import Path

import trio

LINKS, IPV4_ADDRESSES, IPV6_ADDRESSES = 0x1, 0x10, 0x100  # linux/rtnetlink.h, RTMGRP_*

# sys/inotify.h. Not IN_MODIFY: half a file is not worth a look.
_WRITTEN, _MOVED, _CREATED, _DELETED, _GONE = 0x8, 0xC0, 0x100, 0x200, 0xC00
_MASK = _WRITTEN | _MOVED | _CREATED | _DELETED | _GONE


class Wakes:
    """A descriptor that is readable when there is news. Close it in the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)

    async def changed(self, within_seconds: float) -> bool:
        """Wait for news, several of which count as one; false when there were none in time."""
        with trio.move_on_after(within_seconds) as scope:
            await trio.lowlevel.wait_readable(self._fd)
        while self._read():
            pass
        return not scope.cancelled_caught

    def _read(self) -> bool:
        try:
            return bool(os.read(self._fd, 65536))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # overflow: a change like any other
                raise
            return True


def network_changes() -> Wakes:
    """Of interfaces and addresses in the caller's network namespace."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    raw = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    raw.bind((0, LINKS | IPV4_ADDRESSES | IPV6_ADDRESSES))
    return Wakes(raw.detach())


class FolderChanges:
    """Of the files in a folder, which may go away and come back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "inotify: too many watches; see fs.inotify sysctls")
        self._wakes = Wakes(fd)
        self._fd = fd

    def close(self) -> None:
        self._wakes.close()

    async def changed(self, within_seconds: float) -> bool:
        # Watching what is watched already changes nothing; what came in its place is new.
        self._libc.inotify_add_watch(self._fd, os.fsencode(self._folder), _MASK)
        return await self._wakes.changed(within_seconds)
