"""Reading a schema out of a document tree, with every fault noted and none raised.

A Field is a node with its path. Its methods give the value in the type that was asked for, or None
after noting the problem, so that a parser reads on and its user sees all errors at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.document import Mapping, Node, Scalar, Sequence
from policies.errors import PolicyError


@dataclass(slots=True)
class Problems:
    """The errors of one file, gathered in the order of reading."""

    source: str
    errors: list[PolicyError] = field(default_factory=list)

    def add(self, at: Field, message: str, path: str | None = None) -> None:
        where = at.path if path is None else path
        self.errors.append(PolicyError(self.source, at.line, where, message))


@dataclass(frozen=True, slots=True)
class Field:
    """A value in a document, and where it stands."""

    node: Node
    path: str
    problems: Problems

    @property
    def line(self) -> int:
        return self.node.line

    def error(self, message: str) -> None:
        self.problems.add(self, message)

    def fields(self, known: Iterable[str], ignored: Iterable[str] = ()) -> dict[str, Field]:
        """The members of a mapping. Unknown ones are errors; null ones count as missing."""
        if not isinstance(self.node, Mapping):
            self.error(f"should be a mapping, not {_name(self.node)}")
            return {}
        known = tuple(known)
        ignored = frozenset(ignored)
        found: dict[str, Field] = {}
        for key, node in self.node.items:
            member = Field(node, f"{self.path}.{key}" if self.path else key, self.problems)
            if key in known:
                if not (isinstance(node, Scalar) and node.value is None):
                    found[key] = member
            elif key not in ignored:
                member.error(f"there is no such field here; it could be {_listed(known)}")
        return found

    def items(self, at_most: int | None = None) -> list[Field]:
        """The items of a list."""
        if not isinstance(self.node, Sequence):
            self.error(f"should be a list, not {_name(self.node)}")
            return []
        if at_most is not None and len(self.node.items) > at_most:
            self.error(f"has {len(self.node.items)} items; at most {at_most}")
        return [
            Field(node, f"{self.path}[{index}]", self.problems)
            for index, node in enumerate(self.node.items)
        ]

    def entries(self) -> list[tuple[str, Field]]:
        """The members of a mapping whose keys are the user's own."""
        if not isinstance(self.node, Mapping):
            self.error(f"should be a mapping, not {_name(self.node)}")
            return []
        return [
            (key, Field(node, f"{self.path}[{key!r}]", self.problems))
            for key, node in self.node.items
        ]

    def string(self, at_most: int | None = None) -> str | None:
        if not isinstance(self.node, Scalar) or not isinstance(self.node.value, str):
            hint = ""
            if isinstance(self.node, Scalar) and self.node.value is not None:
                hint = f'; write it in quotes: "{self._written()}"'
            self.error(f"should be a string, not {_name(self.node)}{hint}")
            return None
        if at_most is not None and len(self.node.value) > at_most:
            self.error(f"is {len(self.node.value)} characters long; at most {at_most}")
        return self.node.value

    def one_of(self, choices: Iterable[str]) -> str | None:
        choices = tuple(choices)
        text = self.string()
        if text is not None and text not in choices:
            self.error(f"{text!r} is not known here; it should be {_listed(choices)}")
            return None
        return text

    def integer(self, least: int, most: int) -> int | None:
        value = self.node.value if isinstance(self.node, Scalar) else None
        if not isinstance(value, int) or isinstance(value, bool):
            self.error(f"should be a number, not {_name(self.node)}")
            return None
        if not least <= value <= most:
            self.error(f"{value} is out of range; it should be {least} to {most}")
            return None
        return value

    def boolean(self) -> bool | None:
        if not isinstance(self.node, Scalar) or not isinstance(self.node.value, bool):
            self.error(f"should be true or false, not {_name(self.node)}")
            return None
        return self.node.value

    @property
    def is_text(self) -> bool:
        return isinstance(self.node, Scalar) and isinstance(self.node.value, str)

    def _written(self) -> str:
        value = self.node.value if isinstance(self.node, Scalar) else ""
        return str(value).lower() if isinstance(value, bool) else str(value)


def exactly_one(at: Field, members: dict[str, Field], choices: Iterable[str]) -> str | None:
    """The one member of ``choices`` that is present; notes an error when none or several are."""
    choices = tuple(choices)
    given = [choice for choice in choices if choice in members]
    if len(given) == 1:
        return given[0]
    if given:
        at.error(f"has {' and '.join(given)}; only one of them may be given")
    else:
        at.error(f"needs {_listed(choices)}")
    return None


def _listed(words: tuple[str, ...]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _name(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "null"
    if isinstance(node.value, bool):
        return "a boolean"
    return "a string" if isinstance(node.value, str) else "a number"
