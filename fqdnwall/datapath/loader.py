"""Making the datapath present: maps and programs, pinned under one folder of the BPF file system.

``load`` is level-triggered: maps that are pinned with the right shape are kept with all that they
hold, others are made; programs are loaded anew and their pins replaced. An attached link goes on
running the program that it was made with until ``attach`` gives it the new one. Nothing here
depends on the calling process: when it ends, the pins keep everything.

The endpoint's two programs must load. Those that they call for DNS need more of the verifier: where
a kernel refuses one of them, none is called, and DNS is left to the proxy.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fqdnwall.datapath import btf, compiler, libbpf
from fqdnwall.datapath.layouts import (
    CALLS,
    MAPS,
    POLICY_SHAPE,
    SK_BUFF_PLACES,
    TAIL_CALLS,
    MapSpec,
    MapType,
    SkBuffPlaces,
)

BPF_FS = Path("/sys/fs/bpf")
ROOT = BPF_FS / "fqdnwall"
KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
LINKS = "links"
PRIVATE = "private"
MOVED = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE})
"""Kinds of maps whose content is more than counters or can be made anew."""


class LoadError(Exception):
    """The datapath cannot be loaded on this host; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Datapath:
    """Open file descriptors of one instance's maps and programs, by name."""

    pins: Path
    maps: Mapping[str, int]
    programs: Mapping[str, int]
    refused: Mapping[str, str] = field(default_factory=dict)
    """What the kernel says of a program that it refuses, by its name: DNS is then the proxy's."""

    def close(self) -> None:
        for fd in (*self.maps.values(), *self.programs.values()):
            os.close(fd)


def folder(instance: str) -> Path:
    """Where the instance's pins are, made if it is missing. Raises LoadError."""
    pins = ROOT / instance
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        (pins / LINKS).mkdir(exist_ok=True)
    except OSError as error:
        raise LoadError(
            f"cannot make {pins}: {error.strerror}. "
            f"Is the BPF file system mounted? `mount -t bpf bpf {BPF_FS}`, as root"
        ) from error
    return pins


def load(instance: str, sizes: Mapping[str, int] | None = None) -> Datapath:
    """Load or take over the datapath of ``instance``. Raises LoadError, CompileError."""
    compiled: dict[str, Any] = compiler.objects()
    pins = folder(instance)
    sizes = sizes or {}
    try:
        maps = {spec.name: _map(spec, pins, sizes.get(spec.name)) for spec in MAPS}
        private = _private_maps(compiled["private"], pins)
        programs, refused = _programs(compiled["programs"], {**maps, **private}, pins)
        _set_calls(private[CALLS], programs)
        libbpf.update(private[SK_BUFF_PLACES], _u32(0), sk_buff_places().pack())
    except OSError as error:
        raise LoadError(f"the kernel refuses the datapath: {error}") from error
    for fd in private.values():
        os.close(fd)
    return Datapath(pins, maps, programs, refused)


def _programs(
    compiled: Mapping[str, Any], maps: Mapping[str, int], pins: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """All programs, and what the kernel refuses. Raises OSError.

    At the same time as far as there are CPUs: the verifier takes one for each, and its time.
    """
    with ThreadPoolExecutor() as pool:
        loading = {
            name: pool.submit(_program, name, program, maps, pins)
            for name, program in compiled.items()
            if name not in TAIL_CALLS
        }
        calls = pool.submit(_called, compiled, maps, pins)
    called, refused = calls.result()
    return {name: future.result() for name, future in loading.items()} | called, refused


def _called(
    compiled: Mapping[str, Any], maps: Mapping[str, int], pins: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """The programs that others call, or none of them and which one the kernel refuses, and why.

    A query that the kernel lets out needs all of them for its answer.
    """
    called: dict[str, int] = {}
    try:
        for name in TAIL_CALLS:
            called[name] = _program(name, compiled[name], maps, pins)
    except OSError as error:
        for fd in called.values():
            os.close(fd)
        for each in TAIL_CALLS:
            (pins / each).unlink(missing_ok=True)
        return {}, {name: str(error)}
    return called, {}


def sk_buff_places() -> SkBuffPlaces:
    """By the running kernel's type information; nothing known where it has none."""
    try:
        found = btf.members(KERNEL_TYPES.read_bytes(), "sk_buff")
        summed = found["ip_summed"].offset
        return SkBuffPlaces(
            csum=found["csum_start"].offset // 8,
            mac_header=found["mac_header"].offset // 8,
            ip_summed=summed // 8,
            ip_summed_shift=summed % 8,
            known=1,
        )
    except (OSError, btf.BtfError, KeyError):
        return SkBuffPlaces(0, 0, 0, 0, 0)


def _set_calls(fd: int, called: Mapping[str, int]) -> None:
    for name, index in TAIL_CALLS.items():
        if name in called:
            libbpf.update(fd, _u32(index), _u32(called[name]))
        else:
            libbpf.delete(fd, _u32(index))


def _private_maps(shapes: Mapping[str, list[int]], pins: Path) -> dict[str, int]:
    """The maps that only the programs know, pinned by the digest of the code they belong to.

    Programs of one version share them: an attached one may call one that was loaded later. Those
    of another version keep theirs until ``prune``.
    """
    folder = pins / PRIVATE / compiler.digest()
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, (kind, key, value, entries, flags) in shapes.items():
        path = str(folder / name)
        try:
            found[name] = libbpf.pinned(path)
        except FileNotFoundError:
            found[name] = libbpf.map_create(kind, name, key, value, entries, flags)
            libbpf.pin(found[name], path)
    return found


def prune(datapath: Datapath) -> None:
    """Forget the private maps of other versions, when none of their programs is attached."""
    for folder in (datapath.pins / PRIVATE).iterdir():
        if folder.name != compiler.digest():
            shutil.rmtree(folder)


def _map(spec: MapSpec, pins: Path, size: int | None) -> int:
    """The pinned map if its shape is right, else a new one in its place."""
    path = str(pins / spec.name)
    entries = size or spec.default
    former: int | None = None
    with contextlib.suppress(FileNotFoundError):
        former = libbpf.pinned(path)
        info = libbpf.map_info(former)
        same = (info.type, info.key_size, info.value_size) == (
            spec.kind,
            spec.key_size,
            spec.value_size,
        )
        if same and info.max_entries == entries:
            return former
        os.unlink(path)
        if not same:
            os.close(former)
            former = None
    fd = create(spec, entries)
    if former is not None:
        _move(spec, former, fd)
        os.close(former)
    libbpf.pin(fd, path)
    return fd


def _move(spec: MapSpec, former: int, fd: int) -> None:
    """Keep what a map holds when its size changes, as far as it fits."""
    if spec.kind in MOVED:
        items = libbpf.all_items(former, spec.key_size, spec.value_size)
        with contextlib.suppress(OSError):
            libbpf.update_batch(fd, list(items))


def create(spec: MapSpec, entries: int) -> int:
    """A map of this shape, not pinned."""
    inner = create(POLICY_SHAPE, POLICY_SHAPE.default) if spec.kind is MapType.HASH_OF_MAPS else 0
    try:
        return libbpf.map_create(
            spec.kind, spec.name, spec.key_size, spec.value_size, entries, spec.flags, inner
        )
    finally:
        if inner:
            os.close(inner)


def _program(name: str, program: Mapping[str, Any], maps: Mapping[str, int], pins: Path) -> int:
    code = bytearray(base64.b64decode(program["code"]))
    for at, map_name in program["maps"].items():
        code[int(at) + 4 : int(at) + 8] = maps[map_name].to_bytes(4, "little")
    fd = libbpf.program_load(name, bytes(code))
    path = pins / name
    path.unlink(missing_ok=True)
    libbpf.pin(fd, str(path))
    return fd


def guarded_interfaces(instance: str) -> list[int]:
    """Indices of the interfaces that the instance's maps speak of; none if it has no maps."""
    try:
        fd = libbpf.pinned(str(ROOT / instance / "endpoints"))
    except OSError:
        return []
    try:
        return [int.from_bytes(key, "little") for key in libbpf.keys(fd, 4)]
    finally:
        os.close(fd)


def unload(instance: str) -> None:
    """Remove every pin of the instance: links first, so that no packet meets half a datapath."""
    pins = ROOT / instance
    for folder in (pins / LINKS, pins):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
