"""Network sysctls of the calling thread's namespace.

/proc/sys/net shows the namespace of whoever opens a file there, so nothing but the thread decides.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys/net")


def read(name: str) -> str | None:
    """The value of, for example, `ipv4/conf/eth0/forwarding`; None when there is no such sysctl."""
    try:
        return (_ROOT / name).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(name: str, value: str) -> None:
    """Set a sysctl. Raises OSError (read-only in some containers)."""
    (_ROOT / name).write_text(value)


def interfaces(version: int) -> tuple[str, ...]:
    """The names that have settings for IPv4 (4) or IPv6 (6), without `all` and `default`."""
    try:
        names = sorted(entry.name for entry in (_ROOT / f"ipv{version}/conf").iterdir())
    except FileNotFoundError:
        return ()
    return tuple(name for name in names if name not in ("all", "default"))


def ipv6_enabled() -> bool:
    """Whether the kernel has IPv6 and the namespace has it switched on."""
    return read("ipv6/conf/all/disable_ipv6") == "0"
