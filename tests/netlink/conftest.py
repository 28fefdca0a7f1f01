from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.namespaces import Namespace


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A namespace that this thread is in: what the functions under test take for the host."""
    namespace = Namespace.create("host", {})
    with namespace.entered():
        yield namespace
    namespace.close()


@pytest.fixture
def other() -> Iterator[Namespace]:
    """A namespace of somebody else."""
    namespace = Namespace.create("other", {})
    yield namespace
    namespace.close()
