"""One definition of shared bytes: Python, the header and the compiler agree, or nothing loads."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqdnwall.datapath import layouts
from fqdnwall.datapath.layout import U8, U16, U32, U64, Array, Be16, Layout, Octets, Scalar
from fqdnwall.datapath.layouts import LearnedSlot, LearnedValue
from fqdnwall.datapath.layouts.header import HEADER, STRUCTS, header

SIZES = {
    "endpoint_address": 20,
    "ipcache_key": 20,
    "ipcache_value": 24,
    "learned_key": 20,
    "learned_value": 64,
    "policy_key": 12,
    "policy_value": 16,
    "ct_key": 44,
    "event": 80,
}


def padded(start: bytes, padding: bytes) -> bytes:
    return start + padding[len(start) :]


def values(layout: type[Layout]) -> st.SearchStrategy[Any]:
    """Every value that the layout's fields can hold."""
    hints = get_type_hints(layout, include_extras=True)
    columns: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(layout):  # type: ignore[arg-type]
        kind = get_args(hints[field.name])[1]
        if isinstance(kind, Array):
            element = values(kind.element)
            columns[field.name] = st.tuples(*[element] * kind.count)
        elif isinstance(kind, Octets):
            padding = bytes(kind.count)
            short = st.binary(max_size=min(kind.count, 64))
            columns[field.name] = st.builds(padded, short, st.just(padding))
        elif isinstance(kind, Scalar) and kind.c_type == "struct address":
            columns[field.name] = st.binary(min_size=16, max_size=16)
        else:
            columns[field.name] = st.integers(0, 256**kind.size - 1)
    return st.builds(layout, **columns)


def test_the_header_is_what_the_module_generates() -> None:
    assert HEADER.read_text() == header()


def test_sizes_are_those_that_the_maps_of_a_running_node_have() -> None:
    known = {layout.C_NAME: layout.size() for layout in STRUCTS}
    assert {name: known[name] for name in SIZES} == SIZES


@pytest.mark.parametrize("layout", STRUCTS, ids=lambda layout: layout.C_NAME)
def test_what_is_packed_comes_back(layout: type[Layout]) -> None:
    @settings(deadline=None)
    @given(values(layout))
    def comes_back(value: Layout) -> None:
        raw = value.pack()
        assert len(raw) == layout.size()
        assert layout.unpack(raw) == value

    comes_back()


def test_ports_are_in_network_order_and_the_rest_in_the_machines() -> None:
    raw = layouts.PolicyKey(64, 0x01020304, 1, 6, 443).pack()
    assert (
        raw
        == (64).to_bytes(4, sys.byteorder)
        + (0x01020304).to_bytes(4, sys.byteorder)
        + b"\x01\x06\x01\xbb"
    )


@settings(deadline=None)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_address_comes_back_in_its_family(address: IPv4Address | IPv6Address) -> None:
    expected = address.ipv4_mapped or address if address.version == 6 else address
    assert layouts.bytes_address(layouts.address_bytes(address)) == expected


@dataclass(frozen=True, slots=True)
class Gap(Layout):
    """A u16 at offset 1."""

    C_NAME = "gap"
    a: U8
    b: U16


@dataclass(frozen=True, slots=True)
class Tail(Layout):
    """Nine bytes, where C would make sixteen."""

    C_NAME = "tail"
    a: U64
    b: U8


@dataclass(frozen=True, slots=True)
class Plain(Layout):
    """A field without a C type."""

    C_NAME = "plain"
    a: int


@dataclass(frozen=True, slots=True)
class Pair(Layout):
    """Two elements of another layout."""

    C_NAME = "pair"
    ports: Annotated[tuple[layouts.Counter, ...], Array(layouts.Counter, 2)]


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [(Gap, "not aligned"), (Tail, "pad it"), (Plain, "no C type")],
)
def test_a_struct_that_c_would_lay_out_otherwise_is_refused(
    layout: type[Layout], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        layout.size()


def test_more_elements_than_fit_are_refused() -> None:
    one = layouts.Counter(1, 2)
    with pytest.raises(ValueError, match="3 elements, 2 fit"):
        Pair((one, one, one)).pack()


MISMATCH = """
import dataclasses, sys
from fqdnwall.datapath import compiler, layouts
layouts.LearnedValue = layouts.LearnedSlot
compiler.MAPS = tuple(
    dataclasses.replace(spec, value=layouts.LearnedSlot) if spec.name == "learned" else spec
    for spec in compiler.MAPS
)
sys.argv[1:] = [sys.argv[1]]
compiler.main()
"""


@pytest.mark.kernel
@pytest.mark.slow
def test_the_compiler_refuses_a_map_whose_c_struct_has_another_size(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    result = subprocess.run(
        [sys.executable, "-c", MISMATCH, str(target)], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "map learned" in result.stderr
    assert "value of 64 bytes, the layouts 20 and 16" in result.stderr
    assert not target.exists()


def test_scalar_annotations_know_their_sizes() -> None:
    sizes = [get_args(kind)[1].size for kind in (U8, U16, U32, U64, Be16)]
    assert sizes == [1, 2, 4, 8, 2]


def test_of_an_array_that_is_cut_off_the_elements_that_are_there_are_read() -> None:
    slots = tuple(LearnedSlot(number, 0, number) for number in range(1, 5))
    raw = LearnedValue(slots).pack()
    assert LearnedValue.unpack(raw).slots == slots
    assert LearnedValue.unpack(raw[: -LearnedSlot.size()]).slots == slots[:3]
    assert LearnedValue.unpack(raw + b"\1" * LearnedSlot.size()).slots == slots


def test_nothing_else_may_be_cut_off() -> None:
    with pytest.raises(struct.error):
        LearnedSlot.unpack(bytes(LearnedSlot.size() - 1))
