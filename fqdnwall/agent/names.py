"""The names behind learned addresses, written down for the next agent. Only a cache: the kernel's
map holds what is enforced, and without the file the next agent knows addresses but not names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from fqdnwall.fqdn.cache import Key, Record

FORMAT = 1


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
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"format": FORMAT, "boot": boot_id(), "records": rows}))
    temporary.rename(path)


def load(path: Path) -> list[Record]:
    """What the file holds; nothing if it is missing, broken, or of another boot."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT or found["boot"] != boot_id():
            return []
        return [
            Record(Key(endpoint, name, ip_address(address)), *rest)
            for endpoint, name, address, *rest in found["records"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def boot_id() -> str:
    """Times of the boot clock mean something within one boot only."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
