"""The policy texts in force, written down for the next agent: it may find their files broken."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

TEMPORARY = ".new"

log = logging.getLogger(__name__)


def save(path: Path, texts: Mapping[str, str]) -> None:
    """Replace the file in one step. A state directory that cannot be written is only a pity."""
    temporary = path.with_suffix(TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(dict(texts)))
        temporary.rename(path)
    except OSError as error:
        log.warning("cannot remember policies in %s: %s", path, error.strerror)


def load(path: Path) -> dict[str, str]:
    """By the policy file's path; nothing if there is none or it is broken."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): text for name, text in found.items() if isinstance(text, str)}


def remove(path: Path) -> None:
    """Leave no file behind, nor what a save left that was killed."""
    path.unlink(missing_ok=True)
    path.with_suffix(TEMPORARY).unlink(missing_ok=True)
