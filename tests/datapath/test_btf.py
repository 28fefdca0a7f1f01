"""The kernel's type information: fields found by name, whatever anonymous parts they are in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.datapath.btf import BtfError, Place, members

TEXTS = b"\0thing\0plain\0deep\0flag\0u32\0other\0"
STRUCT, UNION, INT, TYPEDEF, ENUM = 4, 5, 1, 8, 6
BITFIELDS = 1 << 31


def text(name: str) -> int:
    return TEXTS.index(b"\0" + name.encode() + b"\0") + 1 if name else 0


def kind(name: str, number: int, elements: int, rest: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=III", text(name), number << 24 | elements | flags, 8) + rest


def member(name: str, of: int, offset: int) -> bytes:
    return struct.pack("=III", text(name), of, offset)


TYPES = b"".join(
    (
        kind("u32", INT, 0, struct.pack("=I", 32)),  # 1
        kind("thing", TYPEDEF, 0),  # 2: the struct's name, of another kind
        kind("other", ENUM, 1, bytes(8)),  # 3
        kind(  # 4
            "",
            STRUCT,
            2,
            member("deep", 1, 16) + member("flag", 1, 2 << 24 | 37),
            BITFIELDS,
        ),
        kind("", UNION, 1, member("", 4, 0)),  # 5
        kind("thing", STRUCT, 2, member("plain", 1, 0) + member("", 5, 64)),  # 6
    )
)


def image(types: bytes = TYPES, texts: bytes = TEXTS, magic: int = 0xEB9F) -> bytes:
    head = struct.pack("=HBBIIIII", magic, 1, 0, 24, 0, len(types), len(types), len(texts))
    return head + types + texts


def test_fields_are_found_through_anonymous_parts() -> None:
    assert members(image(), "thing") == {
        "plain": Place(0, 0),
        "deep": Place(64 + 16, 0),
        "flag": Place(64 + 37, 2),
    }


@pytest.mark.parametrize("name", ["nothing", "other", "hing"])
def test_what_is_no_struct_is_said(name: str) -> None:
    with pytest.raises(BtfError, match=f"no struct {name}"):
        members(image(), name)


def test_something_else_is_no_type_information() -> None:
    with pytest.raises(BtfError):
        members(image(magic=0x7F45), "thing")


@given(st.integers(0, len(image()) - 1))
def test_what_is_cut_off_is_said(size: int) -> None:
    with pytest.raises(BtfError):
        members(image()[:size], "thing")
