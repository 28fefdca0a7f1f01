"""The names behind learned addresses, written down for the next agent. Only a cache: the kernel's
map holds what is enforced, and without the file the next agent knows addresses but not names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from fqdnwall.fqdn.cache import KERNEL, PROXY, Key, Record

FORMAT = 1
TEMPORARY = ".new"


def save(path: Path, records: Iterable[Record]) -> None:
    """Replace the file in one step. Raises OSError."""
    rows = [
        (
            r.key.endpoint,
            r.key.name,
            str(r.key.address),
            r.identity,
            r.ttl_seconds,
            r.learned_at,
            r.expires_at,
            r.source,
        )
        for r in records
    ]
    temporary = path.with_suffix(TEMPORARY)
    temporary.write_text(json.dumps({"format": FORMAT, "boot": boot_id(), "records": rows}))
    temporary.rename(path)


def load(path: Path) -> list[Record]:
    """What the file holds; nothing if it is missing, broken, or of another boot."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT or found["boot"] != boot_id():
            return []
        return [_record(*row) for row in found["records"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def remove(path: Path) -> None:
    """Leave no file behind, nor what a save left that was killed."""
    path.unlink(missing_ok=True)
    path.with_suffix(TEMPORARY).unlink(missing_ok=True)


def _record(
    endpoint: int,
    name: str,
    address: str,
    identity: int,
    ttl_seconds: int,
    learned_at: float,
    expires_at: float,
    source: str,
) -> Record:
    """Raises ValueError, TypeError."""
    if source not in (KERNEL, PROXY):
        raise ValueError(source)
    return Record(
        Key(int(endpoint), str(name), ip_address(address)),
        int(identity),
        int(ttl_seconds),
        float(learned_at),
        float(expires_at),
        source,
    )


def boot_id() -> str:
    """Times of the boot clock mean something within one boot only."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
