"""Which DNS names a selector covers: ``matchName`` and ``matchPattern``.

Contract (Cilium ``pkg/fqdn/matchpattern``, and the schema of its CRD):

* a *name* selects itself, whatever the case, with or without the final dot;
* in a *pattern* ``*`` stands for zero or more letters, digits, ``-`` and ``_`` inside one label,
  and never for a dot; stars in a row count as one;
* a pattern of stars alone selects every name, the root included;
* ``**.`` in front (two stars or more, then a dot) stands for one or more whole labels.

Invariant: judging a name takes time linear in the name's length times the pattern's. Labels are
compared one by one, and a label is matched by the two-pointer walk, so nothing backtracks further
than one label. No regular expression is built from what a user wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

MAX_SELECTOR_OCTETS = 255
"""Longest text that the API's schema lets a selector have."""

_LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_NAME_TEXT = re.compile(r"[-a-zA-Z0-9_]+(?:\.[-a-zA-Z0-9_]+)*\.?\Z")
_PATTERN_TEXT = re.compile(r"[-a-zA-Z0-9_*]+(?:\.[-a-zA-Z0-9_*]+)*\.?\Z")
_STARS = re.compile(r"\*+")
_DEEP = re.compile(r"\*\*+\.")


class InvalidName(ValueError):
    """A text that the API's schema refuses as a ``matchName`` or ``matchPattern``."""


class NameKind(Enum):
    """How the text of a selector is to be read."""

    NAME = "name"
    PATTERN = "pattern"


class _Reach(Enum):
    EXACT_DEPTH = 1
    ANY_DEPTH_BELOW = 2
    EVERYTHING = 3


@dataclass(frozen=True, slots=True)
class NameSelector:
    """One ``matchName`` or ``matchPattern``; make it with name_selector() or pattern_selector().

    ``text`` is normalised: lower case, no final dot. Selectors are equal when kind and text are.
    """

    kind: NameKind
    text: str
    _reach: _Reach = field(repr=False, compare=False)
    _labels: tuple[str, ...] = field(repr=False, compare=False)

    def matches(self, qname: str) -> bool:
        """True when ``qname`` (any case, final dot or not) is covered.

        A name with an empty label, or with a character that no selector can hold, is covered by
        none. The root is ``.`` or the empty string, and only ``*`` covers it.
        """
        labels = _labels_of(qname)
        if labels is None:
            return False
        if self._reach is _Reach.EVERYTHING:
            return True
        if self._reach is _Reach.ANY_DEPTH_BELOW:
            if len(labels) <= len(self._labels):
                return False
            labels = labels[len(labels) - len(self._labels) :]
        elif len(labels) != len(self._labels):
            return False
        return all(map(label_matches, self._labels, labels))

    @property
    def is_everything(self) -> bool:
        """True for a pattern of stars alone, which covers every name."""
        return self._reach is _Reach.EVERYTHING

    def __str__(self) -> str:
        return self.text


def name_selector(text: str) -> NameSelector:
    """The selector of a ``matchName``. Raises InvalidName."""
    _check(text, _NAME_TEXT, "matchName", "letters, digits, '-', '_' and single dots")
    normal = text.lower().removesuffix(".")
    return NameSelector(NameKind.NAME, normal, _Reach.EXACT_DEPTH, tuple(normal.split(".")))


def pattern_selector(text: str) -> NameSelector:
    """The selector of a ``matchPattern``. Raises InvalidName."""
    _check(text, _PATTERN_TEXT, "matchPattern", "letters, digits, '-', '_', '*' and single dots")
    normal = text.lower().removesuffix(".")
    if not normal.strip("*"):
        return NameSelector(NameKind.PATTERN, normal, _Reach.EVERYTHING, ())
    deep = _DEEP.match(normal)
    rest = normal[deep.end() :] if deep else normal
    reach = _Reach.ANY_DEPTH_BELOW if deep else _Reach.EXACT_DEPTH
    labels = tuple(_STARS.sub("*", label) for label in rest.split("."))
    return NameSelector(NameKind.PATTERN, normal, reach, labels)


def _check(text: str, syntax: re.Pattern[str], what: str, allowed: str) -> None:
    if not text:
        raise InvalidName(f"{what} is empty")
    if len(text) > MAX_SELECTOR_OCTETS:
        raise InvalidName(f"{what} is {len(text)} characters long; at most {MAX_SELECTOR_OCTETS}")
    if not syntax.match(text):
        raise InvalidName(f"{text!r} is not a {what}: it may have {allowed}")


def _labels_of(qname: str) -> list[str] | None:
    """The labels of a query name, lower case; [] for the root; None when it is not well formed."""
    name = qname.lower()
    if name in ("", "."):
        return []
    labels = name.removesuffix(".").split(".")
    if all(label and _LABEL_CHARACTERS.issuperset(label) for label in labels):
        return labels
    return None


def label_matches(glob: str, label: str) -> bool:
    """Match one label; ``*`` is zero or more characters. At most len(glob) * len(label) steps."""
    at_glob = at_label = 0
    star = resume = -1
    while at_label < len(label):
        if at_glob < len(glob) and glob[at_glob] == "*":
            star, resume = at_glob, at_label
            at_glob += 1
        elif at_glob < len(glob) and glob[at_glob] == label[at_label]:
            at_glob += 1
            at_label += 1
        elif star >= 0:
            resume += 1
            at_glob, at_label = star + 1, resume
        else:
            return False
    return not glob[at_glob:].strip("*")
