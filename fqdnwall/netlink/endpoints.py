"""From a namespace, a process or an interface to the veth whose host side is to be guarded.

A veth counts when its peer is in the caller's namespace and the kernel agrees from both sides:
the indexes name each other, and our number for the peer's namespace is the number that the
kernel gives for the namespace that was asked about.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fqdnwall.netlink.errors import (
    AmbiguousInterface,
    NetworkError,
    NoSuchInterface,
    NotANamespace,
)
from fqdnwall.netlink.links import IPInterface, Link, addresses_of, links
from fqdnwall.netlink.namespaces import (
    current_namespace,
    open_namespace,
    open_namespace_of,
    same_namespace,
)
from fqdnwall.netlink.rtnetlink import rtnetlink

_PAIRED_KINDS = frozenset({"veth", "netkit"})
_UNASSIGNED = 0xFFFFFFFF  # NETNSA_NSID_NOT_ASSIGNED, read as unsigned
_NAMED_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair between the caller's namespace and another one."""

    ifindex: int  # host side
    ifname: str
    mac: str
    inner_ifindex: int
    inner_ifname: str
    inner_mac: str
    inner_addresses: tuple[IPInterface, ...]  # link-local ones last

    def __str__(self) -> str:
        """As an error message lists it."""
        addresses = ", ".join(str(address) for address in self.inner_addresses)
        return f"{self.ifname} (inside: {self.inner_ifname}, {addresses or 'no addresses'})"


def find_by_namespace(path: str | os.PathLike[str]) -> Veth:
    """The one veth of the namespace at `path`.

    Raises NotANamespace, NoSuchInterface, AmbiguousInterface.
    """
    fd = open_namespace(path)
    try:
        return _only(fd, f"namespace {os.fspath(path)}")
    finally:
        os.close(fd)


def find_by_pid(pid: int) -> Veth:
    """The one veth of a process's namespace. Raises as `find_by_namespace`."""
    fd = open_namespace_of(pid)
    try:
        return _only(fd, f"the namespace of pid {pid}")
    finally:
        os.close(fd)


def find_by_interface(ifname: str) -> Veth:
    """The veth whose host side is `ifname`.

    Its namespace is looked for among named ones and those of running processes. Raises
    NoSuchInterface when `ifname` is missing, no veth, or its peer's namespace is not found.
    """
    host = next((found for found in links() if found.name == ifname), None)
    if host is None:
        raise NoSuchInterface(f"interface {ifname}: there is none of that name")
    if host.kind not in _PAIRED_KINDS:
        raise NoSuchInterface(
            f"interface {ifname}: not a veth ({host.kind or 'a device'}), so no namespace is behind"
        )
    if host.peer_nsid is None or host.peer_nsid < 0:
        raise NoSuchInterface(f"interface {ifname}: its peer is not in another namespace")
    for fd in _reachable_namespaces():
        if _number_of(fd) == host.peer_nsid:
            for veth in veths_of(fd):
                if veth.ifindex == host.index:
                    return veth
    raise NoSuchInterface(f"interface {ifname}: the namespace of its peer is not to be found")


def veths_of(netns_fd: int) -> tuple[Veth, ...]:
    """Every veth between the namespace and the caller's."""
    ours = current_namespace()
    try:
        if same_namespace(ours, netns_fd):
            return ()
    finally:
        os.close(ours)
    here = {found.index: found for found in links()}
    number = _number_of(netns_fd)
    return tuple(
        Veth(
            ifindex=host.index,
            ifname=host.name,
            mac=host.mac,
            inner_ifindex=inner.index,
            inner_ifname=inner.name,
            inner_mac=inner.mac,
            inner_addresses=addresses_of(inner.index, netns_fd),
        )
        for inner in links(netns_fd)
        if inner.kind in _PAIRED_KINDS
        and (host := here.get(inner.peer_index or 0)) is not None
        and _are_peers(host, inner, number)
    )


def _are_peers(host: Link, inner: Link, inner_nsid: int | None) -> bool:
    return host.peer_index == inner.index and host.peer_nsid == inner_nsid


def _only(netns_fd: int, what: str) -> Veth:
    ours = current_namespace()
    try:
        if same_namespace(ours, netns_fd):
            raise NotANamespace(f"{what} is the host's own: there is no veth to guard")
    finally:
        os.close(ours)
    found = veths_of(netns_fd)
    if not found:
        raise NoSuchInterface(f"{what} has no veth whose other side is on this host")
    if len(found) > 1:
        listed = "".join(f"\n  {veth}" for veth in found)
        raise AmbiguousInterface(f"{what} has several veths; choose one by --interface:{listed}")
    return found[0]


def _number_of(netns_fd: int) -> int | None:
    """The id that the caller's namespace has for another one, or None."""
    with rtnetlink() as socket:
        answer = socket.get_netnsid(fd=netns_fd) or {}
    number = answer.get("nsid")
    return None if number is None or number < 0 or number == _UNASSIGNED else int(number)


def _reachable_namespaces() -> Iterator[int]:
    """An fd on every namespace that has a name or a process, each once, open while it is used."""
    seen: set[int] = set()
    paths = [*_listed(_NAMED_NAMESPACES), *(p / "ns/net" for p in _listed(Path("/proc")))]
    for path in paths:
        if path.parts[1] == "proc" and not path.parts[2].isdigit():
            continue
        with suppress(OSError, NetworkError):
            inode = path.stat().st_ino
            if inode in seen:
                continue
            seen.add(inode)
            fd = open_namespace(path)
            try:
                yield fd
            finally:
                os.close(fd)


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
