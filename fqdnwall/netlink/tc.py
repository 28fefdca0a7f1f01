"""BPF programs on an interface through the clsact qdisc, for kernels without tcx (before 6.6).

Each direction has at most one filter of ours, in direct-action mode, under a fixed preference and
handle, so that attaching again replaces it in one step: no packet passes between two programs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from pyroute2.protocols import ETH_P_ALL

from fqdnwall.netlink.rtnetlink import added, removed, rtnetlink


class Hook(IntEnum):
    """Where on the interface; the values are the kernel's clsact parents."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


PREFERENCE = 1
HANDLE = 0xFD


def attach_bpf(ifindex: int, hook: Hook, program_fd: int, name: str) -> None:
    """Attach a program, or replace the one that was attached so."""
    with rtnetlink() as socket:
        with added():
            socket.tc("add", "clsact", ifindex)
        socket.tc(
            "replace-filter",
            "bpf",
            ifindex,
            HANDLE,
            parent=int(hook),
            prio=PREFERENCE,
            protocol=ETH_P_ALL,
            fd=program_fd,
            name=name,
            direct_action=True,
        )


def detach_bpf(ifindex: int, hook: Hook) -> None:
    """Take our program off; the qdisc goes with the last filter of anybody's."""
    with rtnetlink() as socket:
        with removed():
            socket.tc(
                "del-filter",
                "bpf",
                ifindex,
                HANDLE,
                parent=int(hook),
                prio=PREFERENCE,
                protocol=ETH_P_ALL,
            )
        if not any(_filters(socket, ifindex, each) for each in Hook):
            with removed():
                socket.tc("del", "clsact", ifindex)


def attached_bpf(ifindex: int, hook: Hook) -> str | None:
    """The name under which our program is attached, or None."""
    with rtnetlink() as socket:
        for message in _filters(socket, ifindex, hook):
            if message["handle"] == HANDLE:
                options = message.get_attr("TCA_OPTIONS")
                return str(options.get_attr("TCA_BPF_NAME")) if options else ""
    return None


def _filters(socket: Any, ifindex: int, hook: Hook) -> list[Any]:
    with removed():
        return [
            message
            for message in socket.get_filters(index=ifindex, parent=int(hook))
            if message["handle"]
        ]
    return []
