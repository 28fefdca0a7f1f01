"""Job control through a real terminal: a pty whose session leader plays the shell."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.sandbox.host import Host, alive, eventually

pytestmark = pytest.mark.kernel


class Console:
    """A terminal with the runner as its foreground job."""

    def __init__(self, host: Host, argv: list[str]) -> None:
        with host.namespace.entered():
            self.shell, self.terminal = pty.fork()
            if self.shell == 0:
                _play_shell(host.command(argv))
        self.shown = ""

    def expect(self, text: str, seconds: float = 10) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not in {self.shown!r}"
            if select.select([self.terminal], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    self.shown += os.read(self.terminal, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def type(self, text: str) -> None:
        """Type at the keyboard."""
        os.write(self.terminal, text.encode())

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)
        os.close(self.terminal)


def _play_shell(command: list[str]) -> None:
    """Run a job in a process group of its own, as an interactive shell does, and tell its fate."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.setpgid(0, 0)
        while os.tcgetpgrp(0) != os.getpgrp():
            time.sleep(0.001)
        os.execv(command[0], command)
    with contextlib.suppress(OSError):
        os.setpgid(job, job)
    while True:
        os.tcsetpgrp(0, job)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job, signal.SIGCONT)
        _, fate = os.waitpid(job, os.WUNTRACED)
        _show(f"[foreground {os.tcgetpgrp(0) == job}]")
        os.tcsetpgrp(0, os.getpgrp())
        if not os.WIFSTOPPED(fate):
            break
        _show(f"[stopped {os.WSTOPSIG(fate)}]")
        while os.read(0, 100).strip() != b"fg":
            pass
    _show(f"[ended {os.waitstatus_to_exitcode(fate)}]")
    os._exit(0)


def _show(text: str) -> None:
    os.write(1, f"{text}\n".encode())


@pytest.fixture
def console(host: Host) -> Iterator[Callable[[list[str]], Console]]:
    with contextlib.ExitStack() as stack:

        def opened(argv: list[str]) -> Console:
            console = Console(host, argv)
            stack.callback(console.close)
            return console

        yield opened


Consoles = Callable[[list[str]], Console]


def test_the_command_has_the_terminal(console: Consoles) -> None:
    screen = console(["sh", "-c", "test -t 0 && test -t 1 && read -r x && echo got $x"])
    screen.type("words\n")
    screen.expect("got words")
    screen.expect("[ended 0]")


def test_ctrl_c_reaches_the_command_once_and_not_fqdnwall(console: Consoles, host: Host) -> None:
    handler = "n=$((n+1)); echo caught $n; [ $n = 2 ] && exit 7"
    script = f"trap '{handler}' INT; echo up; while :; do sleep 0.02; done"
    screen = console(["bash", "-c", script])
    screen.expect("up")
    screen.type("\x03")
    screen.expect("caught 1")
    time.sleep(0.2)
    assert "caught 2" not in screen.shown
    screen.type("\x03")
    screen.expect("caught 2")
    screen.expect("[ended 7]")
    assert host.leftovers() == []


@pytest.mark.slow
def test_ctrl_c_on_a_plain_command_ends_it_like_in_a_shell(console: Consoles, host: Host) -> None:
    screen = console(["sh", "-c", "echo up; exec sleep 1000"])
    screen.expect("up")
    screen.type("\x03")
    screen.expect("[ended 130]")
    assert host.leftovers() == []


@pytest.mark.slow
def test_ctrl_backslash_ends_a_plain_command(console: Consoles) -> None:
    screen = console(["sh", "-c", "echo up; ulimit -c 0; exec sleep 1000"])
    screen.expect("up")
    screen.type("\x1c")
    screen.expect("[ended 131]")


@pytest.mark.slow
def test_ctrl_z_stops_the_job_and_fg_continues_it(console: Consoles) -> None:
    screen = console(["sh", "-c", "echo up; read -r x; echo got $x"])
    screen.expect("up")
    screen.type("\x1a")
    screen.expect("[stopped")
    screen.type("fg\n")
    time.sleep(0.1)
    screen.type("words\n")
    screen.expect("got words")
    screen.expect("[ended 0]")


@pytest.mark.slow
def test_an_interactive_shell_inside_has_job_control_of_its_own(
    console: Consoles, host: Host
) -> None:
    screen = console(["bash", "--norc", "--noprofile", "-i"])
    screen.type("PS1=; echo r''eady\n")
    screen.expect("ready\r\n")
    screen.type("sleep 1000\n")
    time.sleep(0.3)
    screen.type("\x1a")
    screen.expect("Stopped")
    screen.type("jobs; echo o''ver\n")
    screen.expect("sleep 1000")
    screen.expect("over")
    screen.type("disown -a; exit 5\n")
    screen.expect("[foreground True]")
    screen.expect("[ended 5]")
    assert host.leftovers() == []


@pytest.mark.slow
def test_hanging_up_the_terminal_ends_the_command(console: Consoles, host: Host) -> None:
    screen = console(["sh", "-c", "echo up; exec sleep 1000"])
    screen.expect("up")
    os.kill(screen.shell, signal.SIGKILL)
    eventually(lambda: not alive(screen.shell))
    eventually(lambda: host.leftovers() == [])
