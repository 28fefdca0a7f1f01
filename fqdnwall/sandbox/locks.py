"""Lock files: held by a live process, free when it ends, however it ends.

The kernel drops a flock(2) with the last descriptor of the process, so a lock is a liveness test
that cannot be stale. Removing the file on release is safe because whoever gets the lock checks
that the path still names the file it locked, and starts over when it does not.

Invariant: a lock that `acquire` returned with is on the file that the path names.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockFile:
    """A lock on a path. Close-on-exec, so no command inherits it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._fd is not None

    def acquire(self, *, shared: bool = False, blocking: bool = True) -> bool:
        """Take the lock; False when it is somebody else's and `blocking` is off.

        Raises OSError when the file cannot be made.
        """
        if self.held:
            raise RuntimeError(f"{self.path} is locked by this object already")
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, mode)
                if self._names(fd):
                    self._fd = fd
                    return True
            except BlockingIOError:
                os.close(fd)
                return False
            os.close(fd)

    def release(self, *, remove: bool) -> None:
        """Let go; with `remove` (only for an exclusive lock) the file goes too."""
        if self._fd is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    def read(self) -> bytes:
        """The file's contents. Only while held."""
        return os.pread(self._descriptor(), 65536, 0)

    def write(self, contents: bytes) -> None:
        """Replace the file's contents. Only while held."""
        fd = self._descriptor()
        os.ftruncate(fd, 0)
        os.pwrite(fd, contents, 0)

    def _descriptor(self) -> int:
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not locked by this object")
        return self._fd

    def _names(self, fd: int) -> bool:
        try:
            named = self.path.stat()
        except FileNotFoundError:
            return False
        locked = os.fstat(fd)
        return (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)
