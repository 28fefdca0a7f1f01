"""matchName and matchPattern, as the documentation's tables have them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import InvalidName, name_selector, pattern_selector

PATTERNS = [
    # pattern, name, whether it matches
    ("*.cilium.io", "docs.cilium.io", True),
    ("*.cilium.io", "docs.cilium.io.", True),
    ("*.cilium.io", "DOCS.Cilium.IO", True),
    ("*.Cilium.IO.", "docs.cilium.io", True),
    ("*.cilium.io", "cilium.io", False),
    ("*.cilium.io", ".cilium.io", False),
    ("*.cilium.io", "a.b.cilium.io", False),
    ("*cilium.io", "cilium.io", True),
    ("*cilium.io", "notcilium.io", True),
    ("*cilium.io", "a.cilium.io", False),
    ("part*ial.com", "partial.com", True),
    ("part*ial.com", "part-xx-ial.com", True),
    ("part*ial.com", "part.x.ial.com", False),
    ("sub*.cilium.io", "sub.cilium.io", True),
    ("sub*.cilium.io", "subdomain.cilium.io", True),
    ("a*b*c.io", "abc.io", True),
    ("a*b*c.io", "aXbYbZc.io", True),
    ("a*b*c.io", "acb.io", False),
    ("*.*.io", "a.b.io", True),
    ("*.*.io", "b.io", False),
    ("*", "anything.at.all", True),
    ("*", "one", True),
    ("*", ".", True),
    ("*", "", True),
    ("*", "a..b", False),
    ("**", "a.b", True),
    ("***", ".", True),
    ("*.", "a.b.c", True),
    ("**.cilium.io", "docs.cilium.io", True),
    ("**.cilium.io", "a.b.c.cilium.io", True),
    ("**.cilium.io", "cilium.io", False),
    ("**.cilium.io", "xcilium.io", False),
    ("***.cilium.io", "a.b.cilium.io", True),
    ("**.**.io", "a.b.io", True),
    ("**.**.io", "b.io", False),
    ("a.**.io", "a.b.io", True),
    ("a.**.io", "a.b.c.io", False),
    ("**x.io", "ax.io", True),
    ("**x.io", "b.ax.io", False),
    ("*.cilium.io", "a\\b.cilium.io", False),
    ("*.cilium.io", "a b.cilium.io", False),
    ("*_tcp.x.io", "_tcp.x.io", True),
    ("cilium.io", "cilium.io", True),
    ("cilium.io", "ciliumxio", False),
    ("*.io", "x.io..", False),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), PATTERNS)
def test_pattern_covers_what_the_documentation_says(
    pattern: str, name: str, expected: bool
) -> None:
    assert pattern_selector(pattern).matches(name) is expected


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("cilium.io", "cilium.io", True),
        ("Cilium.io.", "CILIUM.IO", True),
        ("cilium.io", "docs.cilium.io", False),
        ("cilium.io", "ciliumXio", False),
        ("cilium.io", ".", False),
        ("_sip._tcp.x.io", "_sip._tcp.x.io", True),
    ],
)
def test_name_covers_itself_alone(text: str, name: str, expected: bool) -> None:
    assert name_selector(text).matches(name) is expected


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", ".x.com", "x.com..", "a b", "a*", "ä.com", "a" * 256, "a/b", "a:b"]
)
def test_invalid_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        name_selector(text)


@pytest.mark.parametrize("text", ["", ".", "a..*", ".*", "*..", "a b*", "[a]*", "*" * 256, "*\n"])
def test_invalid_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        pattern_selector(text)


def test_selectors_are_equal_after_normalising() -> None:
    assert pattern_selector("*.CILIUM.io.") == pattern_selector("*.cilium.io")
    assert pattern_selector("a.io") != name_selector("a.io")
    assert pattern_selector("*.CILIUM.io.").text == "*.cilium.io"


def test_many_stars_do_not_backtrack() -> None:
    """A pattern that makes a regular expression run for years is judged at once."""
    selector = pattern_selector("*a" * 60 + "*b.io")
    name = "a" * 20_000 + ".io"
    start = time.perf_counter()
    assert not selector.matches(name)
    assert time.perf_counter() - start < 5


def _regex_of(pattern: str) -> re.Pattern[str]:
    """The reference engine's own translation (matchpattern.go), for names without oddities."""
    text = pattern.lower().removesuffix(".") + "."
    if not text.removesuffix(".").strip("*"):
        return re.compile(r"(?:(?:[-a-z0-9_]+[.])+|[.])\Z")
    text = re.sub(r"\A\*\*+\.", "\0", text)
    text = re.sub(r"\*+", "*", text)
    text = text.replace(".", "[.]").replace("*", "[-a-z0-9_]*")
    return re.compile(text.replace("\0", r"(?:[-a-z0-9_]+(?:[.][-a-z0-9_]+){0,})[.]") + r"\Z")


_LABEL = st.text("ab*", min_size=1, max_size=4)
_PATTERN = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
_NAME = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5).map(".".join)


@given(_PATTERN, _NAME, st.booleans())
def test_agrees_with_the_regular_expression_of_the_reference(
    pattern: str, name: str, dot: bool
) -> None:
    expected = _regex_of(pattern).match(name + ".") is not None
    assert pattern_selector(pattern).matches(name + "." * dot) is expected


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_text_breaks_it(pattern: str, name: str) -> None:
    for make in (name_selector, pattern_selector):
        try:
            selector = make(pattern)
        except InvalidName:
            continue
        assert isinstance(selector.matches(name), bool)
