"""From C to instructions with bcc, in a process that exits: ``python -m …compiler``.

bcc's library carries LLVM, tens of megabytes that the agent must never map. The result is JSON on
standard output: each program's instructions with references to maps by name, and the maps that only
the programs know. It depends on the source, bcc's version and the machine, not on sizes or pins, so
it is kept in a cache under its digest, where there is room for it. Sizes of keys and values as the
C compiler sees them are compared with ``layouts`` here: a struct that differs is refused.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import MAPS, POLICY_SHAPE, PROGRAMS
from fqdnwall.datapath.source import KERNEL, source

ENTRY = "datapath.c"
CACHE = Path("/var/cache/fqdnwall")
_HEADERS = ("/usr/include", f"/usr/include/{platform.machine()}-linux-gnu")
FLAGS = (
    "-Wall",
    "-Werror",
    "-Wno-unused-function",
    *(word for path in _HEADERS for word in ("-idirafter", path)),
)
LD_IMM64 = 0x18
PSEUDO_MAP_FD = 1


class CompileError(Exception):
    """The C does not compile, or the headers it needs are missing; the text says which."""


def digest() -> str:
    """What the instructions depend on."""
    parts = [source(ENTRY), *FLAGS, platform.machine()]
    parts += [path.read_text() for path in sorted((KERNEL / "include").rglob("*.h"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def objects() -> dict[str, object]:
    """The compiled programs, from the cache or by a compiler process. Raises CompileError."""
    cached = CACHE / f"{digest()}.json"
    return _kept(cached) or _compiled(cached)


def _kept(cached: Path) -> dict[str, object] | None:
    """What the cache has, if it is whole and root's own."""
    try:
        if cached.stat().st_uid != os.geteuid():
            return None
        loaded: dict[str, object] = json.loads(cached.read_text())
    except (OSError, ValueError):
        return None
    return loaded


def _compiled(cached: Path) -> dict[str, object]:
    """Compiled anew, and kept where that is possible: without a cache a start takes longer."""
    result = subprocess.run(
        [sys.executable, "-m", __name__], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise CompileError(f"bcc cannot compile the datapath:\n{result.stderr.strip()}")
    loaded: dict[str, object] = json.loads(result.stdout)
    temporary = cached.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            temporary.write_text(result.stdout)
            temporary.rename(cached)
        finally:
            temporary.unlink(missing_ok=True)
    return loaded


def main() -> None:
    """Compile, and print the result as JSON."""
    os.environ["BCC_KERNEL_SOURCE"] = str(KERNEL)
    from bcc import BPF  # a process that does not compile must not load LLVM

    text = source(ENTRY)
    try:
        module = BPF(text=text, cflags=list(FLAGS))
    except Exception as error:  # bcc raises nothing narrower; its text is on our stderr
        raise SystemExit(f"{error}") from None
    names = _map_names(module)
    known = {spec.name for spec in (*MAPS, POLICY_SHAPE)}
    result = {
        "programs": {name: _program(module.dump_func(name.encode()), names) for name in PROGRAMS},
        "private": {name: _shape(info) for name, info in names.values() if name not in known},
    }
    _check_layouts(dict(names.values()))
    print(json.dumps(result))


def _map_names(module: object) -> dict[int, tuple[str, libbpf.MapInfo]]:
    """fd → (name, info) of every map that bcc made for the module."""
    from bcc import libbcc

    lib = libbcc.lib
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_fd_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    handle = module.module  # type: ignore[attr-defined]
    out = {}
    for index in range(lib.bpf_num_tables(handle)):
        name = lib.bpf_table_name(handle, index).decode()
        fd = lib.bpf_table_fd_id(handle, index)
        out[fd] = (name, libbpf.map_info(fd))
    return out


def _shape(info: libbpf.MapInfo) -> list[int]:
    return [info.type, info.key_size, info.value_size, info.max_entries, info.flags]


def _program(code: bytes, names: dict[int, tuple[str, libbpf.MapInfo]]) -> dict[str, object]:
    maps: dict[str, str] = {}
    for at in range(0, len(code), 8):
        if code[at] == LD_IMM64 and code[at + 1] >> 4 == PSEUDO_MAP_FD:
            fd = int.from_bytes(code[at + 4 : at + 8], "little")
            maps[str(at)] = names[fd][0]
    return {"code": base64.b64encode(code).decode(), "maps": maps}


def _check_layouts(compiled: dict[str, libbpf.MapInfo]) -> None:
    for spec in (*MAPS, POLICY_SHAPE):
        info = compiled[spec.name]
        if (info.key_size, info.value_size) != (spec.key_size, spec.value_size):
            raise SystemExit(
                f"map {spec.name}: C has a key of {info.key_size} and a value of "
                f"{info.value_size} bytes, the layouts {spec.key_size} and {spec.value_size}"
            )


if __name__ == "__main__":
    main()
