"""Models to JSON and back: exact for ours, an error that names the place for everything else."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqdnwall.api import events, models, report
from fqdnwall.api.codec import CodecError, decode, dump_bytes, dumps, encode, loads


def model_strategy(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation that the models use."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([model_strategy(argument) for argument in arguments])
    if kind is types.NoneType:
        return st.none()
    if origin is tuple:
        return st.lists(model_strategy(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(st.text(max_size=5), model_strategy(arguments[1]), max_size=2)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(
            kind, **{f.name: model_strategy(hints[f.name]) for f in dataclasses.fields(kind)}
        )
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    return {
        str: st.text(max_size=8),
        int: st.integers(-(2**64), 2**64),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
    }[kind]


def all_models() -> list[type]:
    found = {
        value
        for module in (models, events, report)
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    }
    # A filter is a query string and holds a set; a spec has rules of its own.
    found -= {events.EventFilter, models.EndpointSpec}
    return sorted(found, key=lambda kind: kind.__name__)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", all_models(), ids=lambda kind: kind.__name__)
def test_every_model_survives_the_journey(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(model_strategy(kind))
    def journey(value: object) -> None:
        assert decode(kind, loads(dump_bytes(value)), strict=True) == value

    journey()


@pytest.mark.parametrize("kind", [*all_models(), models.EndpointSpec], ids=lambda k: k.__name__)
def test_any_json_gives_the_model_or_a_codec_error(kind: type) -> None:
    keys = [f.metadata.get("json", f.name) for f in dataclasses.fields(kind)]
    nearly = st.fixed_dictionaries({}, optional=dict.fromkeys(keys, json_values))

    @settings(max_examples=25, deadline=None)
    @given(json_values | nearly)
    def decoding(value: Any) -> None:
        try:
            decoded = decode(kind, value)
        except CodecError:
            return
        assert decode(kind, loads(dumps(decoded))) == decoded

    decoding()


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_a_codec_error(data: bytes) -> None:
    try:
        value = loads(data)
    except CodecError:
        return
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, '{"a":', "", b"\xff"])
def test_what_is_not_json_is_a_codec_error(text: str | bytes) -> None:
    with pytest.raises(CodecError):
        loads(text)


@dataclass(frozen=True)
class Inner:
    n: int
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    inners: tuple[Inner, ...]
    flag: bool = False
    by_name: Mapping[str, int] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "document: expected an object, got a list"),
        ({}, "inners: missing"),
        ({"inners": {}}, "inners: expected a list, got an object"),
        ({"inners": [{"n": 1}, {"n": "1"}]}, 'inners[1].n: expected an integer, got "1"'),
        ({"inners": [{"n": True}]}, "inners[0].n: expected an integer, got true"),
        ({"inners": [{"n": None}]}, "inners[0].n: expected an integer, got null"),
        ({"inners": [{"n": 1, "ratio": 10**400}]}, "inners[0].ratio: number too large"),
        ({"inners": [], "flag": 1}, "flag: expected true or false, got 1"),
        ({"inners": [], "by_name": {"a": "x"}}, 'by_name.a: expected an integer, got "x"'),
        ({"inners": [], "extra": 1}, "extra: unknown key; known: inners, flag, by_name"),
    ],
)
def test_the_error_names_the_place(value: Any, message: str) -> None:
    with pytest.raises(CodecError) as error:
        decode(Outer, value, strict=True)
    assert str(error.value) == message


def test_a_newer_agents_keys_are_ignored_in_answers() -> None:
    assert decode(Outer, {"inners": [], "new": 1}) == Outer(())


def test_whole_numbers_serve_as_floats() -> None:
    assert decode(Inner, {"n": 1, "ratio": 2}) == Inner(1, 2.0)


def test_fqdn_cache_has_the_keys_that_scripts_for_cilium_read() -> None:
    entry = models.FqdnCacheEntry(1, models.FqdnSource.LOOKUP, "a.", 5, "t", "u", ("192.0.2.1",))
    assert encode(entry) == {
        "endpoint-id": 1,
        "source": "lookup",
        "fqdn": "a.",
        "ttl": 5,
        "lookup-time": "t",
        "expiration-time": "u",
        "ips": ["192.0.2.1"],
    }


def test_stray_bytes_of_a_file_name_are_carried() -> None:
    assert loads(dump_bytes("\udc80.yaml")) == "\udc80.yaml"


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x"])
def test_what_has_no_json_form_is_our_bug(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"netns": "/a", "pid": 1},
        {"netns": "relative"},
        {"pid": 0},
        {"interface": ""},
        {"interface": "a-name-that-is-too-long"},
        {"interface": "eth0", "namespace": ""},
    ],
)
def test_an_endpoint_spec_names_one_thing(arguments: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode(models.EndpointSpec, arguments, strict=True)
