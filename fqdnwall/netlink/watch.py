"""Being told that interfaces changed, so that one which went away is noticed at once.

Only *that* something changed is told, never what: whoever is woken looks at `links()` again. So
nothing is lost when the kernel's queue overflows, and a look at the start runs the same code.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType

import trio

from fqdnwall.netlink.namespaces import entered

_RTMGRP_LINK = 1


class LinkWatch:
    """Changes of interfaces in one namespace, from the moment this is made.

    with LinkWatch() as watch:
        while True:
            compare(links())
            await watch.changed()
    """

    def __init__(self, netns_fd: int | None = None) -> None:
        """Watch the namespace of `netns_fd`, or the calling thread's."""
        with entered(netns_fd):
            raw = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
        raw.setblocking(False)
        raw.bind((0, _RTMGRP_LINK))
        self._socket = raw

    def __enter__(self) -> LinkWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def changed(self) -> None:
        """Return once something changed since the last call; several changes count as one."""
        await trio.lowlevel.wait_readable(self._socket.fileno())
        while self._received():
            pass

    def _received(self) -> bool:
        try:
            self._socket.recv(65536, socket.MSG_TRUNC)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # overflow: a change like any other
                raise
        return True
