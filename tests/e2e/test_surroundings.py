"""Surroundings in a bad state: each is a clear error that leaves nothing, or works all the same.

What is unmounted, full or read-only is so in a mount namespace of the command's own.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.guard import FQDNWALL

RUN = f"{FQDNWALL} run --quiet --allow api.example.com"
NO_BPF = "umount -l /sys/fs/bpf"
CACHE, STATE = "/var/cache/fqdnwall", "/run/fqdnwall"
FULL = "mkdir -p {0}; mount -t tmpfs -o size=4k tmpfs {0}; head -c 4096 /dev/zero > {0}/full"
READ_ONLY = "mkdir -p {0}; mount -t tmpfs -o ro tmpfs {0}"


def sh(lab: Lab, script: str, *, stdin: int = subprocess.DEVNULL) -> tuple[int, str, str]:
    """A script on the lab's host, in a mount namespace of its own: status, output, errors."""
    process = lab.host.start(
        ["unshare", "--mount", "sh", "-c", script],
        resolv_conf=str(lab.resolv_conf),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_where_the_bpf_file_system_is_not_mounted_it_says_how(lab: Lab, tmp_path: Path) -> None:
    for command in (
        f"{RUN} -- echo ran",
        f"{FQDNWALL} agent --policy-dir {tmp_path} --socket {tmp_path}/socket",
    ):
        status, out, err = sh(lab, f"{NO_BPF}; {command}")
        assert (status, out) == (1, "")
        assert "mount -t bpf bpf /sys/fs/bpf" in err
        assert "Traceback" not in err


def test_a_cache_that_takes_nothing_costs_time_alone(lab: Lab) -> None:
    assert sh(lab, f"{FULL.format(CACHE)}; {RUN} -- echo ran") == (0, "ran\n", "")


def test_a_cache_that_is_broken_is_made_again(lab: Lab) -> None:
    spoil = f'cp -r {CACHE}/. "$d"; mount --bind "$d" {CACHE}; for f in {CACHE}/*; do '
    spoil += "head -c 1000 $f > $f.cut; mv $f.cut $f; done"
    script = f'd=$(mktemp -d); trap "umount {CACHE}; rm -r $d" EXIT; {spoil}; {RUN} -- echo ran'
    assert sh(lab, script) == (0, "ran\n", "")


@pytest.mark.parametrize("state", [FULL, READ_ONLY])
def test_where_nothing_can_be_noted_nothing_runs(lab: Lab, state: str) -> None:
    status, out, err = sh(lab, f"{state.format(STATE)}; {RUN} -- echo ran")
    assert (status, out) == (1, "")
    assert f"fqdnwall: cannot note in {STATE}" in err
    assert "Traceback" not in err


def test_a_working_directory_that_is_gone_is_the_root_for_the_command(
    lab: Lab, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    leave = f"mkdir {gone}; cd {gone}; rmdir {gone}"
    assert sh(lab, f"{leave}; {RUN} -- /bin/pwd") == (0, "/\n", "")
    for option in ("--report", "--socket"):
        status, out, err = sh(lab, f"{leave}; {RUN} {option} file -- echo ran")
        assert (status, out) == (2, "")
        assert f"{option} file: the working directory is gone" in err


def test_no_home_and_no_environment_are_needed(lab: Lab) -> None:
    assert sh(lab, f"exec env -i {RUN} -- sh -c 'echo ${{HOME-none}}'")[:2] == (0, "none\n")


def test_streams_that_are_closed_are_closed_for_the_command_too(lab: Lab, tmp_path: Path) -> None:
    """And nothing of ours gets their numbers: what a library complains of has nowhere to go."""
    list_open = "for n in 0 1 2; do [ -e /proc/self/fd/$n ] && touch $0/$n; done; exit 3"
    command = f"{RUN} -- sh -c {shlex.quote(list_open)} {tmp_path}"
    assert sh(lab, f"chmod 777 {tmp_path}; exec {command} <&- >&- 2>&-")[0] == 3
    assert list(tmp_path.iterdir()) == []
    assert sh(lab, f"exec {command} <&- 2>&-")[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_report_that_nobody_can_be_told_changes_no_exit_status(lab: Lab) -> None:
    loud = RUN.replace(" --quiet", "")
    for stream in ("2>&-", "2>/dev/full"):
        assert sh(lab, f"{loud} -- sh -c 'exit 3' {stream}") == (3, "", "")


def test_a_report_replaces_no_device_and_no_link(lab: Lab, tmp_path: Path) -> None:
    device, link, file = (tmp_path / name for name in ("device", "link", "file"))
    link.symlink_to(file)
    assert sh(lab, f"mknod {device} c 1 7; {RUN} --report {device} -- true") == (
        0,
        "",
        f"fqdnwall: --report {device}: No space left on device\n",
    )
    assert device.is_char_device()
    assert sh(lab, f"{RUN} --report {link} -- true")[0] == 0
    assert link.is_symlink()
    assert '"exit_status": 0' in file.read_text()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/etc/passwd/socket", "/etc/passwd is not a folder"),
        ("/proc/socket", "cannot listen at /proc/socket: No such file or directory"),
        (f"/tmp/{'x' * 120}", "is longer than 107 bytes"),
    ],
)
def test_a_socket_that_cannot_be_is_an_error_that_says_why(lab: Lab, path: str, why: str) -> None:
    status, out, err = sh(lab, f"{RUN} --socket {path} -- echo ran")
    assert status in (1, 2)
    assert out == ""
    assert why in err
    assert "Traceback" not in err
