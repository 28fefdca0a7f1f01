"""Network namespaces as file descriptors.

A namespace is named by an open fd, never by a name under /run/netns. The calling *thread* moves
into it for as long as a socket takes to open, and moves back: a netlink socket stays in the
namespace where it was made.

Invariant: `entered` returns with the thread in the namespace that it came from, or raises.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fqdnwall.netlink.errors import NetworkError, NotANamespace

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_NAMESPACE_LINK = re.compile(r"net:\[([0-9]+)\]")  # nsfs, see namespaces(7)
_SO_NETNS_COOKIE = 71  # since Linux 5.14


@contextmanager
def entered(netns_fd: int | None) -> Iterator[None]:
    """Move this thread into the namespace for the block; None stays where we are."""
    if netns_fd is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(netns_fd)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def open_namespace(path: str | os.PathLike[str]) -> int:
    """An fd (close-on-exec) on the network namespace at `path`, for example /run/netns/x.

    Raises NotANamespace when the path is missing, unreadable or something else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotANamespace(f"{os.fspath(path)}: {_why(error)}") from error
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        os.close(fd)
        raise NotANamespace(f"{os.fspath(path)}: not a network namespace") from error
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise NotANamespace(f"{os.fspath(path)}: a namespace, but not a network namespace")
    return fd


def open_namespace_of(pid: int) -> int:
    """An fd on the network namespace of a process. Raises NotANamespace."""
    path = Path(f"/proc/{pid}/ns/net")
    if not path.parent.exists():
        raise NotANamespace(f"pid {pid}: no such process")
    return open_namespace(path)


def same_namespace(one_fd: int, other_fd: int) -> bool:
    """Whether two fds are of one namespace."""
    one, other = os.fstat(one_fd), os.fstat(other_fd)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def current_namespace() -> int:
    """An fd on the calling thread's namespace. The caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True)
class NamespaceKey:
    """A name for a namespace that is not used again before the next boot, and not after it.

    Before Linux 5.14 there is no cookie (0 here), and only the inode number tells namespaces
    apart, which the kernel can give to a later one.
    """

    boot: str  # the boot id, without dashes
    cookie: int
    inode: int

    def __str__(self) -> str:
        """Fit for a file name; `parse` reads it."""
        return f"{self.boot}-{self.cookie:x}-{self.inode}"

    @classmethod
    def parse(cls, text: str) -> NamespaceKey | None:
        """The key that is written so, or None."""
        match text.split("-"):
            case [boot, cookie, inode]:
                try:
                    return cls(boot, int(cookie, 16), int(inode))
                except ValueError:
                    return None
        return None

    @classmethod
    def current(cls) -> NamespaceKey:
        """The key of the calling thread's namespace."""
        inode = Path("/proc/thread-self/ns/net").stat().st_ino
        return cls(_boot_id(), _cookie(), inode)

    def may_exist(self) -> bool:
        """Whether something keeps the namespace: a process, a descriptor or a mount."""
        return self.boot == _boot_id() and self.inode in _reachable_inodes()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def _cookie() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            return 0
    return int.from_bytes(raw, sys.byteorder)


def _reachable_inodes() -> set[int]:
    """The namespaces that a process is in, has open, or that are mounted here."""
    links: list[str] = []
    for pattern in ("[0-9]*/ns/net", "[0-9]*/fd/*"):
        for path in Path("/proc").glob(pattern):
            with suppress(OSError):
                links.append(path.readlink().name)
    links += Path("/proc/self/mountinfo").read_text().split()
    return {int(found.group(1)) for link in links if (found := _NAMESPACE_LINK.fullmatch(link))}


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise NetworkError(f"cannot enter the network namespace: {os.strerror(code)}")


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
