"""The demo's live view: names, their addresses and times to live, and verdicts, as they happen.

`Board` takes the monitor's events (the JSON of `fqdnwall monitor -o json`) and the errands'
outcomes, and draws what a person should see. It reads no clock and does no I/O: `now` is given, in
seconds of a monotonic clock.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.lab.expectations import Errand, Happening

SHOWN_VERDICTS, SHOWN_NAMES, SHOWN_ADDRESSES = 10, 9, 2
Json = dict[str, Any]

_COLOURS = {
    Happening.REACHED: "green",
    Happening.ANSWERED: "green",
    Happening.REFUSED: "yellow",
    Happening.DROPPED: "yellow",
    Happening.FAILED: "red",
}


@dataclass(slots=True)
class _Name:
    allowed: bool
    until: dict[str, float] = field(default_factory=dict)
    """Address → when it expires."""


@dataclass(frozen=True, slots=True)
class Step:
    """An errand that is done."""

    errand: Errand
    outcome: Happening
    seconds: float

    @property
    def as_expected(self) -> bool:
        return self.outcome is self.errand.expected


class Board:
    """What has been seen so far."""

    def __init__(self, total: int) -> None:
        self.steps: list[Step] = []
        self.doing: Errand | None = None
        self._said: set[str] = set()
        self._total = total
        self._names: dict[str, _Name] = {}
        self._verdicts: deque[Text] = deque(maxlen=SHOWN_VERDICTS)

    def event(self, event: Json, now: float) -> Text | None:
        """Takes one event of the monitor; returns its line, or None when it tells nothing new."""
        match event.get("type"):
            case "dns":
                line = self._dns(event, now)
            case "drop":
                line = _line("dropped", "yellow", _flow(event), _rule(event))
            case "policy-verdict" if event.get("verdict") == "allow":
                line = _line("allowed", "green", _flow(event), _rule(event))
            case _:
                line = None
        if line is None or line.plain in self._said:
            return None
        self._said.add(line.plain)
        self._verdicts.append(line)
        return line

    def _dns(self, event: Json, now: float) -> Text | None:
        exchange = event.get("dns") or {}
        name, code = exchange.get("qname", ""), exchange.get("rcode", "")
        if not code:
            return None
        question = f"{name} {exchange.get('qtype', '')}"
        if code == "REFUSED":
            self._names[name] = _Name(allowed=False)
            return _line("refused", "yellow", question, _rule(event))
        known = self._names.setdefault(name, _Name(allowed=True))
        addresses = exchange.get("addresses") or []
        ttl = exchange.get("ttl") or 0
        for address in addresses:
            known.until[address] = now + ttl
        if not addresses:
            return _line("answered", "cyan", question, code)
        return _line("learned", "cyan", question, f"{_few(addresses)} for {ttl} s")

    def begin(self, errand: Errand | None) -> None:
        """An errand begins, or none any more. What is said once within one is not said again."""
        self.doing = errand
        self._said.clear()

    def done(self, step: Step) -> None:
        """An errand has ended."""
        self.steps.append(step)

    def render(self, now: float) -> RenderableType:
        """The whole view, to be drawn again and again."""
        return Group(
            Panel(self._names_table(now), title="names", title_align="left", box=box.ROUNDED),
            Panel(
                Group(*self._verdicts) if self._verdicts else Text("nothing yet", style="dim"),
                title="verdicts",
                title_align="left",
                box=box.ROUNDED,
                height=SHOWN_VERDICTS + 2,
            ),
            self._progress(),
        )

    def _names_table(self, now: float) -> Table:
        table = Table(box=None, expand=True, pad_edge=False)
        table.add_column("name", ratio=3, no_wrap=True)
        table.add_column("addresses", ratio=5, no_wrap=True)
        table.add_column("time to live", justify="right", no_wrap=True)
        for name, known in list(self._names.items())[-SHOWN_NAMES:]:
            if not known.allowed:
                table.add_row(name, Text("not allowed", style="yellow"), "")
                continue
            left = max(known.until.values(), default=now) - now
            shown = f"{left:.0f} s" if left > 0 else "expired"
            time_to_live = Text(shown, style="green" if left > 0 else "dim")
            table.add_row(name, _few(list(reversed(known.until))), time_to_live)
        return table

    def _progress(self) -> Text:
        right = sum(step.as_expected for step in self.steps)
        text = Text(f" {len(self.steps)} of {self._total} done, {right} as expected")
        if self.doing is not None:
            text.append(f"   now: {self.doing.title}", style="bold")
        return text

    def table(self) -> Table:
        """Expectation against outcome, for the end."""
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("", "what the client does", "expected", "outcome"):
            table.add_column(column)
        table.add_column("time", justify="right")
        for step in self.steps:
            mark = Text("✓", "green") if step.as_expected else Text("✗", "bold red")
            colour = _COLOURS[step.outcome] if step.as_expected else "bold red"
            outcome = Text(step.outcome.value, colour)
            expected = step.errand.expected.value
            table.add_row(mark, step.errand.title, expected, outcome, f"{step.seconds:.2f} s")
        return table


def _flow(event: Json) -> str:
    destination = event.get("destination") or {}
    address, port = destination.get("address", ""), destination.get("port", 0)
    shown = f"[{address}]" if ":" in address else address
    names = destination.get("names") or []
    of_name = f" ({names[0]})" if names else ""
    return f"{event.get('protocol', '')} {shown}:{port}{of_name}"


def _few(addresses: Sequence[str]) -> str:
    more = len(addresses) - SHOWN_ADDRESSES
    return ", ".join(addresses[:SHOWN_ADDRESSES]) + (f" and {more} more" if more > 0 else "")


def _rule(event: Json) -> str:
    """The part of the policy that decided: `spec.egress[1]`."""
    rule = str(event.get("rule", ""))
    found = re.search(r"spec\S*", rule)
    return f"by {found[0]}" if found else rule or "no rule allows it"


def _line(verdict: str, colour: str, what: str, why: object) -> Text:
    text = Text(f"{verdict:<9}", style=colour, no_wrap=True, overflow="ellipsis")
    text.append(what, style="default")
    text.append(f"  {why}", style="dim")
    return text
