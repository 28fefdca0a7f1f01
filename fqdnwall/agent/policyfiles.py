"""A directory of policy files: what is in force is each file's last good version.

A file that cannot be read or is not valid is a problem to report, and leaves what it said before in
force; a file that is gone takes its policies along. Reading is by content, so that neither clocks
nor editors that replace files matter. Pure but for reading files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fqdnwall.api.models import Problem, Severity
from policies import Policy, parse_policies, unsupported

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 4 << 20


class PolicyDirMissing(Exception):
    """The directory is not there or cannot be listed."""


@dataclass(frozen=True, slots=True)
class _File:
    text: str
    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one text holds: policies, or every error in it."""

    policies: tuple[Policy, ...]
    problems: tuple[Problem, ...]


def load_text(text: str, source: str) -> Loaded:
    """Policies of one text, if all of it is valid and can be enforced."""
    result = parse_policies(text, source)
    errors = (*result.errors, *unsupported(result.policies))
    problems = tuple(Problem(Severity.ERROR, source, str(error)) for error in errors)
    return Loaded(() if problems else tuple(result.policies), problems)


class PolicyDir:
    """``scan`` whenever it may have changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[Path, _File] = {}
        self._missing: tuple[Problem, ...] = ()

    @property
    def policies(self) -> tuple[Policy, ...]:
        """In the order of the files' names."""
        return tuple(p for path in sorted(self._files) for p in self._files[path].policies)

    @property
    def problems(self) -> tuple[Problem, ...]:
        found = [p for path in sorted(self._files) for p in self._files[path].problems]
        return (*self._missing, *found)

    def documents(self) -> tuple[tuple[str, str], ...]:
        """(path, text) of every file, as last read."""
        return tuple((str(path), self._files[path].text) for path in sorted(self._files))

    def scan(self) -> bool:
        """Read what has changed; whether ``policies`` or ``problems`` may have."""
        try:
            paths = {p for p in self.directory.iterdir() if _is_policy_file(p)}
        except OSError as error:
            problem = Problem(
                Severity.ERROR,
                str(self.directory),
                f"cannot be listed: {error.strerror}",
                "what was in force stays in force",
            )
            changed = self._missing != (problem,)
            self._missing = (problem,)
            return changed
        changed = bool(self._missing or self._files.keys() - paths)
        self._missing = ()
        self._files = {path: file for path, file in self._files.items() if path in paths}
        for path in paths:
            changed |= self._read(path)
        return changed

    def _read(self, path: Path) -> bool:
        before = self._files.get(path)
        try:
            text = _text(path)
        except (OSError, UnicodeDecodeError) as error:
            return self._keep(path, before, "", (_unreadable(path, error),))
        if before is not None and before.text == text and text:
            return False
        loaded = load_text(text, str(path))
        if loaded.problems:
            return self._keep(path, before, text, loaded.problems)
        self._files[path] = _File(text, loaded.policies, ())
        return True

    def _keep(
        self, path: Path, before: _File | None, text: str, problems: tuple[Problem, ...]
    ) -> bool:
        after = _File(text, before.policies if before else (), problems)
        self._files[path] = after
        return before is None or before.problems != problems


def _is_policy_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def _text(path: Path) -> str:
    """Raises OSError, UnicodeDecodeError."""
    if path.stat().st_size > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
    return path.read_text()


def _unreadable(path: Path, error: Exception) -> Problem:
    return Problem(
        Severity.ERROR,
        str(path),
        f"cannot be read: {error}",
        "its last good version stays in force",
    )
