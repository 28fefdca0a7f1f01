"""`make bench`: all benchmarks in one run; prints tables and writes build/benchmarks.json.

    python -m benchmarks [datapath] [dns] [start] [fresh] [--rounds N] [--seconds S] [--markdown]

Absolute figures are this machine's; what counts are the ratios, of ways that were measured side by
side. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import datapath, dns, fresh, start
from benchmarks.figures import Row
from tests.lab import Lab
from tests.lab.daemons import REPOSITORY

GROUPS = ("datapath", "dns", "start", "fresh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the groups that are asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="for each load of each way")
    parser.add_argument("--count", type=int, default=10_000, help="fresh addresses")
    parser.add_argument("--markdown", action="store_true", help="tables for the README")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    progress = Console(stderr=True, highlight=False)
    results: dict[str, list[Row]] = {}
    for group in chosen.groups or GROUPS:
        with Lab() as lab:
            results[group] = _measure(group, lab, chosen, progress)
        show = _markdown if chosen.markdown else _table
        show(group, results[group])
    _save(results)
    return 0


def _measure(group: str, lab: Lab, chosen: argparse.Namespace, progress: Console) -> list[Row]:
    def say(what: str) -> None:
        progress.print(f"[dim]… {what}[/]")

    match group:
        case "datapath":
            return datapath.measure(lab, chosen.rounds, chosen.seconds, say)
        case "dns":
            return dns.measure(lab, chosen.rounds, chosen.seconds, say)
        case "start":
            return start.measure(lab, chosen.rounds, say)
        case _:
            return fresh.measure(lab, chosen.count, say)


def _cells(row: Row) -> dict[str, str]:
    """Way → its figure, and its share of the first way's where there is something to compare."""
    if len(row.figures) == 1:
        return {way: _figure(figure) for way, figure in row.figures.items()}
    ratios = row.ratios()
    return {way: f"{_figure(figure)} ({ratios[way]:.2f})" for way, figure in row.figures.items()}


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _grid(group: str, rows: Sequence[Row]) -> list[list[str]]:
    """The table's cells, its head first: ways as columns, or as rows where there are many."""
    grid = [[group, *rows[0].figures]]
    for row in rows:
        title = f"{row.title}, {row.unit}" if row.unit else row.title
        grid.append([title, *_cells(row).values()])
    return [list(column) for column in zip(*grid, strict=True)] if len(grid[0]) > 4 else grid


def _table(group: str, rows: Sequence[Row]) -> None:
    head, *body = _grid(group, rows)
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left")
    for line in body:
        table.add_row(*line)
    Console().print(table)


def _markdown(group: str, rows: Sequence[Row]) -> None:
    head, *body = _grid(group, rows)
    print("| " + " | ".join(head) + " |")
    print("|---" + "|--:" * (len(head) - 1) + "|")
    for line in body:
        print("| " + " | ".join(line) + " |")
    print()


def _save(results: dict[str, list[Row]]) -> None:
    machine = {"kernel": platform.release(), "cores": os.cpu_count()}
    groups = {group: [dataclasses.asdict(row) for row in rows] for group, rows in results.items()}
    path = Path(REPOSITORY, "build", "benchmarks.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **groups}, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
