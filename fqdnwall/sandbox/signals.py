"""Signals as things to read, with who sent them.

CMD shares fqdnwall's process group, so what the terminal sends (Ctrl-C, Ctrl-\\, Ctrl-Z) reaches
it without our doing; only what a process sent to fqdnwall is for us to pass on. signalfd(2) tells
the two apart by si_code, which Python's own handlers do not show.

The signals must be blocked in every thread, or one that does not block them dies of them: enter
`caught_signals` in the main thread before anything starts a thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
CAUGHT = ENDING | {signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT}

_SIGINFO = struct.Struct("<IiiII108x")  # struct signalfd_siginfo: signo, errno, code, pid, uid
_SI_KERNEL = 0x80
_SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGSET_OCTETS = 128


@dataclass(frozen=True, slots=True)
class Caught:
    """A signal that arrived."""

    number: signal.Signals
    from_kernel: bool  # by the terminal, to the whole process group
    sender: int  # pid, 0 from the kernel


class Signals:
    """The readable end; `fd` becomes readable when something arrived."""

    def __init__(self, fd: int, formerly_blocked: frozenset[int]) -> None:
        self.fd = fd
        self.formerly_blocked = formerly_blocked

    def read(self) -> tuple[Caught, ...]:
        """All that arrived since the last call; never waits."""
        found: list[Caught] = []
        while True:
            try:
                raw = os.read(self.fd, _SIGINFO.size)
            except BlockingIOError:
                return tuple(found)
            number, _, code, pid, _ = _SIGINFO.unpack(raw)
            found.append(Caught(signal.Signals(number), code == _SI_KERNEL, pid))


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Block and collect `CAUGHT` for the block. What is pending at its end is dropped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
    fd = _signalfd(CAUGHT)
    signals = Signals(fd, frozenset(int(each) for each in before))
    try:
        yield signals
    finally:
        signals.read()
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signalfd(numbers: frozenset[signal.Signals]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = ctypes.create_string_buffer(_SIGSET_OCTETS)
    libc.sigemptyset(wanted)
    for number in numbers:
        libc.sigaddset(wanted, int(number))
    fd: int = libc.signalfd(-1, wanted, _SFD_FLAGS)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
