"""A directory of policy files: what is in force is each file's last good version.

A file that cannot be read, is not valid or holds no policy is a problem to report, and leaves what
it said before in force; a file that is gone takes its policies along. A file counts as changed when
anything that the file system says of it has changed, its inode and the time of that change (which
nobody can set) included. One that changed this very moment is left alone until it has settled: many
editors empty a file before they write it, and what is half written must not open a door. Pure but
for reading files.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fqdnwall.api.models import Problem, Severity
from policies import (
    BASIC,
    CidrGroup,
    Feature,
    Policy,
    parse_policies,
    unsupported,
)
from policies.model import CidrGroupPeer
from policies.passes import names_behind_passes, without_names_behind_passes
from policies.together import told_apart

ENFORCED = (BASIC - {Feature.NAMED_PORTS}) | {Feature.CIDR_GROUPS}
"""Ports have no names outside a cluster."""
SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 4 << 20
SETTLE_SECONDS = 0.2


class PolicyDirMissing(Exception):
    """The directory is not there or cannot be listed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one text holds: policies, or every error in it."""

    policies: tuple[Policy, ...] = ()
    groups: tuple[CidrGroup, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    """``loaded`` is the last good version, its problems those of the file as it is now.

    ``stamp`` changes whenever the file does.
    """

    stamp: object
    text: str
    loaded: Loaded
    good: str = ""
    """The text of the last good version."""


def load_text(text: str, source: str) -> Loaded:
    """Policies of one text, if all of it is valid and can be enforced."""
    try:
        result = parse_policies(text, source)
    except RecursionError:
        return Loaded(problems=(_error(source, "nested too deeply to be read"),))
    errors = [*result.errors, *unsupported(result.policies, ENFORCED)]
    errors += names_behind_passes(result.policies)
    if errors:
        return Loaded(problems=tuple(_error(source, str(error)) for error in errors))
    if not result.policies and not result.cidr_groups:
        return Loaded(problems=(_error(source, f"{source}: holds no policy"),))
    return Loaded(result.policies, result.cidr_groups)


def combined(loaded: Iterable[Loaded]) -> Loaded:
    """All of it together, with what is wrong between the parts.

    Of policies and groups that have one name (as of objects in a cluster) the first counts.
    """
    loaded = tuple(loaded)
    found = told_apart(
        (policy for each in loaded for policy in each.policies),
        (group for each in loaded for group in each.groups),
    )
    problems = [problem for each in loaded for problem in each.problems]
    problems += [
        Problem(Severity.ERROR, error.source, f"{error}", "the one that was first is in force")
        for error in found.errors
    ]
    problems += [
        Problem(Severity.ERROR, error.source, f"{error}", "until then the rule counts for nothing")
        for error in names_behind_passes(found.policies)
    ]
    names = {group.name for group in found.cidr_groups}
    problems += [
        Problem(
            Severity.WARNING,
            policy.source,
            f"{rule.path}: there is no CiliumCIDRGroup {peer.name}, so the rule selects nothing",
            "put the group into a file beside it",
        )
        for policy in found.policies
        for rule in policy.rules
        for peer in rule.peers or ()
        if isinstance(peer, CidrGroupPeer) and peer.name and peer.name not in names
    ]
    policies = without_names_behind_passes(found.policies)
    return Loaded(policies, found.cidr_groups, tuple(problems))


class PolicyDir:
    """``scan`` whenever it may have changed.

    ``remembered`` are good texts by path, those that an earlier agent had in force; ``clock`` gives
    seconds since the epoch, as files' times are.
    """

    def __init__(
        self,
        directory: Path,
        remembered: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._remembered = remembered or {}
        self._clock = clock
        self._files: dict[Path, _File] = {}
        self._missing: tuple[Problem, ...] = ()
        self._combined = Loaded()

    @property
    def policies(self) -> tuple[Policy, ...]:
        """In the order of the files' names."""
        return self._combined.policies

    @property
    def groups(self) -> tuple[CidrGroup, ...]:
        return self._combined.groups

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*self._missing, *self._combined.problems)

    @property
    def good_texts(self) -> dict[str, str]:
        """By path, what is in force: to be remembered for the next agent."""
        return {str(path): file.good for path, file in self._files.items() if file.good}

    @property
    def uncovered(self) -> tuple[Path, ...]:
        """Files that are not valid and of which no good version is known."""
        files = self._files.items()
        return tuple(path for path, file in files if file.loaded.problems and not file.good)

    @property
    def is_settling(self) -> bool:
        """Whether some file has changed this very moment, and is not read yet."""
        try:
            return any(_is_policy_file(p) and self._settles(p) for p in self.directory.iterdir())
        except OSError:
            return False

    def documents(self) -> tuple[tuple[str, str], ...]:
        """(path, text) of every file, as last read."""
        return tuple((str(path), self._files[path].text) for path in sorted(self._files))

    def scan(self) -> bool:
        """Read what has changed; whether ``policies``, ``groups`` or ``problems`` have."""
        before = (self._missing, self._combined)
        try:
            paths = {p for p in self.directory.iterdir() if _is_policy_file(p)}
        except OSError as error:
            self._missing = (
                Problem(
                    Severity.ERROR,
                    str(self.directory),
                    f"cannot be listed: {error.strerror}",
                    "what was in force stays in force",
                ),
            )
            return before != (self._missing, self._combined)
        self._missing = ()
        files = {}
        for path in sorted(paths):
            before_it = self._files.get(path)
            if not self._settles(path):
                files[path] = self._read(path, before_it)
            elif before_it is not None:
                files[path] = before_it
        if files != self._files:
            self._files = files
            self._combined = combined(file.loaded for file in files.values())
        return before != (self._missing, self._combined)

    def _settles(self, path: Path) -> bool:
        try:
            age = self._clock() - path.stat().st_mtime
        except OSError:
            return False
        return 0 <= age < SETTLE_SECONDS

    def _read(self, path: Path, before: _File | None) -> _File:
        """The file as it is now; ``before`` itself when that has not changed."""
        last = before or self._recalled(path)
        text = before.text if before else ""
        try:
            stamp = _stamp(path)
            if before is not None and before.stamp == stamp:
                return before
            text = _text(path)
        except (OSError, UnicodeDecodeError) as error:
            loaded = replace(last.loaded, problems=(_unreadable(path, error),))
            return _File(None, text, loaded, last.good)
        if before is not None and before.stamp is not None and before.text == text:
            return replace(before, stamp=stamp)
        loaded = load_text(text, str(path))
        if loaded.problems:
            return _File(stamp, text, replace(last.loaded, problems=loaded.problems), last.good)
        return _File(stamp, text, loaded, text)

    def _recalled(self, path: Path) -> _File:
        """What an earlier agent had in force of a file that is not valid now."""
        good = self._remembered.get(str(path), "")
        loaded = load_text(good, str(path)) if good else Loaded()
        return _File(None, "", Loaded(), "") if loaded.problems else _File(None, "", loaded, good)


def _is_policy_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def _stamp(path: Path) -> object:
    """What tells a file from what it was. Raises OSError where it is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if found.st_size > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _text(path: Path) -> str:
    """Raises OSError, UnicodeDecodeError."""
    with path.open(encoding="utf-8") as file:
        return file.read(MAX_BYTES)


def _error(source: str, message: str) -> Problem:
    return Problem(Severity.ERROR, source, message)


def _unreadable(path: Path, error: Exception) -> Problem:
    return Problem(
        Severity.ERROR,
        str(path),
        f"cannot be read: {error}",
        "its last good version stays in force",
    )
