"""Failures of a command, as a person sees them."""

from __future__ import annotations

FAILURE = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells have it."""


class CommandError(Exception):
    """What went wrong in one line, what to do about it in another, and the exit status."""

    def __init__(self, message: str, hint: str = "", exit_status: int = FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_status = exit_status


class UsageError(CommandError):
    """Arguments that make no sense; exit status 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, USAGE)
