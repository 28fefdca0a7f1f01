"""The whole stack: sync client, unix socket, Hypercorn, Starlette, backend."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fqdnwall.api.client import (
    AgentClient,
    AgentNotRunning,
    Ambiguous,
    BrokenAnswer,
    Refused,
    find_socket,
)
from fqdnwall.api.events import EventFilter, EventType
from fqdnwall.api.models import EndpointSpec, FqdnSource
from tests.api import samples
from tests.api.fake import FakeBackend, LiveAgent, live_agent


def test_every_answer_arrives_as_the_backend_gave_it(client: AgentClient) -> None:
    assert client.status() == samples.STATUS
    assert sorted(client.endpoints(), key=lambda e: e.id) == list(samples.ENDPOINTS)
    assert client.endpoint(7) == samples.ENDPOINTS[0]
    assert set(client.identities()) == set(samples.IDENTITIES)
    assert client.policies() == samples.POLICIES
    assert client.policy_entries(7) == samples.POLICY_ENTRIES
    assert client.fqdn_cache() == samples.CACHE
    assert client.fqdn_names() == samples.NAMES
    assert client.ct_entries() == samples.CT
    assert client.ipcache() == samples.IPCACHE
    assert client.learned() == samples.LEARNED
    assert client.progs() == samples.PROGS
    assert client.maps() == samples.MAPS
    assert client.report() == samples.REPORT


def test_a_long_list_arrives_whole(tmp_path: Path) -> None:
    many = tuple(replace(samples.CT[0], source_port=port) for port in range(2501))
    with live_agent(tmp_path / "s", FakeBackend(ct=many)) as agent:
        client = AgentClient(agent.path)
        assert client.ct_entries() == many
        assert client.ct_entries(limit=3) == many[:3]
        assert client.ct_entries(limit=200) == many[:200]


def test_filters_reach_the_backend(agent: LiveAgent, client: AgentClient) -> None:
    client.fqdn_cache(7, "*.example.com", FqdnSource.KERNEL)
    assert agent.backend.asked == [("cache", 7, "*.example.com", FqdnSource.KERNEL)]


def test_endpoint_is_added_and_deleted(agent: LiveAgent, client: AgentClient) -> None:
    spec = EndpointSpec(interface="fw99", name="new", labels=("app=x",))
    assert client.endpoint_add(spec).id == 99
    assert agent.backend.asked == [("add", spec)]
    client.endpoint_delete(99)
    with pytest.raises(Refused) as refused:
        client.endpoint(99)
    assert refused.value.status == 404
    assert refused.value.hint == "see: fqdnwall endpoint list"


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        (EndpointSpec(interface="fw7", name="web"), 409),
        (EndpointSpec(interface="lo", name="lo"), 422),
    ],
)
def test_what_the_backend_refuses_says_what_to_do(
    client: AgentClient, spec: EndpointSpec, status: int
) -> None:
    with pytest.raises(Refused) as refused:
        client.endpoint_add(spec)
    assert refused.value.status == status
    assert refused.value.hint


def test_cache_is_cleaned_and_counted(agent: LiveAgent, client: AgentClient) -> None:
    assert client.fqdn_cache_clean() == 2
    assert client.fqdn_cache_clean("*.example.com") == 2
    assert agent.backend.asked == [("clean", None), ("clean", "*.example.com")]


def test_a_bug_in_the_agent_is_a_500_and_the_agent_goes_on(tmp_path: Path) -> None:
    with live_agent(tmp_path / "s", FakeBackend(bug=True)) as agent:
        client = AgentClient(agent.path)
        with pytest.raises(Refused) as refused:
            client.status()
        assert refused.value.status == 500
        assert client.endpoints()


def test_shutdown_ends_the_agent_after_its_answer(agent: LiveAgent, client: AgentClient) -> None:
    client.shutdown(cleanup=True)
    agent.wait()
    assert agent.backend.asked == [("shutdown", True)]


def test_events_arrive_filtered_and_in_order(agent: LiveAgent, client: AgentClient) -> None:
    wanted = EventFilter(frozenset({EventType.DROP, EventType.DNS}), endpoint_id=7)
    with client.events(wanted) as stream:
        for event in samples.EVENTS:
            agent.call(agent.backend.broker.publish, event)
        agent.call(agent.backend.broker.close)
        assert list(stream) == [samples.DROP, samples.DNS]


def test_events_of_an_unknown_endpoint_are_a_404(client: AgentClient) -> None:
    with pytest.raises(Refused) as refused:
        client.events(EventFilter(endpoint_id=12345))
    assert refused.value.status == 404


def test_the_stream_ends_when_the_agent_ends(agent: LiveAgent, client: AgentClient) -> None:
    with client.events(EventFilter()) as stream:
        agent.call(agent.backend.broker.publish, samples.DROP)
        events = iter(stream)
        assert next(events) == samples.DROP
        agent.stop()
        assert list(events) == []


def test_a_reader_that_leaves_is_forgotten(agent: LiveAgent, client: AgentClient) -> None:
    with client.events(EventFilter()):
        assert agent.backend.broker.subscribers == 1
    # The next call is answered after the server has seen the end of the connection, or soon after.
    for _ in range(1000):
        client.status()
        if agent.backend.broker.subscribers == 0:
            break
    assert agent.backend.broker.subscribers == 0


def test_the_socket_is_for_root_and_its_group_only(agent: LiveAgent) -> None:
    assert stat.S_IMODE(os.stat(agent.path).st_mode) == 0o660


def test_no_agent_is_told_apart_from_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with pytest.raises(AgentNotRunning, match="there is no"):
        AgentClient(path).status()
    leave_dead_socket(path)
    with pytest.raises(AgentNotRunning, match="no agent listens") as error:
        AgentClient(path).status()
    assert "fqdnwall agent --policy-dir" in error.value.hint


def test_what_is_no_agent_gives_a_broken_answer(tmp_path: Path) -> None:
    with live_agent(tmp_path / "s", FakeBackend()) as agent:
        client = AgentClient(agent.path)
        with pytest.raises(BrokenAnswer):
            client._one(EndpointSpec, "GET", "/v1/endpoints")


class TestFindSocket:
    def test_prefers_the_agent(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        with live_agent(tmp_path / "agent.sock"), live_agent(tmp_path / "run" / "5.sock"):
            found = find_socket(tmp_path / "agent.sock", tmp_path / "run")
        assert found == tmp_path / "agent.sock"

    def test_takes_the_only_run_though_dead_ones_lie_about(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        leave_dead_socket(tmp_path / "agent.sock")
        leave_dead_socket(tmp_path / "run" / "4.sock")
        with live_agent(tmp_path / "run" / "5.sock"):
            found = find_socket(tmp_path / "agent.sock", tmp_path / "run")
        assert found == tmp_path / "run" / "5.sock"

    def test_does_not_choose_among_several_runs(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        with (
            live_agent(tmp_path / "run" / "5.sock"),
            live_agent(tmp_path / "run" / "40.sock"),
            pytest.raises(Ambiguous) as error,
        ):
            find_socket(tmp_path / "agent.sock", tmp_path / "run")
        assert "5.sock" in error.value.hint
        assert "40.sock" in error.value.hint

    def test_says_that_none_is_running(self, tmp_path: Path) -> None:
        with pytest.raises(AgentNotRunning, match="there is no"):
            find_socket(tmp_path / "agent.sock", tmp_path / "run")
        leave_dead_socket(tmp_path / "agent.sock")
        with pytest.raises(AgentNotRunning, match="is left of one"):
            find_socket(tmp_path / "agent.sock", tmp_path / "run")


def leave_dead_socket(path: Path) -> None:
    """What an agent leaves that was killed."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
