"""The kernel's boot clock and the wall clock, and from one to the other."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def boot_seconds() -> float:
    """CLOCK_BOOTTIME: what the datapath calls ``now``."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def rfc3339(boot: float) -> str:
    """A moment of the boot clock as people write it, in UTC."""
    return wall_rfc3339(time.time() + boot - boot_seconds())


def wall_rfc3339(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
