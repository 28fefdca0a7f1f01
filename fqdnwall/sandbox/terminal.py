"""The controlling terminal, when there is one: whose turn it is, and giving it back."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class Terminal:
    """What the terminal was like when the sandbox was made."""

    def __init__(self) -> None:
        self._fd = _open_terminal()
        self._was_ours = self._foreground() == os.getpgrp()

    @property
    def present(self) -> bool:
        """Whether a shell with job control may be watching us."""
        return self._fd is not None

    def stop_with_command(self) -> None:
        """Stop this process, as CMD was stopped; returns when a shell continues it."""
        if self.present:
            os.kill(os.getpid(), signal.SIGSTOP)

    def restore(self) -> None:
        """Take the foreground back from a process group that ended while it had it."""
        if self._fd is None:
            return
        if self._was_ours and self._foreground() != os.getpgrp():
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                with suppress(OSError):
                    os.tcsetpgrp(self._fd, os.getpgrp())
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(self._fd)
        self._fd = None

    def _foreground(self) -> int | None:
        if self._fd is None:
            return None
        try:
            return os.tcgetpgrp(self._fd)
        except OSError:
            return None


def _open_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
