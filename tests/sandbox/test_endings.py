from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fqdnwall.sandbox.child
from fqdnwall.netlink import links, sysctl
from fqdnwall.sandbox.signals import CAUGHT
from tests.sandbox.host import SERVER4, Host, alive, eventually, pids_with

pytestmark = pytest.mark.kernel

CHILD = Path(fqdnwall.sandbox.child.__file__)


def long_lived(name: str) -> list[str]:
    """A command with a child, both of which are found again by `name`."""
    return ["bash", "-c", f"sleep 1000 & exec -a {name} sleep 1001", name]


def started(host: Host, name: str) -> subprocess.Popen[str]:
    process = host.start(long_lived(name), "--plan", host.directory / "plan")
    host.plan()
    eventually(lambda: pids_with("1001"))
    return process


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        pytest.param(["true"], 0, marks=pytest.mark.slow),
        pytest.param(["false"], 1, marks=pytest.mark.slow),
        (["sh", "-c", "exit 77"], 77),
        pytest.param(["sh", "-c", "kill -TERM $$"], 143, marks=pytest.mark.slow),
        pytest.param(["sh", "-c", "kill -KILL $$"], 137, marks=pytest.mark.slow),
    ],
)
def test_the_exit_status_is_the_commands(host: Host, argv: list[str], status: int) -> None:
    result = host.run(argv)
    assert (result.returncode, result.stderr) == (status, "")
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_command_that_is_not_there_is_127_with_its_name(host: Host) -> None:
    result = host.run(["no-such-command"])
    assert result.returncode == 127
    assert "no-such-command: command not found" in result.stderr
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_file_that_is_no_program_is_126(host: Host) -> None:
    plain = host.directory / "plain"
    plain.write_text("text\n")
    plain.chmod(0o644)
    result = host.run([str(plain)])
    assert result.returncode == 126
    assert f"{plain}: cannot be executed: Permission denied" in result.stderr


@pytest.mark.slow
def test_a_script_without_an_interpreter_line_runs_as_a_shell_would_run_it(host: Host) -> None:
    script = host.directory / "script"
    script.write_text("echo shell $1\n")
    script.chmod(0o755)
    assert host.run([str(script), "ran"]).stdout == "shell ran\n"


@pytest.mark.slow
def test_a_script_whose_interpreter_is_missing_says_so(host: Host) -> None:
    script = host.directory / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = host.run([str(script)])
    assert result.returncode == 127
    assert "interpreter is missing" in result.stderr


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
        ),
    ],
)
def test_a_signal_to_fqdnwall_ends_the_command_and_leaves_nothing(
    host: Host, number: signal.Signals
) -> None:
    process = started(host, "passed-on")
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert host.leftovers() == []
    assert pids_with("1001") == pids_with("1000") == []


@pytest.mark.slow
def test_a_command_that_handles_a_signal_decides_what_happens(host: Host) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.01; done"
    process = host.start(["bash", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=10) == ("caught\n", "")
    assert process.returncode == 9


@pytest.mark.slow
def test_window_size_changes_are_passed_on(host: Host) -> None:
    script = "trap 'echo winch; exit 0' WINCH; echo up; while :; do sleep 0.01; done"
    process = host.start(["bash", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGWINCH)
    assert process.communicate(timeout=10) == ("winch\n", "")


def test_usr1_is_left_to_the_agent_for_its_report() -> None:
    assert signal.SIGUSR1 not in CAUGHT


def test_what_the_command_left_running_ends_with_it(host: Host) -> None:
    result = host.run(["sh", "-c", "setsid sleep 4711 >/dev/null 2>&1 & echo done"])
    assert result.stdout == "done\n"
    eventually(lambda: not pids_with("4711"))


@pytest.mark.slow
def test_an_interruption_before_the_start_means_the_command_never_runs(host: Host) -> None:
    process = host.start(
        ["echo", "ran"], "--pause", host.directory / "never", "--plan", host.directory / "plan"
    )
    host.plan()
    process.terminate()
    out, err = process.communicate(timeout=10)
    assert (out, process.returncode) == ("", 143)
    assert "before the command was started" in err
    assert host.leftovers() == []


def test_kill_9_ends_everything_inside_at_once(host: Host) -> None:
    process = started(host, "orphan")
    inside = pids_with("1000") + pids_with("1001")
    assert len(inside) >= 2
    process.kill()
    process.wait()
    eventually(lambda: not any(alive(pid) for pid in inside))
    with host.namespace.entered():  # and with its namespace the kernel ends the veth
        eventually(lambda: [each.name for each in links()] == ["lo", "up0"])


def test_what_a_kill_9_left_is_cleared_by_the_next_start(host: Host) -> None:
    process = started(host, "killed")
    pid = host.plan()["pid"]
    pins = host.state / "pins" / "run-0" / "maps"
    pins.mkdir(parents=True)
    (pins / "policy").touch()
    (host.state / "run" / f"{pid}.sock").touch()
    process.kill()
    process.wait()
    assert len(host.leftovers()) > 5
    result = host.run(["bash", "-c", f"echo > /dev/tcp/{SERVER4}/8080"])
    assert result.returncode == 0, result.stderr
    assert host.leftovers() == []


@pytest.mark.slow
def test_traces_without_a_lock_file_are_cleared_too(host: Host) -> None:
    process = started(host, "unlocked")
    process.kill()
    process.wait()
    (host.state / "run" / "0.lock").unlink()
    with host.namespace.netlink() as socket:  # a veth whose namespace somebody kept
        socket.link("add", ifname="fqw7", kind="veth", peer={"ifname": "kept7"})
    (host.state / "pins" / "run-12").mkdir(parents=True)
    assert host.run(["true"]).returncode == 0
    assert host.leftovers() == []


@pytest.mark.slow
def test_what_a_live_instance_has_is_left_alone(host: Host) -> None:
    process = started(host, "living")
    (host.state / "pins" / "run-0").mkdir(parents=True)
    before = host.leftovers()
    assert host.run(["true"]).returncode == 0
    assert host.leftovers() == before
    process.terminate()
    process.communicate(timeout=10)
    assert host.leftovers() == []


@pytest.mark.slow
def test_forwarding_stays_until_the_last_instance_ends(host: Host) -> None:
    name = "ipv4/conf/up0/forwarding"
    first = started(host, "first")
    second = host.start(long_lived("second"), "--plan", host.directory / "second")
    host.plan("second")
    first.terminate()
    first.communicate(timeout=10)
    with host.namespace.entered():
        assert sysctl.read(name) == "1"
    second.kill()
    second.wait()
    assert host.run(["true"]).returncode == 0
    with host.namespace.entered():
        assert sysctl.read(name) == "0"


def test_a_failure_while_preparing_leaves_nothing(host: Host) -> None:
    result = host.run(["true"], resolv_conf="search example.net\n")
    assert result.returncode == 125
    assert "--resolver" in result.stderr
    assert host.leftovers() == []


@pytest.mark.slow
def test_descriptors_of_the_shell_are_handed_on_and_ours_are_not(host: Host) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"handed on\n")
    os.close(writer)
    command = host.command(["bash", "-c", f"cat <&{reader}; ls /proc/self/fd"])
    with host.namespace.entered():
        result = subprocess.run(
            command, pass_fds=(reader,), capture_output=True, text=True, check=False
        )
    os.close(reader)
    shown = result.stdout.split()
    assert shown[:2] == ["handed", "on"]
    assert set(shown[2:]) == {"0", "1", "2", "3", str(reader)}  # 3: the listing's own


@pytest.mark.slow
def test_orphans_inside_are_reaped(host: Host) -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0 &) ; done; sleep 0.2; ps -eo stat="
    assert "Z" not in host.run(["sh", "-c", script]).stdout


def test_a_sandbox_that_nobody_waits_for_any_more_ends_without_a_word() -> None:
    """As when fqdnwall fails early: its own message is all that a person is to read."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        fd = theirs.fileno()
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(CHILD), str(fd), str(os.getpid())],
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("", "")
