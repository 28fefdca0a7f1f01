"""libbpf's plain calls, through ctypes: maps, programs, pins, links and test runs.

libbpf comes with Debian's bcc and holds no compiler, so that the agent's memory does not either.
Calls return file descriptors, which the caller owns, and raise ``OSError`` with the kernel's
errno. Keys and values are ``bytes``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

TCX_INGRESS = 46
TCX_EGRESS = 47
SCHED_CLS = 3
BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2
LOG_BYTES = 16 << 20
SK_BUFF_ROOM = 512  # more than any kernel's struct __sk_buff


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1", use_errno=True)


def _check(result: int, what: str) -> int:
    """libbpf 1.x returns a negative errno."""
    if result < 0:
        number = -result if result != -1 else ctypes.get_errno() or 1
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class _MapCreateOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    ]


class _ProgLoadOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    ]


class _TestRunOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class _MapInfo(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


class _ProgInfo(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("rest", ctypes.c_uint8 * 144),
    ]


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program; sizes in bytes, ``verified`` in instructions."""

    id: int
    name: str
    tag: str
    jited_bytes: int
    xlated_bytes: int
    verified: int


@dataclass(frozen=True, slots=True)
class Run:
    """The result of BPF_PROG_TEST_RUN: verdict, packet and context after it, mean ns a run."""

    verdict: int
    packet: bytes
    context: bytes
    nanoseconds: int


def map_create(
    map_type: int,
    name: str,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    inner_fd: int = 0,
) -> int:
    options = _MapCreateOptions(
        sz=ctypes.sizeof(_MapCreateOptions), map_flags=flags, inner_map_fd=inner_fd
    )
    return _check(
        _library().bpf_map_create(
            map_type,
            name[:15].encode(),
            key_size,
            value_size,
            max_entries,
            ctypes.byref(options),
        ),
        f"create map {name}",
    )


def program_load(name: str, instructions: bytes) -> int:
    """Load a tc program. Raises OSError whose text ends with the verifier's last lines."""

    def load(log: Any, log_bytes: int) -> int:
        options = _ProgLoadOptions(
            sz=ctypes.sizeof(_ProgLoadOptions),
            log_level=1 if log else 0,
            log_size=log_bytes,
            log_buf=ctypes.cast(log, ctypes.c_void_p) if log else None,
        )
        result: int = _library().bpf_prog_load(
            SCHED_CLS,
            name[:15].encode(),
            b"GPL",
            instructions,
            len(instructions) // 8,
            ctypes.byref(options),
        )
        return result

    fd = load(None, 0)
    if fd >= 0:
        return fd
    log = ctypes.create_string_buffer(LOG_BYTES)
    load(log, LOG_BYTES)
    tail = "\n".join(log.value.decode(errors="replace").splitlines()[-20:])
    return _check(fd, f"load program {name}\n{tail}\n")


def pin(fd: int, path: str) -> None:
    _check(_library().bpf_obj_pin(fd, path.encode()), f"pin {path}")


def pinned(path: str) -> int:
    return _check(_library().bpf_obj_get(path.encode()), f"open {path}")


def tcx_attach(program_fd: int, ifindex: int, attach_type: int) -> int:
    """A tcx link (Linux 6.6); it lasts as long as its fd or its pin. EINVAL on older kernels."""
    return _check(
        _library().bpf_link_create(program_fd, ifindex, attach_type, None), f"tcx on {ifindex}"
    )


def link_update(link_fd: int, program_fd: int) -> None:
    """Swap the program of a link in place; ENOLINK when its interface is gone."""
    _check(_library().bpf_link_update(link_fd, program_fd, None), "link update")


class _LinkInfo(ctypes.Structure):
    """``struct bpf_link_info`` as far as the first field of its tcx part."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 64),
    ]


def link_ifindex(link_fd: int) -> int:
    """The interface of a tcx link; 0 when that is gone."""
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(
        _library().bpf_obj_get_info_by_fd(link_fd, ctypes.byref(info), ctypes.byref(size)),
        "link info",
    )
    return int(info.ifindex)


def link_detach(link_fd: int) -> None:
    """Take a link's program off its hook at once; closing the last fd only says that it may go."""
    _check(_library().bpf_link_detach(link_fd), "link detach")


def program_run(program_fd: int, packet: bytes, context: bytes = b"", repeat: int = 1) -> Run:
    """Run a program once on a packet (Ethernet frame) and a ``struct __sk_buff``."""
    out = ctypes.create_string_buffer(len(packet) + 512)
    context_out = ctypes.create_string_buffer(SK_BUFF_ROOM)
    options = _TestRunOptions(
        sz=ctypes.sizeof(_TestRunOptions),
        data_in=ctypes.cast(ctypes.c_char_p(packet), ctypes.c_void_p),
        data_size_in=len(packet),
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_out=len(out),
        ctx_in=ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p) if context else None,
        ctx_size_in=len(context),
        ctx_out=ctypes.cast(context_out, ctypes.c_void_p) if context else None,
        ctx_size_out=SK_BUFF_ROOM if context else 0,
        repeat=repeat,
    )
    _check(_library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options)), "test run")
    after = context_out.raw[: options.ctx_size_out]
    return Run(options.retval, out.raw[: options.data_size_out], after, options.duration)


def map_by_id(map_id: int) -> int:
    return _check(_library().bpf_map_get_fd_by_id(map_id), f"map {map_id}")


@cache
def cpus() -> int:
    """Possible CPUs: as many values has an element of a per-CPU map."""
    return _check(_library().libbpf_num_possible_cpus(), "possible cpus")


def map_info(fd: int) -> MapInfo:
    info = _MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(
        _library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "map info"
    )
    return MapInfo(
        info.type,
        info.id,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.name.decode(),
    )


VERIFIED_OFFSET = 216
"""Of ``verified_insns`` in ``struct bpf_prog_info`` (Linux 5.16)."""


def program_info(fd: int) -> ProgramInfo:
    info = _ProgInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(
        _library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "prog info"
    )
    verified = bytes(info)[VERIFIED_OFFSET : VERIFIED_OFFSET + 4]
    return ProgramInfo(
        info.id,
        info.name.decode(),
        bytes(info.tag).hex(),
        info.jited_prog_len,
        info.xlated_prog_len,
        int.from_bytes(verified, "little"),
    )


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    value = ctypes.create_string_buffer(value_size)
    result = _library().bpf_map_lookup_elem(fd, key, value)
    if result == 0:
        return value.raw
    if ctypes.get_errno() == 2:
        return None
    _check(result, "lookup")
    return None


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    _check(_library().bpf_map_update_elem(fd, key, value, flags), "update")


def delete(fd: int, key: bytes) -> bool:
    """Whether the key was there."""
    result = _library().bpf_map_delete_elem(fd, key)
    if result and ctypes.get_errno() == 2:
        return False
    _check(result, "delete")
    return True


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Every key, with one look ahead so that the current one may be deleted."""
    following = ctypes.create_string_buffer(key_size)
    current: bytes | None = None
    library = _library()
    if library.bpf_map_get_next_key(fd, None, following):
        return
    while True:
        current = following.raw
        more = library.bpf_map_get_next_key(fd, current, following) == 0
        yield current
        if not more:
            return


def entries(fd: int, key_size: int) -> int:
    """How many keys the map holds, by walking them."""
    return sum(1 for _ in keys(fd, key_size))


class _BatchOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


BATCH = 4096


def batch_items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """All items of a hash map, thousands at a time. Raises OSError (EINVAL) where the kernel
    has no batches for the map's type."""
    options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
    position = ctypes.create_string_buffer(max(key_size, 8))
    first = True
    capacity = BATCH
    while True:
        key_buffer = ctypes.create_string_buffer(capacity * key_size)
        value_buffer = ctypes.create_string_buffer(capacity * value_size)
        count = ctypes.c_uint32(capacity)
        result = _library().bpf_map_lookup_batch(
            fd,
            None if first else position,
            position,
            key_buffer,
            value_buffer,
            ctypes.byref(count),
            ctypes.byref(options),
        )
        number = ctypes.get_errno() if result else 0
        if number == 28:  # ENOSPC: a bucket did not fit
            capacity *= 2
            continue
        if number not in (0, 2):
            _check(result, "batch lookup")
        raw_keys, raw_values = key_buffer.raw, value_buffer.raw
        for at in range(count.value):
            yield (
                raw_keys[at * key_size : (at + 1) * key_size],
                raw_values[at * value_size : (at + 1) * value_size],
            )
        if number == 2:  # ENOENT: the end
            return
        first = False


NO_BATCHES = frozenset({errno.EINVAL, errno.EOPNOTSUPP, 524})  # 524 is the kernel's ENOTSUPP


def all_items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every item of a map, in batches where the kernel has them for its type."""
    try:
        yield from batch_items(fd, key_size, value_size)
    except OSError as error:
        if error.errno not in NO_BATCHES:
            raise
    else:
        return
    for key in keys(fd, key_size):
        value = lookup(fd, key, value_size)
        if value is not None:
            yield key, value


def take(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Look up and delete in one step; before Linux 5.14 in two. None if the key is not there."""
    value = ctypes.create_string_buffer(value_size)
    result = _library().bpf_map_lookup_and_delete_elem(fd, key, value)
    if result == 0:
        return value.raw
    if ctypes.get_errno() == errno.ENOENT:
        return None
    found = lookup(fd, key, value_size)
    delete(fd, key)
    return found


def update_batch(fd: int, items: list[tuple[bytes, bytes]]) -> None:
    """Write many items in one call; on old kernels or map types without batches, one by one."""
    if not items:
        return
    options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
    count = ctypes.c_uint32(len(items))
    result = _library().bpf_map_update_batch(
        fd,
        b"".join(key for key, _ in items),
        b"".join(value for _, value in items),
        ctypes.byref(count),
        ctypes.byref(options),
    )
    if result == 0:
        return
    for key, value in items[min(count.value, len(items)) if ctypes.get_errno() == 7 else 0 :]:
        update(fd, key, value)


RING_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Ring:
    """A ring buffer's reader: ``consume`` hands every waiting record to the callback."""

    def __init__(self, fd: int) -> None:
        self._records: list[bytes] = []
        self._callback = RING_CALLBACK(self._record)
        library = _library()
        library.ring_buffer__new.restype = ctypes.c_void_p
        library.ring_buffer__consume.argtypes = [ctypes.c_void_p]
        library.ring_buffer__free.argtypes = [ctypes.c_void_p]
        library.ring_buffer__free.restype = None
        self._ring = library.ring_buffer__new(fd, self._callback, None, None)
        if not self._ring:
            number = ctypes.get_errno()
            raise OSError(number, f"ring buffer: {os.strerror(number)}")

    def _record(self, _context: Any, address: int, size: int) -> int:
        self._records.append(ctypes.string_at(address, size))
        return 0

    def consume(self) -> list[bytes]:
        _check(_library().ring_buffer__consume(self._ring), "ring buffer")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        if self._ring:
            _library().ring_buffer__free(self._ring)
            self._ring = None
