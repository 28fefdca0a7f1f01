"""What the command is given: who it is, its files, its resolvers, and what it may not do."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from fqdnwall.sandbox.confinement import ROOT_CAPABILITIES
from tests.sandbox.host import Host

pytestmark = pytest.mark.kernel

NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid), "SUDO_USER": "nobody"}


def status(host: Host, env: dict[str, str] | None = None) -> dict[str, str]:
    """/proc/self/status of a command."""
    lines = host.run(["cat", "/proc/self/status"], env=env).stdout.splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_behind_sudo_the_command_is_the_user_who_called_it(host: Host) -> None:
    script = 'id -u; id -g; id -G; echo "$HOME $USER $LOGNAME ${SUDO_UID-none}"'
    out = host.run(["sh", "-c", script], env=AS_NOBODY).stdout.splitlines()
    assert out == [
        str(NOBODY.pw_uid),
        str(NOBODY.pw_gid),
        " ".join(map(str, os.getgrouplist("nobody", NOBODY.pw_gid))),
        f"{NOBODY.pw_dir} nobody nobody none",
    ]


def test_a_user_has_no_capability_and_can_get_none(host: Host) -> None:
    seen = status(host, AS_NOBODY)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen[name], 16) == 0, name
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"


@pytest.mark.slow
def test_root_keeps_only_the_listed_capabilities(host: Host) -> None:
    seen = status(host)
    expected = sum(1 << number for number in ROOT_CAPABILITIES.values())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(seen[name], 16) == expected, name
    assert seen["NoNewPrivs"] == "1"


ATTEMPTS = (
    "ip link set eth0 down",
    "ip route add 192.0.2.0/24 dev eth0",
    "nsenter --net=/proc/1/ns/net true",
    "unshare --net true",
    "umount /etc/resolv.conf",
    "mount -t bpf bpf /mnt",
    "mount -t proc proc /mnt",
    "kill -9 1 && ! kill -0 1",
    "echo 1 > /proc/sys/net/ipv4/conf/eth0/forwarding",
    "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern",
    "echo h > /proc/sysrq-trigger",
    "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/*/x",
    "mknod /tmp/fqdnwall-test-node b 7 0",
)


def test_root_inside_cannot_undo_the_firewall(host: Host) -> None:
    script = "\n".join(f"if {attempt}; then echo '{attempt}' >&3; fi" for attempt in ATTEMPTS)
    result = host.run(["sh", "-c", f"exec 3>&1 >/dev/null 2>&1\n{script}\necho over >&3"])
    assert result.stdout == "over\n"


def test_the_agents_state_and_the_pinned_maps_are_not_to_be_seen(host: Host) -> None:
    (host.state / "run").mkdir(parents=True)
    script = f"cd {host.state}; find . /sys/fs/bpf -mindepth 1; touch x; umount {host.state}"
    result = host.run(["sh", "-c", script])
    assert set(result.stdout.split()) <= {"./resolv.conf", "./empty", "./cgroup"}
    assert "Read-only file system" in result.stderr


@pytest.mark.slow
def test_a_working_directory_under_what_is_hidden_gives_no_way_in(host: Host) -> None:
    command = host.command(["ls"])
    (host.state / "run").mkdir(parents=True)
    with host.namespace.entered():
        result = subprocess.run(
            command,
            cwd=host.state / "run",
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "0.lock" not in result.stdout


@pytest.mark.slow
def test_only_the_commands_own_processes_are_to_be_seen(host: Host) -> None:
    out = host.run(["ps", "-eo", "pid="]).stdout.split()
    assert out == ["1", "2"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("fcntl.ioctl(0, termios.TIOCSTI, b'x')", "EPERM"),
        *(
            pytest.param(call, error, marks=pytest.mark.slow)
            for call, error in (
                ("fcntl.ioctl(0, 0x541c, b'x')", "EPERM"),
                ("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "EAFNOSUPPORT"),
                ("libc(425, 1, ctypes.create_string_buffer(120))", "ENOSYS"),
            )
        ),
    ],
)
def test_ways_round_the_network_namespace_are_refused(host: Host, call: str, error: str) -> None:
    program = f"""
import ctypes, errno, fcntl, os, socket, termios
def libc(*arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
os.close(0); os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
try:
    {call}
    print("done")
except OSError as e:
    print(errno.errorcode[e.errno])
"""
    result = host.run([sys.executable, "-c", program])
    assert result.stdout == f"{error}\n", result.stderr


@pytest.mark.slow
def test_other_sockets_and_terminal_calls_are_not_refused(host: Host) -> None:
    program = """
import fcntl, os, socket, termios
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    socket.socket(family, socket.SOCK_DGRAM)
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
fcntl.ioctl(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY), termios.TIOCGWINSZ, b"12345678")
print("done")
"""
    result = host.run([sys.executable, "-c", program])
    assert result.stdout == "done\n", result.stderr


@pytest.mark.slow
def test_a_stub_resolver_appears_under_an_address_that_the_sandbox_reaches(host: Host) -> None:
    result = host.run(
        ["sh", "-c", "cat /etc/resolv.conf; ip route get 198.19.0.2"],
        "--plan",
        host.directory / "plan",
        resolv_conf="nameserver 127.0.0.53\noptions edns0\n",
    )
    assert result.stdout.startswith("options edns0\nnameserver 198.19.0.2\n")
    assert "via 198.19.0.0 dev eth0" in result.stdout
    assert host.plan()["stubs"] == {"198.19.0.2": "127.0.0.53"}


@pytest.mark.slow
def test_the_commands_resolv_conf_is_its_own_even_to_write_to(
    host: Host,
) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    argv = ["sh", "-c", "cat /etc/resolv.conf; echo x >> /etc/resolv.conf"]
    result = host.run(argv, "--resolver", "192.0.2.53", "--resolver", "2001:db8::53")
    assert result.stdout == "nameserver 192.0.2.53\nnameserver 2001:db8::53\n"
    assert (result.returncode, result.stderr) == (0, "")
    assert Path("/etc/resolv.conf").read_bytes() == before


@pytest.mark.slow
def test_directory_environment_and_streams_are_the_callers(host: Host, tmp_path: Path) -> None:
    command = host.command(["sh", "-c", "pwd; echo $COLOUR; cat; echo err >&2"])
    with host.namespace.entered():
        result = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "COLOUR": "grün", "PYTHONPATH": str(Path.cwd())},
            input="in\n",
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.stdout == f"{tmp_path}\ngrün\nin\n"
    assert result.stderr == "err\n"


@pytest.mark.slow
def test_arguments_that_are_no_utf_8_arrive_as_they_were(host: Host) -> None:
    command = [*map(os.fsencode, host.command(["printf", "%s"])), b"\xff\xfe"]
    with host.namespace.entered():
        result = subprocess.run(command, capture_output=True, check=False)
    assert result.stdout == b"\xff\xfe"


@pytest.mark.slow
def test_a_long_command_line_arrives_whole(host: Host) -> None:
    result = host.run(["sh", "-c", "echo $# $(printf %s $1 | wc -c)", "sh", *["x" * 100_000] * 9])
    assert result.stdout.split() == ["9", "100000"], result.stderr
