"""The machine's first process: file systems, modules, the smoke test, and off.

Its results go to the second serial port, one JSON line each; what goes wrong, to the console.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback

MOUNTS = (
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
)
FINIT_MODULE = 313  # x86-64
RESTART = 0x01234567
RESULTS = "/dev/ttyS1"
PATHS = ["/project", "/site"]

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prepare() -> None:
    for kind, where in MOUNTS:
        checked(libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None), where)
    for name in sorted(os.listdir("/modules")):
        fd = os.open(f"/modules/{name}", os.O_RDONLY)
        checked(libc.syscall(FINIT_MODULE, fd, b"", 0), name)
        os.close(fd)


def main() -> None:
    os.environ.update(PATH="/usr/bin", LC_ALL="C.UTF-8", HOME="/root")
    sys.path[:0] = PATHS
    prepare()
    results = os.open(RESULTS, os.O_WRONLY | os.O_NOCTTY)
    os.dup2(results, 1)
    from tests.kernels.guest import smoke  # what it needs is mounted by now

    smoke.main()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os.sync()
        libc.reboot(RESTART)  # with qemu's -no-reboot that is the end
