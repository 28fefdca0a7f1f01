"""Writes results: tables that fit the terminal, or JSON; quiet when the reader has left.

Text from the network (names, above all) never reaches a terminal raw: control characters are shown
as escapes. JSON carries them as JSON's own escapes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeVar

from fqdnwall.cli.errors import BROKEN_PIPE, CommandError
from fqdnwall.cli.params import Output

GAP = 3
"""Spaces between columns, as Cilium has it."""

_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells may hold several lines, as the headers may. ``right``: columns that hold numbers."""

    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: frozenset[int] = field(default_factory=frozenset)


class ReaderGone(CommandError):
    """Who reads our output has closed it (``| head``): end quietly."""

    def __init__(self) -> None:
        super().__init__("", "", BROKEN_PIPE)


def show(
    value: Any,
    output: Output,
    table: Callable[[], str],
) -> None:
    """Write the value as JSON, or what ``table`` renders."""
    if output is Output.JSON:
        from fqdnwall.api.codec import dumps

        write(dumps(value, indent=2) + "\n")
    else:
        write(table())


def write(text: str, stream: TextIO | None = None) -> None:
    """Write and flush. Raises ReaderGone where nobody reads."""
    to = stream or sys.stdout
    try:
        to.write(text.encode("utf-8", "backslashreplace").decode())
        to.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it ends; that must not fail a second time.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())
        raise ReaderGone from None


def safe(text: str) -> str:
    """The text with characters that a terminal would act on shown as escapes (newline stays)."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def render(table: Table, stream: TextIO | None = None) -> str:
    """Aligned columns, one line a row; folded to the terminal's width where there is one."""
    to = stream or sys.stdout
    table = Table(
        table.headers, [tuple(safe(cell) for cell in row) for row in table.rows], table.right
    )
    if not to.isatty():
        return _plain(table)
    return _rich(table, to)


def lines(items: Iterable[str]) -> str:
    return "".join(f"{safe(item)}\n" for item in items)


def _plain(table: Table) -> str:
    cells = [[cell.split("\n") for cell in row] for row in (table.headers, *table.rows)]
    widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(cells[0]))]
    text = []
    for row in cells:
        for line in range(max(map(len, row))):
            parts = []
            for i, cell in enumerate(row):
                part = cell[line] if line < len(cell) else ""
                parts.append(part.rjust(widths[i]) if i in table.right else part.ljust(widths[i]))
            text.append((" " * GAP).join(parts).rstrip() + "\n")
    return "".join(text)


def _rich(table: Table, stream: TextIO) -> str:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    grid = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for i, header in enumerate(table.headers):
        grid.add_column(Text(header), justify="right" if i in table.right else "left")
    for row in table.rows:
        grid.add_row(*(Text(cell, overflow="fold") for cell in row))
    with console.capture() as capture:
        console.print(grid)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def plural(count: int, noun: str, nouns: str = "") -> str:
    """``1 name``, ``2 names``; ``nouns`` where the plural is not ``noun`` and an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def human_bytes(count: int | None) -> str:
    """Decimal units: ``61.0 MB``; ``-`` when not known."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} PB"


def human_seconds(seconds: float) -> str:
    """``250ms``, ``12s``, ``3m5s``, ``1h2m``, ``2d3h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part}{part_unit}"
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"


def count(value: int | None) -> str:
    return "-" if value is None else str(value)
