"""Who the command runs as: the user behind sudo, or root.

sudo names its caller in SUDO_UID and SUDO_GID. The account database gives the rest; a uid that it
does not know still works, with no home and its number for a name.

Invariant: pure but for the account look-ups that are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SUDO_VARIABLES = ("SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND", "SUDO_HOME")


@dataclass(frozen=True, slots=True)
class Account:
    """What the account database says of a uid."""

    name: str
    gid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The credentials and the environment of the command."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str]

    @property
    def is_root(self) -> bool:
        """Whether the command keeps root's uid, with fewer capabilities."""
        return self.uid == 0


def caller(
    environment: Mapping[str, str],
    own_groups: tuple[int, ...],
    account: Callable[[int], Account | None],
    groups: Callable[[str, int], tuple[int, ...]],
) -> Caller:
    """The caller behind `environment` of a process that runs as root with `own_groups`.

    Only SUDO_UID counts, and SUDO_GID beside it: root is who could have set them.
    """
    uid = _number(environment.get("SUDO_UID"))
    if not uid:
        return Caller(0, 0, own_groups, dict(environment))
    found = account(uid)
    gid = _number(environment.get("SUDO_GID"))
    if gid is None:
        gid = found.gid if found else uid
    name = found.name if found else str(uid)
    kept = {key: value for key, value in environment.items() if key not in _SUDO_VARIABLES}
    kept |= {
        "HOME": found.home if found else "/",
        "USER": name,
        "LOGNAME": name,
        "SHELL": (found.shell if found else "") or "/bin/sh",
    }
    if "MAIL" in kept:
        kept["MAIL"] = f"/var/mail/{name}"
    members = groups(name, gid) if found else (gid,)
    return Caller(uid, gid, members, kept)


def _number(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal()):
        return None
    return int(text)
