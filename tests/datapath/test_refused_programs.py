"""On a kernel that refuses a program of the DNS path, endpoints are guarded all the same."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fqdnwall.datapath import compiler, libbpf, loader
from fqdnwall.datapath.layouts import CALLS, TAIL_CALLS

pytestmark = pytest.mark.kernel

EXIT_WITHOUT_A_RESULT = base64.b64encode(bytes([0x95, 0, 0, 0, 0, 0, 0, 0])).decode()
SIZES = {"conntrack": 1024, "learned": 1024, "answers": 1024, "ipcache": 1024}

Load = Callable[[str | None], loader.Datapath]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads one instance, again and again; a program of that name is one that no kernel takes."""
    instance = f"test-refused-{os.getpid()}"
    whole: dict[str, Any] = compiler.objects()
    opened: list[loader.Datapath] = []

    def load(bad: str | None) -> loader.Datapath:
        programs = dict(whole["programs"])
        if bad is not None:
            programs[bad] = {"code": EXIT_WITHOUT_A_RESULT, "maps": {}}
        monkeypatch.setattr(compiler, "objects", lambda: {**whole, "programs": programs})
        opened.append(loader.load(instance, SIZES))
        return opened[-1]

    try:
        yield load
    finally:
        for datapath in opened:
            datapath.close()
        loader.unload(instance)


def calls(datapath: loader.Datapath) -> set[int]:
    """Which slots of the array have a program."""
    path = datapath.pins / loader.PRIVATE / compiler.digest() / CALLS
    fd = libbpf.pinned(str(path))
    try:
        numbers = [number.to_bytes(4, "little") for number in TAIL_CALLS.values()]
        found = {int.from_bytes(n, "little") for n in numbers if libbpf.lookup(fd, n, 4)}
    finally:
        os.close(fd)
    return found


@pytest.mark.parametrize("name", TAIL_CALLS)
def test_without_one_called_program_none_is_called(name: str, load: Load) -> None:
    datapath = load(name)
    assert set(datapath.programs) == {"from_endpoint", "to_endpoint"}
    assert list(datapath.refused) == [name]
    assert "R0 !read_ok" in datapath.refused[name]
    assert calls(datapath) == set()


@pytest.mark.slow
def test_what_an_earlier_load_put_there_is_taken_away(load: Load) -> None:
    whole = load(None)
    assert calls(whole) == set(TAIL_CALLS.values())
    without = load("dns_records")
    assert calls(without) == set()
    assert not [name for name in TAIL_CALLS if (without.pins / name).exists()]
    again = load(None)
    assert again.refused == {}
    assert calls(again) == set(TAIL_CALLS.values())


@pytest.mark.parametrize("name", ["from_endpoint", "to_endpoint"])
def test_an_endpoint_is_not_half_guarded(name: str, load: Load) -> None:
    with pytest.raises(loader.LoadError, match=name):
        load(name)
