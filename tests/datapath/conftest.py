from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.datapath.bench import Bench


@pytest.fixture(scope="session")
def loaded() -> Iterator[Bench]:
    bench = Bench(f"test-{os.getpid()}")
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench(loaded: Bench) -> Bench:
    loaded.reset()
    return loaded
