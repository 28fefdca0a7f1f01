"""Describing a C struct once, in Python, and deriving its packing and its C text from that.

A subclass of ``Layout`` is a frozen dataclass whose annotations are the ``Annotated`` scalar
types below or another ``Layout`` (an array of them through ``array_of``). ``pack`` and
``unpack`` speak the machine's byte order except for ``Be16`` values, which are *held in host
order in Python* and big-endian in memory. Padding is always explicit: a struct whose fields do
not fall on their natural alignment is refused when the class is made, so the C compiler can
never disagree about an offset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

ADDRESS_BYTES = 16


@dataclass(frozen=True, slots=True)
class Scalar:
    """One C scalar: its type name, its ``struct`` code and its alignment in bytes."""

    c_type: str
    code: str
    size: int


@dataclass(frozen=True, slots=True)
class Array:
    """``count`` elements of another layout, embedded."""

    element: type[Layout]
    count: int


@dataclass(frozen=True, slots=True)
class Octets:
    """``count`` octets that C does not look into; shorter values are padded with zeros."""

    count: int


U8 = Annotated[int, Scalar("u8", "B", 1)]
U16 = Annotated[int, Scalar("u16", "H", 2)]
U32 = Annotated[int, Scalar("u32", "I", 4)]
U64 = Annotated[int, Scalar("u64", "Q", 8)]
Be16 = Annotated[int, Scalar("__be16", "2s", 2)]
Be32 = Annotated[int, Scalar("__be32", "4s", 4)]
Address = Annotated[bytes, Scalar("struct address", "16s", 4)]
"""An IPv6 address in network order; IPv4 as ``::ffff:a.b.c.d``."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: Scalar | Array | Octets

    @property
    def code(self) -> str:
        if isinstance(self.kind, Array):
            return f"{self.kind.element.size() * self.kind.count}s"
        if isinstance(self.kind, Octets):
            return f"{self.kind.count}s"
        return self.kind.code

    @property
    def alignment(self) -> int:
        if isinstance(self.kind, Octets):
            return 1
        return self.kind.element.alignment() if isinstance(self.kind, Array) else self.kind.size

    def c(self) -> str:
        if isinstance(self.kind, Array):
            return f"struct {self.kind.element.C_NAME} {self.name}[{self.kind.count}];"
        if isinstance(self.kind, Octets):
            return f"u8 {self.name}[{self.kind.count}];"
        return f"{self.kind.c_type} {self.name};"

    @property
    def is_big_endian(self) -> bool:
        return isinstance(self.kind, Scalar) and self.kind.c_type.startswith("__be")

    def encode(self, value: Any) -> Any:
        if isinstance(self.kind, Array):
            if len(value) > self.kind.count:
                raise ValueError(f"{self.name}: {len(value)} elements, {self.kind.count} fit")
            return b"".join(element.pack() for element in value)
        if isinstance(self.kind, Octets):
            if len(value) > self.kind.count:
                raise ValueError(f"{self.name}: {len(value)} octets, {self.kind.count} fit")
            return value
        if self.is_big_endian:
            return int(value).to_bytes(self.kind.size, "big")
        return value

    def decode(self, value: Any) -> Any:
        if isinstance(self.kind, Array):
            size = self.kind.element.size()
            count = min(len(value) // size, self.kind.count)
            return tuple(
                self.kind.element.unpack(value[at * size : (at + 1) * size]) for at in range(count)
            )
        return int.from_bytes(value, "big") if self.is_big_endian else value


class Layout:
    """Base of every struct that crosses the kernel boundary."""

    __slots__ = ()

    C_NAME: ClassVar[str]

    @classmethod
    def size(cls) -> int:
        """Bytes, which is also ``sizeof`` in C."""
        return _shape(cls).packer.size

    @classmethod
    def alignment(cls) -> int:
        return max(member.alignment for member in _shape(cls).members)

    def pack(self) -> bytes:
        shape = _shape(type(self))
        values = (member.encode(getattr(self, member.name)) for member in shape.members)
        return shape.packer.pack(*values)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """The fields of ``raw``. Of an array that ends the struct, the elements that are there.

        Raises struct.error when anything else is missing.
        """
        shape = _shape(cls)
        if shape.ends_in_array:
            values = [*shape.fixed.unpack_from(raw), raw[shape.fixed.size :]]
        else:
            values = [*shape.fixed.unpack(raw)]
        for at, decode in shape.decoders:
            values[at] = decode(values[at])
        return cls(*values)

    @classmethod
    def c(cls) -> str:
        """The C definition."""
        body = "\n".join(f"\t{member.c()}" for member in _shape(cls).members)
        doc = (cls.__doc__ or "").strip().splitlines()[0]
        return f"/* {doc} */\nstruct {cls.C_NAME} {{\n{body}\n}};\n"


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a layout's members, worked out once and kept on the class.

    ``fixed`` packs all of them but an array at the end; ``decoders`` are of the members whose
    values are not what they unpack to.
    """

    members: tuple[_Member, ...]
    packer: struct.Struct
    fixed: struct.Struct
    ends_in_array: bool
    decoders: tuple[tuple[int, Callable[[Any], Any]], ...]


def _shape(layout: type[Layout]) -> _Shape:
    known: _Shape | None = layout.__dict__.get("_SHAPE")
    if known is None:
        members = _members(layout)
        packer = _packer(layout, members)
        ends_in_array = isinstance(members[-1].kind, Array)
        known = _Shape(
            members,
            packer,
            _struct(members[:-1]) if ends_in_array else packer,
            ends_in_array,
            tuple(
                (at, member.decode)
                for at, member in enumerate(members)
                if isinstance(member.kind, Array) or member.is_big_endian
            ),
        )
        layout._SHAPE = known  # type: ignore[attr-defined]
    return known


def _members(layout: type[Any]) -> tuple[_Member, ...]:
    hints = get_type_hints(layout, include_extras=True)
    members = []
    for field in fields(layout):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{layout.__name__}.{field.name} has no C type")
        members.append(_Member(field.name, get_args(hint)[1]))
    return tuple(members)


def _packer(layout: type[Layout], members: tuple[_Member, ...]) -> struct.Struct:
    """The packer, after checking that natural alignment leaves no hidden padding."""
    offset = 0
    for member in members:
        if offset % member.alignment:
            raise TypeError(f"{layout.__name__}.{member.name} at {offset} is not aligned")
        offset += struct.calcsize("=" + member.code)
    if offset % max(member.alignment for member in members):
        raise TypeError(f"{layout.__name__} is {offset} bytes: pad it")
    return _struct(members)


def _struct(members: tuple[_Member, ...]) -> struct.Struct:
    return struct.Struct("=" + "".join(member.code for member in members))
