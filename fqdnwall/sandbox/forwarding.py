"""Forwarding sysctls, borrowed from the host and given back.

What was changed is written down under the state directory before it is changed. Every live user
holds a shared lock; whoever finds itself alone, at its end or at its start, gives back what is
written down. So a killed process is no different from one that ended: the kernel drops its lock,
and the next user restores.

IPv4 forwards by the receiving interface's own switch, so only ours and those that have routes are
switched on. IPv6 did so only from Linux 6.17 (`force_forwarding`); before, the one global switch
makes the host a router, which would lose default routes that came by router advertisement, unless
accept_ra is 2 first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fqdnwall.netlink import sysctl
from fqdnwall.netlink.links import links
from fqdnwall.netlink.namespaces import NamespaceKey
from fqdnwall.netlink.routes import routes
from fqdnwall.sandbox.locks import LockFile


@dataclass(frozen=True, slots=True)
class Change:
    """A sysctl to set, and when not to set it back.

    `value` None records the present value only, to be written again after what follows it in the
    order of changes was undone. `unless` names another sysctl and a value: when that holds at the
    end, somebody else needs the setting, and it stays.
    """

    path: str  # below /proc/sys/net, for example ipv4/conf/eth0/forwarding
    value: str | None
    unless: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Recorded:
    path: str
    original: str
    written: str | None
    unless: tuple[str, str] | None


class Forwarding:
    """One user's share in its namespace's forwarding: `take` it, `release` it."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "sysctl"
        key = str(NamespaceKey.current())
        self._state = self._directory / f"{key}.json"
        self._live = LockFile(self._directory / f"{key}.live")

    def take(self, changes: Iterable[Change]) -> None:
        """Apply what is not so yet. Raises OSError where the sysctls cannot be written."""
        with self._turn():
            if not self._live.held:
                self._restore_if_alone()
                self._forget_ended_namespaces()
                self._live.acquire(shared=True)
            for change in changes:
                self._apply(change)

    def release(self) -> None:
        """Give the share back; the last one restores what was found."""
        if self._live.held:
            with self._turn():
                self._live.release(remove=False)
                self._restore_if_alone()

    def restore_leftovers(self) -> None:
        """Give back what dead users of this namespace left changed, when nobody else lives."""
        if not self._live.held and self._state.exists():
            with self._turn():
                self._restore_if_alone()

    def _restore_if_alone(self) -> None:
        if self._live.acquire(blocking=False):
            self._restore()
            self._live.release(remove=True)

    def _forget_ended_namespaces(self) -> None:
        """Nothing can be given back to a namespace that ended with its users."""
        for state in self._directory.glob("*.json"):
            key = NamespaceKey.parse(state.stem)
            live = LockFile(state.with_suffix(".live"))
            if key is not None and not key.may_exist() and live.acquire(blocking=False):
                state.unlink()
                live.release(remove=True)

    def _apply(self, change: Change) -> None:
        current = sysctl.read(change.path)
        if current is None or current == change.value:
            return
        recorded = self._recorded()
        if not any(each.path == change.path for each in recorded):
            entry = _Recorded(change.path, current, change.value, change.unless)
            self._record([*recorded, entry])
        if change.value is not None:
            sysctl.write(change.path, change.value)

    def _restore(self) -> None:
        for entry in reversed(self._recorded()):
            if entry.unless is not None and sysctl.read(entry.unless[0]) == entry.unless[1]:
                continue
            if entry.written is None or sysctl.read(entry.path) == entry.written:
                with suppress(OSError):
                    sysctl.write(entry.path, entry.original)
        self._state.unlink(missing_ok=True)

    def _recorded(self) -> list[_Recorded]:
        try:
            listed = json.loads(self._state.read_text())
        except FileNotFoundError:
            return []
        return [
            _Recorded(**{**entry, "unless": tuple(entry["unless"]) if entry["unless"] else None})
            for entry in listed
        ]

    def _record(self, entries: list[_Recorded]) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps([asdict(entry) for entry in entries]))
        new.replace(self._state)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Only one process reads or writes the state at a time."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = LockFile(self._directory / "lock")
        lock.acquire()
        try:
            yield
        finally:
            lock.release(remove=True)


def forwarding_changes(ifindex: int, ipv6: bool) -> tuple[Change, ...]:
    """What must be so that the host forwards what its other networks answer to `ifindex`.

    The interface's own switches are not among them: they go when it goes.
    """
    others = _routed_interfaces(ifindex)
    found: list[Change] = []
    if sysctl.read("ipv4/conf/all/forwarding") != "1":
        unless = ("ipv4/conf/all/forwarding", "1")
        found += [Change(f"ipv4/conf/{name}/forwarding", "1", unless) for name in others]
    if not ipv6 or sysctl.read("ipv6/conf/all/forwarding") == "1":
        return tuple(found)
    if sysctl.read("ipv6/conf/all/force_forwarding") is None:
        return (*found, *_router_mode(sysctl.interfaces(6)))
    unless = ("ipv6/conf/all/forwarding", "1")
    found += [Change(f"ipv6/conf/{name}/force_forwarding", "1", unless) for name in others]
    return tuple(found)


def _routed_interfaces(but: int) -> tuple[str, ...]:
    """The names of interfaces that lead somewhere, `but` one."""
    leading = {route.ifindex for route in routes() if not route.local}
    return tuple(
        found.name
        for found in links()
        if found.index in leading and found.index != but and not found.loopback
    )


def _router_mode(names: tuple[str, ...]) -> tuple[Change, ...]:
    """The steps that make the host an IPv6 router without losing its own default route."""
    advertised = {route.ifindex for route in routes() if route.from_ra}
    from_ra = [found.name for found in links() if found.index in advertised]
    # Switching `all` back off also switches off those that were on by themselves.
    own = [
        f"ipv6/conf/{name}/forwarding"
        for name in ("default", *names)
        if sysctl.read(f"ipv6/conf/{name}/forwarding") == "1"
    ]
    return (
        *(Change(path, None) for path in own),
        *(Change(f"ipv6/conf/{name}/accept_ra", "2") for name in from_ra),
        Change("ipv6/conf/all/forwarding", "1"),
    )
