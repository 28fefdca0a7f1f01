"""YAML documents as trees whose every node knows its line.

The tree is built from the parser's events, so the bounds hold while reading: nesting, size and
aliases cannot exhaust memory or the stack. Plain scalars follow the JSON-compatible rules that
Kubernetes users expect (``yes`` is a string, ``012`` is not eight).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from policies.errors import PolicyError

MAX_DEPTH: Final = 64
MAX_NODES: Final = 1_000_000
MAX_ALIASED_NODES: Final = 10_000
"""Nodes that aliases may add to one file; a larger expansion is taken for an attack."""

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf, already read as a JSON value."""

    line: int
    value: Value
    size: int = 1


@dataclass(frozen=True, slots=True)
class Sequence:
    line: int
    items: tuple[Node, ...]
    size: int = 1


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys are unique strings, in the order they were written."""

    line: int
    items: tuple[tuple[str, Node], ...]
    size: int = 1

    def get(self, key: str) -> Node | None:
        return next((node for name, node in self.items if name == key), None)


Node: TypeAlias = Scalar | Sequence | Mapping


class _Refused(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def load_documents(text: str, source: str) -> tuple[list[Mapping], list[PolicyError]]:
    """Every document of a YAML text. Empty documents are skipped, others must be mappings.

    A text that is not YAML gives the documents before the fault, and one error.
    """
    documents: list[Mapping] = []
    errors: list[PolicyError] = []
    try:
        for node in _Builder(text).documents():
            if isinstance(node, Mapping):
                documents.append(node)
            elif not (isinstance(node, Scalar) and node.value is None):
                errors.append(PolicyError(source, node.line, "", "a policy must be a mapping"))
    except _Refused as refused:
        errors.append(PolicyError(source, refused.line, "", refused.message))
    except yaml.YAMLError as error:
        errors.append(PolicyError(source, _line_of(error), "", _text_of(error)))
    return documents, errors


def from_value(value: object, depth: int = 0) -> Node:
    """A tree from decoded JSON, with line 0. Raises ValueError when it is too deep or not JSON."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, (str, int, float, bool)):
        return Scalar(0, value)
    if isinstance(value, (list, tuple)):
        return Sequence(0, tuple(from_value(item, depth + 1) for item in value))
    if isinstance(value, dict):
        return Mapping(0, tuple((str(k), from_value(v, depth + 1)) for k, v in value.items()))
    raise ValueError(f"{type(value).__name__} is not a JSON value")


def to_value(node: Node) -> Any:
    """The plain Python value of a tree."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [to_value(item) for item in node.items]
    return {key: to_value(item) for key, item in node.items}


class _Builder:
    """Turns the event stream of one text into trees."""

    def __init__(self, text: str) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self._aliased = 0

    def documents(self) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                yield self._node(next(self._events), 0)

    def _node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested more than {MAX_DEPTH} deep")
        if self._nodes > MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES} values in one file")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, line)
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(line, _scalar(event, line))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, depth)
        else:
            node = self._mapping(line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str | None, line: int) -> Node:
        if anchor is None or anchor not in self._anchors:
            raise _Refused(line, f"alias *{anchor} has no anchor before it")
        node = self._anchors[anchor]
        self._aliased += node.size
        if self._aliased > MAX_ALIASED_NODES:
            raise _Refused(line, f"aliases expand to more than {MAX_ALIASED_NODES} values")
        return node

    def _sequence(self, line: int, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Sequence(line, tuple(items), 1 + sum(item.size for item in items))

    def _mapping(self, line: int, depth: int) -> Mapping:
        items: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise _Refused(key_line, "a key must be a plain string")
            key = event.value
            if key in items:
                raise _Refused(key_line, f"the key {key!r} is given twice in one mapping")
            items[key] = self._node(next(self._events), depth + 1)
        size = 1 + sum(item.size for item in items.values())
        return Mapping(line, tuple(items.items()), size)


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: Final[dict[str, Value]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _scalar(event: Any, line: int) -> Value:
    text: str = event.value
    if not event.implicit[0]:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _Refused(line, f"the tag {event.tag} is not supported")
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text) if len(text) < 32 else text
    if _HEXADECIMAL.match(text):
        return int(text, 16) if len(text) < 32 else text
    if _FLOAT.match(text):
        return float(text)
    return text


def _line_of(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark is not None else 1


def _text_of(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"not YAML: {problem}"
