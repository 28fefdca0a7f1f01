"""What a machine has: this host's Python, the libraries that the product needs, and the project.

Nothing inside compiles: every module comes with its bytecode, because Python's compiler takes its
time on an emulated processor, and the programs come as `compiler.objects()` made them here.
"""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath

from fqdnwall.datapath import compiler
from tests.kernels import cpio
from tests.kernels.cpio import Archive
from tests.kernels.debian import CACHE, Kernel

PROJECT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3")
STDLIB = Path(sysconfig.get_path("stdlib", vars={"installed_base": "/usr"}))
SITE = "site"  # both in the machine, at its root
PROJECT_INSIDE = "project"
NOT_NEEDED = frozenset(
    {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test"}
    | {"tests", "tkinter", "turtledemo"}
)
LEFT_OUT = frozenset({"kubernetes"})
"""Distributions of the product's that nothing imports yet, and that are large."""
OURS = ("fqdnwall", "dnsproxy", "policies", "tests", "bpf")
ETC = {"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n", "resolv.conf": ""}
LIBRARIES = ("libbpf.so.1", "libc.so.6")
"""Those that only ctypes loads."""
LIBRARY_FOLDERS = (Path(f"/usr/lib/{os.uname().machine}-linux-gnu"), Path("/usr/lib"))


def initramfs(kernel: Kernel, target: Path) -> None:
    """Write the archives for that kernel, one behind another."""
    with target.open("wb") as out:
        out.write(_base())
        out.write(_project())
        out.write(_modules(kernel))


def _base() -> bytes:
    """Python, its standard library and other distributions: kept until one of them changes."""
    found = list(_distributions("fqdnwall"))
    makers = [path.read_text() for path in (Path(__file__), Path(cpio.__file__))]
    text = [sys.version, *makers, *(f"{d.name}={d.version}" for d in found)]
    kept = CACHE / f"base-{hashlib.sha256(repr(text).encode()).hexdigest()[:16]}.cpio"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("base-*.cpio"):
            old.unlink()
        scratch = kept.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(_make_base(found))
        scratch.rename(kept)
    return kept.read_bytes()


def _make_base(found: Iterable[metadata.Distribution]) -> bytes:
    archive = Archive()
    for name in ("lib", "lib64", "bin", "sbin"):
        archive.link(name, f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "etc", "root", "var/cache"):
        archive.folder(name)
    for name, text in ETC.items():
        archive.file(f"etc/{name}", text.encode())
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    archive.link("usr/bin/python3", PYTHON.resolve().name)
    archive.file(f"usr/bin/{PYTHON.resolve().name}", PYTHON.resolve().read_bytes(), 0o755)
    files = {path: f"{STDLIB}/{path.relative_to(STDLIB)}"[1:] for path in _tree(STDLIB)}
    for distribution in found:
        files |= {path: f"{SITE}/{inside}" for path, inside in _files(distribution)}
    _add(archive, files)
    _libraries(archive, [PYTHON.resolve(), *(path for path in files if path.suffix == ".so")])
    return archive.finish()


def _files(distribution: metadata.Distribution) -> Iterator[tuple[Path, PurePath]]:
    """Each file, and where it is in the folder of all distributions."""
    root = Path(str(distribution.locate_file("")))
    listed: list[PurePath] = list(distribution.files or ())
    if not listed:  # Debian's packages list none
        tops = (distribution.read_text("top_level.txt") or distribution.name).split()
        listed += [path.relative_to(root) for top in tops for path in _tree(root / top)]
        listed += [Path(f"{top}.py") for top in tops]
    for entry in listed:
        if not {"..", *NOT_NEEDED} & set(entry.parts) and (root / entry).is_file():
            yield root / entry, entry


def _distributions(name: str) -> Iterator[metadata.Distribution]:
    """What a distribution requires, and what that requires, as far as it is installed."""
    seen, waiting = {name}, [name]
    while waiting:
        try:
            distribution = metadata.distribution(waiting.pop())
        except metadata.PackageNotFoundError:  # for another platform, or another Python
            continue
        if distribution.name != name:
            yield distribution
        for requirement in distribution.requires or ():
            wanted = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
            if "extra ==" not in requirement and wanted not in seen | LEFT_OUT:
                seen.add(wanted)
                waiting.append(wanted)


@cache
def _project() -> bytes:
    """All kernels of one run have the same."""
    archive = Archive()
    files = {
        path: f"{PROJECT_INSIDE}/{path.relative_to(PROJECT)}"
        for folder in OURS
        for path in _tree(PROJECT / folder, also=frozenset({"tests", "test"}))
    }
    _add(archive, files)
    objects = json.dumps(compiler.objects()).encode()
    archive.file(f"{compiler.CACHE}/{compiler.digest()}.json"[1:], objects, 0o600)
    init = PROJECT / "tests" / "kernels" / "guest" / "init.py"
    archive.file("init", b"#!/usr/bin/python3 -I\n" + init.read_bytes(), 0o755)
    return archive.finish()


def _modules(kernel: Kernel) -> bytes:
    archive = Archive()
    for path in kernel.modules:
        archive.file(f"modules/{path.name}", path.read_bytes())
    return archive.finish()


def _tree(folder: Path, also: frozenset[str] = frozenset()) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_NEEDED - also]
        yield from (Path(root, name) for name in names)


def _add(archive: Archive, files: dict[Path, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        compiled = Path(scratch, "compiled.pyc")
        for path, inside in sorted(files.items(), key=lambda item: item[1]):
            archive.file(inside, path.read_bytes(), path.stat().st_mode & 0o777)
            if path.suffix == ".py":
                archive.file(_cached(inside), _bytecode(path, inside, compiled))


def _cached(inside: str) -> str:
    folder, _, name = inside.rpartition("/")
    return f"{folder}/__pycache__/{name[:-3]}.{sys.implementation.cache_tag}.pyc"


def _bytecode(path: Path, inside: str, target: Path) -> bytes:
    """Of a kind that Python takes without looking at the source."""
    py_compile.compile(
        str(path),
        cfile=str(target),
        dfile=f"/{inside}",
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return target.read_bytes()


def _libraries(archive: Archive, needing: list[Path]) -> None:
    """The shared libraries of some programs and modules, where the loader looks for them."""
    known = [
        next(folder / name for folder in LIBRARY_FOLDERS if (folder / name).exists())
        for name in LIBRARIES
    ]
    listed = subprocess.run(
        ["ldd", *map(str, (*needing, *known))], capture_output=True, text=True, check=False
    ).stdout
    wanted = {*known, *(Path(found) for found in re.findall(r"(/\S+) \(0x", listed))}
    for path in sorted(wanted):
        inside = path.parent.resolve() / path.name
        archive.file(str(inside)[1:], path.resolve().read_bytes(), 0o755)
