from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fqdnwall.api.client import AgentClient
from tests.api.fake import LiveAgent, live_agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LiveAgent]:
    with live_agent(tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture
def client(agent: LiveAgent) -> AgentClient:
    return AgentClient(agent.path, timeout_seconds=5)
