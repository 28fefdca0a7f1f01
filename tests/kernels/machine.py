"""A kernel in a virtual machine without any device but two serial ports: emulated, so no KVM.

The console goes to a file, which is what a failure shows; results come on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.debian import Kernel
from tests.kernels.initramfs import initramfs
from tests.lab.namespaces import Namespace

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 1024
PROCESSORS = 2
PATIENCE_SECONDS = 200.0
COMMAND_LINE = "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off"
HERE = "running"
"""The version that stands for the kernel that this machine runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The records of one kernel; ``trouble`` says why they are not all."""

    version: str
    records: tuple[dict[str, object], ...]
    trouble: str = ""
    said: str = ""
    """The end of its console, or of the test's own log."""


def boot(kernel: Kernel, patience_seconds: float = PATIENCE_SECONDS) -> Outcome:
    """Run the smoke test on a kernel, to its end or until patience ends."""
    with tempfile.TemporaryDirectory() as scratch:
        image, console = Path(scratch, "initramfs"), Path(scratch, "console")
        initramfs(kernel, image)
        try:
            done = subprocess.run(
                _command(kernel, image, console),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=patience_seconds,
                check=False,
            )
            out, trouble = done.stdout, done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            out, trouble = error.stdout or b"", f"no end within {patience_seconds:.0f} s"
        said = console.read_text(errors="replace") if console.exists() else ""
    return _outcome(kernel.version, out.decode(errors="replace"), trouble, said)


def here(*without: str) -> Outcome:
    """Run the smoke test on this machine's own kernel, in a network namespace that is its node.

    ``without`` a program, it is the test of what holds where a kernel refuses that.
    """
    node = Namespace.create("node", {})
    try:
        done = node.run(
            [sys.executable, "-m", "tests.kernels.guest.smoke", *without],
            timeout_seconds=PATIENCE_SECONDS,
        )
    finally:
        node.close()
    return _outcome(HERE, done.stdout, done.stderr if done.returncode else "", done.stderr)


def _outcome(version: str, out: str, trouble: str, said: str) -> Outcome:
    records = records_of(out)
    if not trouble and (not records or records[-1]["kind"] != "end"):
        trouble = "it ended early"
    return Outcome(version, records, trouble, said[-6000:])


def records_of(lines: str) -> tuple[dict[str, object], ...]:
    """One JSON object a line; what is cut off is left out."""
    found = []
    for line in lines.splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return tuple(found)


def _command(kernel: Kernel, image: Path, console: Path) -> list[str]:
    return [
        QEMU,
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        str(PROCESSORS),
        "-m",
        str(MEMORY_MIB),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        f"file:{console}",
        "-serial",
        "stdio",
        "-kernel",
        str(kernel.image),
        "-initrd",
        str(image),
        "-append",
        COMMAND_LINE,
    ]
