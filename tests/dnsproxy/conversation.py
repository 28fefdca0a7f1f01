"""Scripted conversations with the engine: `talk >> event << command << command`.

Each event must be answered by exactly the commands that follow it. Ids are drawn from a list that
the test can read, and the clock stands still until the test moves it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from dnsproxy.config import EngineConfig
from dnsproxy.engine import Engine
from dnsproxy.events import Command, Event, Forward, OpenFlow, Reply
from dnsproxy.metrics import Metrics
from dnsproxy.model import Judgement, Query, Question, Record, SocketAddress, Transport

CLIENT: SocketAddress = ("10.0.0.5", 40000)
SERVER: SocketAddress = ("10.96.0.10", 53)
ENDPOINT = 5
RULE = "policy/dns: spec.egress[0]"


class SuffixJudge:
    """Allows names that end in example.com."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def judge(self, query: Question) -> Judgement:
        self.asked.append(query)
        allowed = query.qname == "example.com" or query.qname.endswith(".example.com")
        return Judgement(allowed, RULE if allowed else None)


class Recorder:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, event: Record) -> None:
        self.records.append(event)


@dataclass
class Talk:
    """One engine and its partners. `ids` are the message ids that it will draw, in order."""

    config: EngineConfig = field(default_factory=lambda: EngineConfig(flows_per_route=1))
    ids: tuple[int, ...] = ()
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.judge = SuffixJudge()
        self.observer = Recorder()
        self.metrics = Metrics()
        self.draws = itertools.chain(self.ids, itertools.count(0x1001))
        self.engine = Engine(
            self.judge,
            self.config,
            self.metrics,
            self.observer,
            random_id=lambda: next(self.draws),
        )
        self.commands: list[Command] = []

    def __rshift__(self, event: Event) -> Talk:
        self.end()
        self.commands = self.engine.receive(event, self.now)
        return self

    def __lshift__(self, command: Command) -> Talk:
        assert self.commands, f"expected {command}, got no more commands"
        assert self.commands.pop(0) == command
        return self

    def end(self) -> None:
        assert self.commands == [], "commands that nobody expected"

    def later(self, seconds: float) -> Talk:
        self.now += seconds
        return self

    def take(self) -> list[Command]:
        """The commands not yet looked at, for a test that wants to look by itself."""
        commands, self.commands = self.commands, []
        return commands

    def reply(self) -> bytes:
        """The payload of the one reply that is left."""
        (command,) = self.take()
        assert isinstance(command, Reply)
        return command.payload


def ask(
    payload: bytes,
    *,
    endpoint: int | None = ENDPOINT,
    client: SocketAddress = CLIENT,
    server: SocketAddress = SERVER,
    connection: int = 0,
) -> Query:
    transport = Transport.TCP if connection else Transport.UDP
    return Query(endpoint, client, server, transport, payload, connection)


def opened(
    flow: int,
    *,
    client: SocketAddress = CLIENT,
    server: SocketAddress = SERVER,
    connection: int = 0,
) -> OpenFlow:
    transport = Transport.TCP if connection else Transport.UDP
    return OpenFlow(flow, transport, client, server, connection)


def forwarded(flow: int, payload: bytes, message_id: int) -> Forward:
    return Forward(flow, message_id.to_bytes(2, "big") + payload[2:])


def reply(
    payload: bytes,
    *,
    client: SocketAddress = CLIENT,
    server: SocketAddress = SERVER,
    connection: int = 0,
) -> Reply:
    transport = Transport.TCP if connection else Transport.UDP
    return Reply(transport, client, server, connection, payload)


def with_id(payload: bytes, message_id: int) -> bytes:
    return message_id.to_bytes(2, "big") + payload[2:]
