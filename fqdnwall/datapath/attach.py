"""Attaching an endpoint's two programs to its host-side interface.

Where the kernel has tcx links (6.6) each is a link, pinned under the instance's ``links`` folder so
that it outlives the agent; elsewhere clsact filters, which the interface itself keeps. Attaching
again swaps the program in place: at no moment is an endpoint without its guard.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Protocol

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.loader import LINKS, Datapath

HOOKS = {"from_endpoint": libbpf.TCX_INGRESS, "to_endpoint": libbpf.TCX_EGRESS}


class Clsact(Protocol):
    """The netlink way, for kernels without tcx."""

    def attach(self, ifindex: int, from_endpoint_fd: int, to_endpoint_fd: int) -> None: ...

    def detach(self, ifindex: int) -> None: ...


def attach(datapath: Datapath, ifindex: int, clsact: Clsact) -> str:
    """Attach both programs; says ``tcx`` or ``clsact``. Raises OSError."""
    try:
        for name, attach_type in HOOKS.items():
            _attach_link(datapath, ifindex, name, attach_type)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        clsact.attach(ifindex, datapath.programs["from_endpoint"], datapath.programs["to_endpoint"])
        return "clsact"
    return "tcx"


def _attach_link(datapath: Datapath, ifindex: int, name: str, attach_type: int) -> None:
    path = datapath.pins / LINKS / f"{ifindex}-{name}"
    program = datapath.programs[name]
    with contextlib.suppress(FileNotFoundError):
        link = libbpf.pinned(str(path))
        try:
            libbpf.link_update(link, program)
        except OSError as error:
            if error.errno not in (errno.ENOLINK, errno.ENODEV):
                raise
            path.unlink()  # the interface it was on is gone
        else:
            return
        finally:
            os.close(link)
    link = libbpf.tcx_attach(program, ifindex, attach_type)
    try:
        libbpf.pin(link, str(path))
    finally:
        os.close(link)


def detach(datapath: Datapath, ifindex: int, clsact: Clsact) -> None:
    """Take both programs off; nothing happens where there are none.

    They are off when this returns: a link whose pin is removed is released some time later.
    """
    for name in HOOKS:
        path = datapath.pins / LINKS / f"{ifindex}-{name}"
        with contextlib.suppress(FileNotFoundError):
            link = libbpf.pinned(str(path))
            try:
                libbpf.link_detach(link)
            finally:
                os.close(link)
            path.unlink()
    clsact.detach(ifindex)


def is_attached(datapath: Datapath, ifindex: int) -> bool:
    """Whether the pinned links still hold on to an interface; true where there are none (clsact).

    An interface that was made anew under the same number and name has no guard.
    """
    for name in HOOKS:
        with contextlib.suppress(FileNotFoundError):
            link = libbpf.pinned(str(datapath.pins / LINKS / f"{ifindex}-{name}"))
            try:
                if libbpf.link_ifindex(link) != ifindex:
                    return False
            finally:
                os.close(link)
    return True


def forget(datapath: Datapath, ifindex: int) -> None:
    """Take away the links of an interface that is gone."""
    for name in HOOKS:
        (datapath.pins / LINKS / f"{ifindex}-{name}").unlink(missing_ok=True)


def attached(datapath: Datapath) -> Iterator[int]:
    """Interface indices that have a pinned link."""
    seen = {int(entry.name.split("-")[0]) for entry in (datapath.pins / LINKS).iterdir()}
    yield from sorted(seen)
