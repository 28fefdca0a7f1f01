"""What the engine holds is bounded, as a whole and for each endpoint."""

from __future__ import annotations

import pytest

from dnsproxy.config import EngineConfig
from dnsproxy.events import CloseFlow, Forward, OpenFlow, Reply, Response, Tick
from dnsproxy.model import Failure
from tests.dnsproxy.conversation import CLIENT, SERVER, Talk, ask, forwarded, opened, with_id
from tests.dnsproxy.messages import AAAA, SERVFAIL, address, pointer, query, response

QUERY = query("www.example.com")
ANSWER = response("www.example.com", address(pointer(12), "192.0.2.1"))


def kinds(talk: Talk) -> list[str]:
    """What the last event led to, in short."""
    short = []
    for command in talk.take():
        if isinstance(command, Reply):
            assert command.payload[3] & 0x0F == SERVFAIL
            short.append("servfail")
        else:
            short.append({OpenFlow: "open", Forward: "forward", CloseFlow: "close"}[type(command)])
    return short


def other_client(number: int) -> tuple[str, int]:
    return (f"10.1.{number >> 8}.{number & 255}", 40000)


def test_queries_in_flight_are_bounded_for_an_endpoint_and_others_go_on() -> None:
    talk = Talk(EngineConfig(in_flight_per_endpoint=3, flows_per_route=1))
    outcomes = []
    for _ in range(5):
        talk >> ask(QUERY)
        outcomes += kinds(talk)
    assert outcomes == ["open", "forward", "forward", "forward", "servfail", "servfail"]
    assert talk.metrics.failures[Failure.IN_FLIGHT_ENDPOINT] == 2
    talk >> ask(QUERY, endpoint=6, client=other_client(6))
    assert kinds(talk) == ["open", "forward"]
    talk.later(10) >> Tick()
    talk.take()
    talk >> ask(QUERY)
    assert kinds(talk) == ["open", "forward"]


def test_copies_of_one_question_in_flight_are_bounded() -> None:
    """In any letter case, and by whatever port: else a forger's chances add up."""
    talk = Talk(EngineConfig(in_flight_per_question=2, flows_per_route=1))
    for number, asked in enumerate((QUERY, query("WWW.example.COM"), query("Www.example.com"))):
        talk >> ask(asked, client=(CLIENT[0], 40000 + number))
        assert kinds(talk)[-1] == ("forward" if number < 2 else "servfail")
    assert talk.metrics.failures[Failure.IN_FLIGHT_QUESTION] == 1
    for other in (ask(query("www.example.com", AAAA)), ask(QUERY, server=("10.96.0.11", 53))):
        talk >> other
        assert kinds(talk)[-1] == "forward"
    talk >> Response(1, response("www.example.com", message_id=0x1001))
    talk.take()
    talk >> ask(QUERY)
    assert kinds(talk) == ["forward"]


def test_queries_in_flight_are_bounded_in_all() -> None:
    talk = Talk(EngineConfig(in_flight=3))
    for number in range(5):
        talk >> ask(QUERY, endpoint=number, client=other_client(number))
        assert kinds(talk) == (["open", "forward"] if number < 3 else ["servfail"])
    assert talk.metrics.failures[Failure.IN_FLIGHT] == 2


def test_refused_names_take_no_slot() -> None:
    talk = Talk(EngineConfig(in_flight=1, in_flight_per_endpoint=1))
    for number in range(1000):
        talk >> ask(query(f"n{number}.evil.test"))
        talk.take()
    talk >> ask(QUERY)
    assert kinds(talk) == ["open", "forward"]


def test_octets_of_queries_are_bounded_for_an_endpoint() -> None:
    size = len(QUERY)
    talk = Talk(EngineConfig(pending_bytes_per_endpoint=2 * size, flows_per_route=1))
    for expected in (["open", "forward"], ["forward"], ["servfail"]):
        talk >> ask(QUERY)
        assert kinds(talk) == expected
    assert talk.metrics.failures[Failure.PENDING_BYTES] == 1
    assert talk.metrics.pending_bytes == 2 * size


@pytest.mark.parametrize("bound", ["pending_bytes", "pending_bytes_per_endpoint"])
def test_octets_of_held_answers_are_bounded(bound: str) -> None:
    config = EngineConfig(flows_per_route=1, **{bound: len(QUERY) + len(ANSWER)})  # type: ignore[arg-type]
    talk = Talk(config)
    for _ in range(2):
        talk >> ask(QUERY)
        talk.take()
    talk >> Response(1, with_id(ANSWER, 0x1001))
    assert len(talk.take()) == 1  # Install
    talk >> Response(1, with_id(ANSWER, 0x1002))
    assert kinds(talk) == ["servfail"]
    assert talk.metrics.pending_bytes == len(ANSWER)


def test_flood_of_distinct_names_leaves_nothing_behind() -> None:
    talk = Talk(EngineConfig(in_flight_per_endpoint=50))
    for number in range(2000):
        talk >> ask(query(f"n{number}.example.com"))
        talk.take()
        assert talk.metrics.in_flight <= 50
    assert talk.metrics.failures[Failure.IN_FLIGHT_ENDPOINT] == 1950
    talk.later(10) >> Tick()
    talk.take()
    metrics = talk.metrics
    assert metrics.in_flight == metrics.pending_bytes == metrics.flows == 0


def test_upstream_sockets_are_bounded_for_an_endpoint_and_others_go_on() -> None:
    talk = Talk(EngineConfig(flows_per_endpoint=2, flows_per_route=1))
    for number in range(3):
        talk >> ask(QUERY, server=(f"10.96.0.{number}", 53))
        assert kinds(talk) == (["open", "forward"] if number < 2 else ["servfail"])
    assert talk.metrics.failures[Failure.FLOWS] == 1
    talk >> ask(QUERY, endpoint=6, client=other_client(6))
    assert kinds(talk) == ["open", "forward"]


def test_idle_sockets_make_room_for_another_server() -> None:
    talk = Talk(EngineConfig(flows_per_endpoint=1, flows_per_route=1))
    talk >> ask(QUERY) << opened(1) << forwarded(1, QUERY, 0x1001)
    talk >> Response(1, response("www.example.com", message_id=0x1001))
    talk.take()
    talk >> ask(QUERY, server=("10.96.0.99", 53))
    assert kinds(talk) == ["close", "open", "forward"]


def test_socket_is_shared_when_no_other_can_be_opened() -> None:
    talk = Talk(EngineConfig(flows=1, flows_per_route=8))
    talk >> ask(QUERY)
    assert kinds(talk) == ["open", "forward"]
    talk >> ask(QUERY)
    assert kinds(talk) == ["forward"]


def test_route_in_light_use_takes_a_new_socket_for_each_query() -> None:
    talk = Talk(EngineConfig(flows_per_route=8, flow_lifetime_seconds=5))
    for flow in range(1, 10):
        talk.later(1) >> ask(QUERY)
        first, *_ = talk.take()
        assert isinstance(first, OpenFlow)
        talk >> Response(flow, response("www.example.com", message_id=0x1000 + flow))
        talk.take()
        talk >> Tick()
        talk.take()
    assert talk.metrics.flows_opened == 9
    assert talk.metrics.flows <= 5


def test_socket_is_retired_after_so_many_queries_and_closed_when_they_are_answered() -> None:
    talk = Talk(EngineConfig(flows_per_route=1, queries_per_flow=2))
    talk >> ask(QUERY) << opened(1) << forwarded(1, QUERY, 0x1001)
    talk >> ask(QUERY) << forwarded(1, QUERY, 0x1002)
    talk >> ask(QUERY) << opened(2) << forwarded(2, QUERY, 0x1003)
    talk >> Tick()
    for message_id in (0x1001, 0x1002):
        talk >> Response(1, response("www.example.com", message_id=message_id))
        talk.take()
    talk >> Tick() << CloseFlow(1)
    talk.end()


def test_id_that_is_pending_is_not_drawn_again() -> None:
    talk = Talk(ids=(7, 7, 7, 8))
    talk >> ask(QUERY) << opened(1) << forwarded(1, QUERY, 7)
    talk >> ask(QUERY) << forwarded(1, QUERY, 8)
    talk.end()


def test_flow_to_one_server_is_not_used_for_another() -> None:
    talk = Talk()
    talk >> ask(QUERY) << opened(1) << forwarded(1, QUERY, 0x1001)
    other = (SERVER[0], 5353)
    talk >> ask(QUERY, server=other) << opened(2, server=other) << forwarded(2, QUERY, 0x1002)
    talk.end()
