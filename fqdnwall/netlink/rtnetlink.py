"""One short-lived rtnetlink socket for one group of requests.

pyroute2's sockets are tied to the thread that opened them, so none outlives its block. The
`added` and `removed` guards are what makes every operation of this package repeatable: a thing
that is there already, or gone already, is not an error.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fqdnwall.netlink.errors import NetworkError
from fqdnwall.netlink.namespaces import entered

_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EINVAL})


@contextmanager
def rtnetlink(netns_fd: int | None = None) -> Iterator[Any]:
    """A pyroute2 IPRoute in the namespace of `netns_fd` (None: the caller's).

    Raises NetworkError for whatever the kernel refuses within the block.
    """
    with entered(netns_fd):
        socket = IPRoute()
    try:
        yield socket
    except NetlinkError as error:
        raise NetworkError(f"the kernel refused a network change: {error.args[1]}") from error
    finally:
        socket.close()


@contextmanager
def added() -> Iterator[None]:
    """The block adds something that may be there already."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


@contextmanager
def removed() -> Iterator[None]:
    """The block removes something that may be gone already."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in _GONE:
            raise


def index_of(socket: Any, ifname: str) -> int | None:
    """The interface's index, or None when there is none of that name."""
    with suppress(NetlinkError):
        found = socket.link_lookup(ifname=ifname)
        return int(found[0]) if found else None
    return None
