"""The end-of-run report for people: short tables, the most important last lines first.

Written to stderr by ``fqdnwall run``, so that the command's own stdout stays clean.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TextIO

from fqdnwall.api.report import Connections, Drops, LearnedName, QueryCount, QueryOutcome, Report
from fqdnwall.cli.order import address_key, addresses, name_key, telling
from fqdnwall.cli.output import Table, human_bytes, human_seconds, plural, render, safe

POLICY_DENIED = 133
"""The drop reason of what no rule allows; numbered as in Cilium."""
ROWS = 50
"""Rows shown of each table; the JSON report has all."""


def report_text(report: Report, stream: TextIO | None = None) -> str:
    """The report as it is printed; ``stream`` (stderr) says how wide and whether coloured."""
    to = stream or sys.stderr
    dropped = "Would have been dropped (audit)"
    sections = [
        _section("Names asked", _query_table(report.queries), to),
        _section("Names learned", _name_table(report.names), to),
        _section("Connections", _connection_table(report.connections), to),
        _section("Dropped", _drop_table(report.drops), to),
        _section(dropped, _drop_table(report.would_drop), to),
    ]
    text = "".join(section for section in sections if section)
    return _headline(report) + (text or "It used no network.\n") + _footnotes(report)


def print_report(report: Report, stream: TextIO | None = None) -> None:
    """Write it to stderr (or ``stream``); a reader that has left, or has no room, is no error."""
    from fqdnwall.cli.output import ReaderGone, write

    to = stream or sys.stderr
    with suppress(ReaderGone, OSError):
        write(report_text(report, to), to)


def _headline(report: Report) -> str:
    what = safe(report.command[0]) if report.command else "the command"
    duration = _seconds_between(report.started_at, report.ended_at)
    took = f" {human_seconds(duration)}" if duration is not None else ""
    if report.exit_status is None:
        end = f"running{took}"
    else:
        end = f"ran{took}, exit status {report.exit_status}"
    asked = sum(q.count for q in report.queries)
    refused = sum(q.count for q in report.queries if q.outcome is QueryOutcome.REFUSED)
    opened = sum(c.connections for c in report.connections)
    dropped = sum(d.packets for d in report.drops)
    audit = ", audit" if report.audit else ""
    return (
        f"fqdnwall{audit}: {what} {end}; {plural(asked, 'query', 'queries')} ({refused} refused), "
        f"{plural(opened, 'connection')}, {plural(dropped, 'packet')} dropped\n"
    )


def _query_table(queries: Sequence[QueryCount]) -> Table:
    rank = list(QueryOutcome)
    rows = [
        (q.name, q.qtype, q.outcome.value, str(q.count), q.rule or "no rule allows it")
        for q in sorted(
            queries, key=lambda q: (-rank.index(q.outcome), name_key(q.name), q.qtype, q.rule)
        )
    ]
    return Table(("NAME", "TYPE", "OUTCOME", "COUNT", "RULE"), rows, frozenset({3}))


def _name_table(names: Sequence[LearnedName]) -> Table:
    rows = []
    for n in sorted(names, key=lambda n: name_key(n.name)):
        ttl = {a.address: a.ttl for a in n.addresses}
        for i, address in enumerate(addresses(ttl)):
            first = i == 0
            selectors = ", ".join(n.selectors) if first else ""
            rows.append((n.name if first else "", address, str(ttl[address]), selectors))
    return Table(("NAME", "ADDRESS", "TTL", "SELECTORS"), rows, frozenset({2}))


def _connection_table(connections: Sequence[Connections]) -> Table:
    rows = [
        (
            _peer(c.names, c.labels),
            c.address,
            _port(c.port, c.protocol),
            str(c.connections),
            str(c.packets),
            human_bytes(c.bytes),
            c.rule or "-",
        )
        for c in sorted(connections, key=_flow_key)
    ]
    headers = ("NAME", "ADDRESS", "PORT", "CONNS", "PACKETS", "BYTES", "RULE")
    return Table(headers, rows, frozenset({3, 4, 5}))


def _drop_table(drops: Sequence[Drops]) -> Table:
    rows = [
        (
            _peer(d.names, d.labels),
            d.address,
            _port(d.port, d.protocol),
            str(d.packets),
            d.reason,
            d.rule or ("no rule allows it" if d.reason_code == POLICY_DENIED else "-"),
        )
        for d in sorted(drops, key=_flow_key)
    ]
    headers = ("NAME", "ADDRESS", "PORT", "PACKETS", "REASON", "RULE")
    return Table(headers, rows, frozenset({3}))


def _section(title: str, table: Table, stream: TextIO) -> str:
    if not table.rows:
        return ""
    shown = Table(table.headers, table.rows[:ROWS], table.right)
    more = len(table.rows) - ROWS
    note = f"... and {more} more: see --report FILE\n" if more > 0 else ""
    return f"\n{title}\n{render(shown, stream)}{note}"


def _footnotes(report: Report) -> str:
    notes = []
    if report.events_lost:
        notes.append(f"{plural(report.events_lost, 'event')} lost: the counts are too low by them")
    notes += [
        f"{count} more {what} beyond the report's bounds"
        for what, count in sorted(report.omitted.items())
        if count
    ]
    for problem in report.problems:
        notes.append(f"{problem.severity.value}: {problem.subject}: {problem.message}")
        if problem.hint:
            notes.append(f"  {problem.hint}")
    if not notes:
        return ""
    return "\n" + "".join(f"{safe(note)}\n" for note in notes)


def _peer(names: Sequence[str], labels: Sequence[str]) -> str:
    if names:
        return names[0] if len(names) == 1 else f"{names[0]} (+{len(names) - 1})"
    return ", ".join(telling(labels)) or "-"


def _port(port: int, protocol: str) -> str:
    if protocol.startswith("ICMP"):
        return f"{protocol} type {port}"
    return f"{port}/{protocol}" if port else protocol


def _flow_key(flow: Connections | Drops) -> tuple[object, ...]:
    return (-flow.packets, address_key(flow.address), flow.protocol, flow.port, flow.direction)


def _seconds_between(start: str, end: str) -> float | None:
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None
