"""The archive that a kernel unpacks as its first file system: cpio's `newc` form.

Archives may stand one behind another in one initramfs (Documentation/driver-api/early-userspace),
so that what seldom changes is made once.
"""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath


class Archive:
    """Files by their path inside, without the leading slash; folders come by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: set[str] = set()
        self._inode = 0

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        if path not in self._seen:
            self._folders(path)
            self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        if path not in self._seen:
            self._folders(path)
            self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def folder(self, path: str) -> None:
        self._folders(f"{path}/what is in it")

    def device(self, path: str, major: int, minor: int) -> None:
        self._folders(path)
        self._entry(path, stat.S_IFCHR | 0o600, b"", os.makedev(major, minor))

    def finish(self) -> bytes:
        """The whole archive, padded to where another may begin."""
        self._entry("TRAILER!!!", 0, b"")
        whole = b"".join(self._parts)
        return whole + bytes(-len(whole) % 512)

    def _folders(self, path: str) -> None:
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if str(parent) not in self._seen:
                self._entry(str(parent), stat.S_IFDIR | 0o755, b"")

    def _entry(self, path: str, mode: int, content: bytes, device: int = 0) -> None:
        self._seen.add(path)
        self._inode += 1
        name = path.encode() + b"\0"
        numbers = (
            self._inode,
            mode,
            0,  # uid
            0,  # gid
            1,  # links
            0,  # mtime
            len(content),
            0,  # the device that the file is on
            0,
            os.major(device),
            os.minor(device),
            len(name),
            0,  # checksum
        )
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
