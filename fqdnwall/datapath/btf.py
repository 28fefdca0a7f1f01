"""Where the running kernel keeps the fields of a struct, by its own type information (BTF).

Pure: octets in, places out. The format is in the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = 0xEB9F
STRUCT, UNION = 4, 5
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")
# Octets behind a type of each kind: fixed ones, and those for each of its elements.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {STRUCT: 12, UNION: 12, 6: 8, 13: 8, 15: 12, 19: 12}


class BtfError(ValueError):
    """The type information does not say it, or is none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of a field in its struct, in bits."""

    offset: int
    bits: int  # 0: not a bit field


def members(raw: bytes, name: str) -> dict[str, Place]:
    """The named fields of a struct, those of anonymous parts included. Raises BtfError."""
    try:
        return dict(_members(raw, name))
    except (struct.error, IndexError) as error:
        raise BtfError(f"broken type information: {error}") from error


def _members(raw: bytes, name: str) -> Iterator[tuple[str, Place]]:
    magic, _, _, head, type_at, type_size, text_at, text_size = _HEADER.unpack_from(raw)
    if magic != MAGIC or len(raw) < head + text_at + text_size:
        raise BtfError("no type information, or not all of it")
    texts = raw[head + text_at : head + text_at + text_size]
    wanted = texts.find(b"\0" + name.encode() + b"\0") + 1
    offsets = [0]  # by the number of the type; number 0 is void
    found = None
    at, end = head + type_at, head + type_at + type_size
    while at < end:
        name_at, info, _ = _TYPE.unpack_from(raw, at)
        kind = info >> 24 & 31
        if name_at == wanted and kind == STRUCT:
            found = len(offsets)
        offsets.append(at)
        at += _TYPE.size + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * (info & 0xFFFF)
    if not wanted or found is None:
        raise BtfError(f"no struct {name}")

    def walk(number: int, base: int) -> Iterator[tuple[str, Place]]:
        at = offsets[number]
        _, info, _ = _TYPE.unpack_from(raw, at)
        if info >> 24 & 31 not in (STRUCT, UNION):
            return
        for index in range(info & 0xFFFF):
            name_at, inner, offset = _MEMBER.unpack_from(raw, at + 12 + index * _MEMBER.size)
            bits = offset >> 24 if info >> 31 else 0
            offset = base + (offset & 0xFFFFFF if info >> 31 else offset)
            if name_at:
                yield texts[name_at : texts.index(b"\0", name_at)].decode(), Place(offset, bits)
            else:
                yield from walk(inner, offset)

    yield from walk(found, 0)
