"""The kernel's boot clock and the wall clock, and from one to the other."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path


def boot_seconds() -> float:
    """CLOCK_BOOTTIME: what the datapath calls ``now``."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_start() -> float:
    """When this process began, on the boot clock; to a hundredth of a second."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def rfc3339(boot: float) -> str:
    """A moment of the boot clock as people write it, in UTC."""
    return wall_rfc3339(time.time() + boot - boot_seconds())


def wall_rfc3339(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
