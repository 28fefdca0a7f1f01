"""The C source as bcc gets it: one text, with our own headers put in place.

bcc rewrites its map syntax only in the main file, so ``#include "lib/…"`` is resolved here, each
header once, with ``#line`` so that the compiler's messages name the real file and line.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2] / "bpf"
KERNEL = ROOT / "kernel"

_QUOTED = re.compile(r'^#include "([^"]+)"\s*$')


def source(name: str) -> str:
    """The text of ``bpf/<name>`` with quoted includes in place. Raises OSError."""
    return "".join(_lines(ROOT / name, set()))


def _lines(path: Path, seen: set[Path]) -> list[str]:
    shown = path.relative_to(ROOT.parent)
    out = [f'#line 1 "{shown}"\n']
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        match = _QUOTED.match(line)
        if not match:
            out.append(line)
            continue
        for base in (path.parent, ROOT):
            header = (base / match[1]).resolve()
            if header.exists():
                break
        if header not in seen:
            seen.add(header)
            out += _lines(header, seen)
        out.append(f'#line {number + 1} "{shown}"\n')
    return out
