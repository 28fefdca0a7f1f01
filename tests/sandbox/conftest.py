from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with an uplink to a server, on IPv4 and IPv6, and nothing of ours yet."""
    with Host.created(tmp_path) as host:
        yield host
