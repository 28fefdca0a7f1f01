"""Frozen dataclasses to JSON and back, by their type annotations.

One encoder and one decoder serve every model of the API. Supported: ``str``, ``int``, ``float``,
``bool``, ``None``, ``StrEnum``, ``X | None``, ``tuple[X, ...]``, ``Mapping[str, X]`` and
dataclasses of these. A field whose JSON name differs says so: ``field(metadata={"json": name})``.

Invariant: ``decode(type(x), encode(x)) == x``, and what ``decode`` returns has the annotated types
all the way down, whatever JSON came in.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")

_SCALARS = (str, int, float, bool)


class CodecError(ValueError):
    """JSON that is not what the model says; the message starts with the path of the value."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'document'}: {problem}")
        self.path = path
        self.problem = problem


def encode(value: Any) -> Json:
    """The JSON value of a model, or of a tuple or mapping of models. Raises TypeError on others."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {name: encode(getattr(value, attr)) for attr, name in _names(_class(value))}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dumps(value: object, *, indent: int | None = None) -> str:
    """``encode`` as text; one line unless ``indent`` (spaces) is given."""
    return json.dumps(encode(value), indent=indent, ensure_ascii=False, allow_nan=False)


def dump_bytes(value: object) -> bytes:
    """``dumps`` as UTF-8; what UTF-8 cannot hold (a file name's stray bytes) as JSON's escape."""
    return dumps(value).encode("utf-8", "backslashreplace")


def loads(text: str | bytes) -> Json:
    """JSON text (UTF-8) to a value. Raises CodecError; NaN and Infinity are not JSON."""
    try:
        return cast(Json, json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise CodecError("", "nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CodecError("", f"not JSON: {error}") from None


def decode(kind: type[T], value: Json, *, strict: bool = False, path: str = "") -> T:
    """The model of a JSON value.

    ``strict`` refuses keys that the model does not have (for requests); otherwise they are ignored,
    so that an older client reads a newer agent. Raises CodecError.
    """
    annotation: Any = kind
    return cast(T, _decoder(annotation)(value, path, strict))


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _class(value: object) -> Any:
    return type(value)


@cache
def _names(kind: Any) -> tuple[tuple[str, str], ...]:
    return tuple((f.name, f.metadata.get("json", f.name)) for f in dataclasses.fields(kind))


_Decoder = Callable[[Json, str, bool], Any]


@cache
def _decoder(kind: Any) -> _Decoder:
    """The decoder of one annotation, made once."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _optional(kind)
    if origin is tuple:
        return _sequence(typing.get_args(kind)[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(typing.get_args(kind)[1])
    if dataclasses.is_dataclass(kind):
        return _model(cast(type, kind))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _enum(kind)
    if kind in _SCALARS:
        return _scalar(kind)
    raise TypeError(f"{kind!r} is not a type that the API's models may use")


def _scalar(kind: type) -> _Decoder:
    def scalar(value: Json, path: str, strict: bool) -> object:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return _finite(float, value, path)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CodecError(path, f"expected {_word(kind)}, got {_describe(value)}")
        return _finite(kind, value, path) if kind is float else value

    return scalar


def _finite(kind: type, value: Any, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise CodecError(path, "number too large") from None
    if not math.isfinite(number):
        raise CodecError(path, "number too large")
    return number


def _enum(kind: type[StrEnum]) -> _Decoder:
    def member(value: Json, path: str, strict: bool) -> StrEnum:
        try:
            return kind(cast(str, value))
        except ValueError:
            known = ", ".join(m.value for m in kind)
            raise CodecError(path, f"{_describe(value)} is not one of {known}") from None

    return member


def _optional(kind: Any) -> _Decoder:
    members = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
    if len(members) != 1:
        raise TypeError(f"{kind!r}: the only union that a model may use is X | None")
    inner = _decoder(members[0])
    return lambda value, path, strict: None if value is None else inner(value, path, strict)


def _sequence(item: Any) -> _Decoder:
    inner = _decoder(item)

    def sequence(value: Json, path: str, strict: bool) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise CodecError(path, f"expected a list, got {_describe(value)}")
        return tuple(inner(v, f"{path}[{i}]", strict) for i, v in enumerate(value))

    return sequence


def _mapping(item: Any) -> _Decoder:
    inner = _decoder(item)

    def mapping(value: Json, path: str, strict: bool) -> dict[str, object]:
        if not isinstance(value, dict):
            raise CodecError(path, f"expected an object, got {_describe(value)}")
        return {k: inner(v, _join(path, k), strict) for k, v in value.items()}

    return mapping


def _model(kind: type) -> _Decoder:
    hints = typing.get_type_hints(kind)
    required = _required(kind)
    fields = {name: (attr, _decoder(hints[attr]), attr in required) for attr, name in _names(kind)}

    def model(value: Json, path: str, strict: bool) -> object:
        if not isinstance(value, dict):
            raise CodecError(path, f"expected an object, got {_describe(value)}")
        unknown = sorted(value.keys() - fields.keys())
        if strict and unknown:
            raise CodecError(_join(path, unknown[0]), f"unknown key; known: {', '.join(fields)}")
        arguments = {}
        for name, (attr, decoder, needed) in fields.items():
            if name in value:
                arguments[attr] = decoder(value[name], _join(path, name), strict)
            elif needed:
                raise CodecError(_join(path, name), "missing")
        try:
            return kind(**arguments)
        except ValueError as error:  # a model's own check, in __post_init__
            raise CodecError(path, str(error)) from None

    return model


def _required(kind: type) -> frozenset[str]:
    missing = dataclasses.MISSING
    return frozenset(
        f.name
        for f in dataclasses.fields(kind)
        if f.default is missing and f.default_factory is missing
    )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _word(kind: type) -> str:
    words = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return words[kind]


def _describe(value: Json) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "an object"
        case list():
            return "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
