"""Every program passes the verifier, with room to spare."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import PROGRAMS
from tests.datapath.bench import Bench

pytestmark = pytest.mark.kernel

MOST_VERIFIED = 200_000
"""Instructions that the verifier may walk; the kernel gives up at a million."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_verifier_has_little_to_walk(
    name: str, loaded: Bench, record_property: Callable[[str, object], None]
) -> None:
    info = libbpf.program_info(loaded.datapath.programs[name])
    record_property("verified_instructions", info.verified)
    record_property("xlated_bytes", info.xlated_bytes)
    assert info.name == name[:15]
    assert 0 < info.verified < MOST_VERIFIED
    assert info.jited_bytes > 0, "the JIT is off: the datapath would crawl"
