"""Checks of arguments, told as usage errors: the option, what is wrong, what would be right."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fqdnwall.cli.errors import UsageError

T = TypeVar("T")


def parsed(option: str, texts: Sequence[str] | None, parse: Callable[[str], T]) -> tuple[T, ...]:
    """Every text by ``parse`` (one of ``api.options``). Raises UsageError."""
    from fqdnwall.api.options import OptionError

    try:
        return tuple(parse(text) for text in texts or ())
    except OptionError as error:
        raise UsageError(f"{option}: {error}", error.hint) from None


def readable(option: str, paths: Sequence[Path] | None) -> tuple[Path, ...]:
    """The paths made absolute, once they can be read. Raises UsageError."""
    for path in paths or ():
        if not path.is_file() and not path.is_fifo():
            raise UsageError(f"{option}: there is no file {path}", "check the path")
        if not os.access(path, os.R_OK):
            raise UsageError(f"{option}: {path} cannot be read", "check its mode and owner")
    return tuple(absolute(option, path) for path in paths or ())


def absolute(option: str, path: Path) -> Path:
    """The path from the root on. Raises UsageError where the working directory is gone."""
    try:
        return path.absolute()
    except FileNotFoundError:
        raise UsageError(
            f"{option} {path}: the working directory is gone", "give the path from / on, or cd /"
        ) from None


def socket_path(path: Path | None) -> Path | None:
    """Where --socket says to listen, once a socket can be there. Raises UsageError."""
    from fqdnwall.api.sockets import PATH_LIMIT

    if path is None:
        return None
    found = absolute("--socket", path)
    if len(os.fsencode(found)) > PATH_LIMIT:
        raise UsageError(f"--socket: {found} is longer than {PATH_LIMIT} bytes", "take another")
    above = next(each for each in found.parents if each.exists())
    if not above.is_dir():
        raise UsageError(f"--socket: {above} is not a folder", "take another path")
    return found


def parse_labels(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """The labels of --label. Raises UsageError."""
    from fqdnwall.api.options import parse_label

    return parsed("--label", texts, parse_label)


def read_text(path: Path) -> tuple[str, str]:
    """(path, content); ``-`` is stdin. Raises UsageError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8", "is it the right file?") from None
    return str(path), text


def allowed(names: Sequence[str] | None, cidrs: Sequence[str] | None) -> None:
    """Whether ``policies`` can read --allow and --allow-cidr. Raises UsageError."""
    if not names and not cidrs:
        return
    from policies.allow import InvalidAllow, allow_policy

    try:
        allow_policy(names or (), cidrs or ())
    except InvalidAllow as error:
        raise UsageError(
            str(error), "such as api.example.com:443, '*.example.com:443/TCP', [2001:db8::/32]:443"
        ) from None


def pattern(text: str | None) -> None:
    """Whether it is a matchPattern. Raises UsageError."""
    if text is None:
        return
    from policies.names import InvalidName, pattern_selector

    try:
        pattern_selector(text)
    except InvalidName as error:
        raise UsageError(str(error), "such as: -p '*.example.com'") from None
