"""Calls on maps that newer kernels do at once, and older ones one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from fqdnwall.datapath import libbpf, loader
from fqdnwall.datapath.layouts import DnsLearned, LearnedKey, LearnedValue, PlaceKey
from fqdnwall.datapath.maps import SPECS, Answers

MANY = 5000  # more than one batch


def checks() -> Iterator[tuple[str, Callable[[], bool]]]:
    yield "5,000 elements of a hash map, written and read in batches", lambda: _survives("learned")
    yield "5,000 elements of an LPM map", lambda: _survives("ipcache")
    yield "an element is taken out of a hash map", _is_taken
    yield "what ran out is collected, and nothing else", _is_collected
    yield "the kernel says where it notes a checksum for a device", _is_noted


def _survives(name: str) -> bool:
    spec = SPECS[name]
    fd = loader.create(spec, 8192)
    prefix_length = ((spec.key_size - 4) * 8).to_bytes(4, "little")
    try:
        wanted = {
            prefix_length + number.to_bytes(spec.key_size - 4, "big"): bytes(spec.value_size)
            for number in range(MANY)
        }
        libbpf.update_batch(fd, list(wanted.items()))
        return dict(libbpf.all_items(fd, spec.key_size, spec.value_size)) == wanted
    finally:
        os.close(fd)


def _is_taken() -> bool:
    fd = loader.create(SPECS["learned"], 16)
    key, value = bytes(LearnedKey.size()), b"\1" * LearnedValue.size()
    try:
        libbpf.update(fd, key, value)
        taken = libbpf.take(fd, key, len(value))
        return taken == value and libbpf.take(fd, key, len(value)) is None
    finally:
        os.close(fd)


def _is_noted() -> bool:
    return loader.sk_buff_places().known == 1


def _is_collected() -> bool:
    fd = loader.create(SPECS["answers"], 16)
    try:
        for number, expires in enumerate((100, 200)):
            entry = DnsLearned(bytes(16), 1, 1, expires)
            libbpf.update(fd, PlaceKey(1, number).pack(), entry.pack())
        return Answers(fd).collect(150) == 1 and libbpf.entries(fd, PlaceKey.size()) == 1
    finally:
        os.close(fd)
