from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.datapath.bench import Bench
from tests.datapath.dnsbench import DnsBench


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


@pytest.fixture(scope="session")
def loaded_dns() -> Iterator[DnsBench]:
    bench = DnsBench(f"test-dns-{os.getpid()}")
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def dns(loaded_dns: DnsBench) -> DnsBench:
    loaded_dns.reset()
    return loaded_dns
