"""One lab for all end-to-end tests, and a check after each that its guard left nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.leftovers import Machine, wait_until_clean


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root, the kernel, and more time than the inner loop has."""
    for item in items:
        if "tests/e2e/" in item.nodeid:
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The lab; a test that leaves a process, link, route, rule or setting in it fails."""
    before = Machine.seen_by(shared_lab)
    yield shared_lab
    assert wait_until_clean(before, lambda: Machine.seen_by(shared_lab)) == []
