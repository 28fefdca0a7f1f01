"""Loading every program for its figures: the time, and what the verifier walked.

`bpf_prog_info.verified_insns` is there from Linux 5.16 only; the statistics that the verifier
writes at log level 4 say the same on every kernel.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from collections.abc import Iterator
from unittest import mock

from fqdnwall.datapath import libbpf, loader

BPF_PROG_LOAD = 5
BPF_LOG_STATS = 4
SYS_BPF = {"x86_64": 321, "aarch64": 280}
INSTANCE = f"measure-{os.getpid()}"
SIZES = {"conntrack": 4096, "learned": 4096, "answers": 4096, "ipcache": 4096}


class _LoadAttributes(ctypes.Structure):
    """The head of `union bpf_attr` for BPF_PROG_LOAD."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    ]


def programs() -> Iterator[dict[str, object]]:
    """A record for the time of loading all, and one for each program. Raises LoadError."""
    records: list[dict[str, object]] = []

    def load(name: str, instructions: bytes) -> int:
        fd = real(name, instructions)
        records.append(
            {
                "kind": "program",
                "name": name,
                "instructions": len(instructions) // 8,
                "verified": verified(instructions),
                "jited": libbpf.program_info(fd).jited_bytes,
            }
        )
        return fd

    real = libbpf.program_load
    try:
        started = time.monotonic()
        loader.load(INSTANCE, SIZES).close()
        yield {"kind": "load", "ms": round((time.monotonic() - started) * 1000)}
        with mock.patch.object(libbpf, "program_load", load):
            loader.load(INSTANCE, SIZES).close()
    finally:
        loader.unload(INSTANCE)
    yield from records


def verified(instructions: bytes) -> int:
    """How many instructions the verifier walks; 0 if it does not say."""
    log = ctypes.create_string_buffer(4096)
    attributes = _LoadAttributes(
        prog_type=libbpf.SCHED_CLS,
        insn_cnt=len(instructions) // 8,
        insns=ctypes.cast(ctypes.c_char_p(instructions), ctypes.c_void_p).value,
        license=ctypes.cast(ctypes.c_char_p(b"GPL"), ctypes.c_void_p).value,
        log_level=BPF_LOG_STATS,
        log_size=len(log),
        log_buf=ctypes.addressof(log),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYS_BPF[platform.machine()]
    fd = libc.syscall(number, BPF_PROG_LOAD, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd >= 0:
        os.close(fd)
    found = re.search(rb"processed (\d+) insns", log.value)
    return int(found[1]) if found else 0
