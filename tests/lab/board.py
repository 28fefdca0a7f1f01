"""The demo's live view: names, their addresses and times to live, and verdicts, as they happen.

`Board` takes the monitor's events (the JSON of `fqdnwall monitor -o json`) and the errands'
outcomes, and draws what a person should see. It reads no clock and does no I/O: `now` is given, in
seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.lab.expectations import Errand, Happening

SHOWN_VERDICTS, SHOWN_NAMES = 9, 9
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
        self._total = total
        self._names: dict[str, _Name] = {}
        self._verdicts: deque[Text] = deque(maxlen=SHOWN_VERDICTS)

    def event(self, event: Json, now: float) -> Text | None:
        """Takes one event of the monitor; returns its line, or None when it tells nothing new."""
        match event.get("type"):
            case "dns":
                line = self._dns(event, now)
            case "drop":
                line = _line("dropped", "yellow", _flow(event), event.get("reason", ""))
            case "policy-verdict" if event.get("verdict") in ("allow", "redirect"):
                line = _line(str(event["verdict"]), "green", _flow(event), event.get("rule", ""))
            case _:
                line = None
        if line is not None:
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
            return _line("refused", "yellow", question, event.get("rule", "") or "no rule")
        known = self._names.setdefault(name, _Name(allowed=True))
        addresses = exchange.get("addresses") or []
        for address in addresses:
            known.until[address] = now + (exchange.get("ttl") or 0)
        return _line("learned" if addresses else "answered", "cyan", question, ", ".join(addresses))

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
            latest = list(known.until)[-2:]
            more = len(known.until) - len(latest)
            addresses = ", ".join(latest) + (f" and {more} more" if more else "")
            left = max(known.until.values(), default=now) - now
            shown = f"{left:.0f} s" if left > 0 else "expired"
            table.add_row(name, addresses, Text(shown, style="green" if left > 0 else "dim"))
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


def _line(verdict: str, colour: str, what: str, why: object) -> Text:
    text = Text(f"{verdict:<9}", style=colour, no_wrap=True, overflow="ellipsis")
    text.append(what, style="default")
    text.append(f"  {why}", style="dim")
    return text
