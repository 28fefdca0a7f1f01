"""The engine under any order of events, honest and forged: what must hold after each of them.

Honest servers give addresses in 192.0.2.0/24, forgers in 203.0.113.0/24.
A forger knows everything but the id and the flow's number, which stand for what it cannot see.
"""

from __future__ import annotations

import os
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from dnsproxy.config import EngineConfig
from dnsproxy.engine import Engine
from dnsproxy.events import (
    CloseFlow,
    Command,
    ConnectionClosed,
    Event,
    FlowFailed,
    Forward,
    Install,
    Installed,
    InstallFailed,
    NoReply,
    OpenFlow,
    Reply,
    Response,
    Tick,
)
from dnsproxy.metrics import Metrics
from dnsproxy.model import Query, Transport
from dnsproxy.reader import Malformed, read_answer
from tests.dnsproxy.conversation import SERVER, SuffixJudge
from tests.dnsproxy.messages import QR, RA, RD, A, message, pointer, query, question, record

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FORGED = ip_network("203.0.113.0/24")
CONFIG = EngineConfig(
    in_flight=12,
    in_flight_per_endpoint=6,
    pending_bytes=1500,
    pending_bytes_per_endpoint=900,
    udp_addresses=3,
    tcp_addresses=5,
    flows=6,
    flows_per_endpoint=4,
    flows_per_route=2,
    queries_per_flow=3,
)

names = st.sampled_from(["www.example.com", "WWW.Example.COM", "api.example.com", "evil.test"])
endpoints = st.integers(1, 3)


def client_of(endpoint: int) -> tuple[str, int]:
    return (f"10.0.0.{endpoint}", 40000)


def qname_of(payload: bytes) -> bytes:
    return payload[12 : payload.index(b"\x00", 12)].lower()


class AnyOrder(RuleBasedStateMachine):
    """Rules are what may happen; invariants are the promises in the engine's docstring."""

    forwards = Bundle("forwards")
    installs = Bundle("installs")

    def __init__(self) -> None:
        super().__init__()
        self.metrics = Metrics()
        self.draws = 0
        self.engine = Engine(SuffixJudge(), CONFIG, self.metrics, random_id=self.draw)
        self.now = 0.0
        self.open_flows: dict[int, OpenFlow] = {}
        self.installed: set[tuple[int, bytes, str]] = set()
        self.install_of: dict[int, Install] = {}
        self.asked: dict[tuple[int, int], list[bytes]] = {}  # (client, connection) -> waiting

    def draw(self) -> int:
        self.draws = (self.draws * 25173 + 13849) % 65536
        return self.draws

    def happen(self, event: Event) -> list[Command]:
        commands = self.engine.receive(event, self.now)
        for command in commands:
            self.check(command)
        return commands

    def check(self, command: Command) -> None:
        if isinstance(command, OpenFlow):
            assert command.flow not in self.open_flows
            self.open_flows[command.flow] = command
        elif isinstance(command, CloseFlow):
            del self.open_flows[command.flow]
        elif isinstance(command, Forward):
            assert command.flow in self.open_flows
            assert qname_of(command.payload).endswith(b"\x07example\x03com")
        elif isinstance(command, Install):
            assert command.exchange not in self.install_of
            self.install_of[command.exchange] = command
            for address, _ in command.learned.addresses:
                assert address not in FORGED
        elif isinstance(command, Reply):
            self.check_reply(command)

    def check_reply(self, command: Reply) -> None:
        """It answers a question that is open, once, and tells no address that is not installed."""
        waiting = self.asked[int(command.client[0].rsplit(".")[-1]), command.connection]
        if len(command.payload) > 12:
            end = command.payload.index(b"\x00", 12) + 5
            waiting.remove(command.payload[:2] + command.payload[12:end])
            if command.payload[3] & 0x0F == 0:
                try:
                    given = read_answer(command.payload, end).addresses
                except Malformed:
                    given = ()
                for address, _ in given:
                    endpoint = int(command.client[0].rsplit(".")[-1])
                    name = qname_of(command.payload)
                    assert (endpoint, name, str(address)) in self.installed

    @rule(
        target=forwards, endpoint=endpoints, qname=names, connection=st.sampled_from([0, 0, 1, 2])
    )
    def client_asks(self, endpoint: int, qname: str, connection: int) -> object:
        connection = connection and connection * 10 + endpoint
        payload = query(qname, message_id=self.draw(), edns=True)
        end = payload.index(b"\x00", 12) + 5
        self.asked.setdefault((endpoint, connection), []).append(payload[:2] + payload[12:end])
        transport = Transport.TCP if connection else Transport.UDP
        commands = self.happen(
            Query(endpoint, client_of(endpoint), SERVER, transport, payload, connection)
        )
        return multiple(*(command for command in commands if isinstance(command, Forward)))

    @rule(payload=st.binary(max_size=40), endpoint=endpoints)
    def client_sends_noise(self, payload: bytes, endpoint: int) -> None:
        self.asked.setdefault((endpoint, 0), [])
        self.happen(Query(endpoint, client_of(endpoint), SERVER, Transport.UDP, payload))

    @rule(
        target=installs,
        forward=forwards,
        count=st.integers(0, 6),
        upper=st.booleans(),
        rcode=st.sampled_from([0, 0, 0, 2, 3]),
    )
    def server_answers(self, forward: Forward, count: int, upper: bool, rcode: int) -> object:
        asked = forward.payload
        end = asked.index(b"\x00", 12) + 5
        echoed = asked[12:end]
        if upper:
            echoed = echoed[:-4].upper() + echoed[-4:]
        records = tuple(record(pointer(12), A, bytes([192, 0, 2, i])) for i in range(count))
        payload = asked[:2] + message(0, QR | RD | RA | rcode, (echoed,), records)[2:]
        commands = self.happen(Response(forward.flow, payload))
        return multiple(*(command for command in commands if isinstance(command, Install)))

    @rule(forward=forwards, lie=st.sampled_from(["flow", "id", "question", "type"]))
    def forger_answers(self, forward: Forward, lie: str) -> None:
        """Right in everything but one thing."""
        asked = forward.payload
        message_id = int.from_bytes(asked[:2], "big")
        echoed = asked[12 : asked.index(b"\x00", 12) + 5]
        flow = forward.flow
        if lie == "flow":
            flow = max(self.open_flows, default=0) + 1
        elif lie == "id":
            held = self.engine._flows.get(flow)
            message_id = next(i for i in range(99) if held is None or i not in held.pending)
        elif lie == "question":
            echoed = question("forged.example.com")
        else:
            echoed = echoed[:-4] + b"\x00\x1c" + echoed[-2:]
        forged = (record(pointer(12), A, bytes([203, 0, 113, 1])),)
        assert self.happen(Response(flow, message(message_id, QR | RD, (echoed,), forged))) == []

    @rule(forward=forwards, payload=st.binary(max_size=60))
    def server_sends_noise(self, forward: Forward, payload: bytes) -> None:
        self.happen(Response(forward.flow, forward.payload[:2] + payload))

    @rule(install=consumes(installs))
    def kernel_installs(self, install: Install) -> None:
        learned = install.learned
        for address, _ in learned.addresses:
            wire = b"".join(
                bytes([len(label)]) + label.encode() for label in learned.qname.split(".")
            )
            self.installed.add((learned.endpoint, wire, str(address)))
        self.happen(Installed(install.exchange))

    @rule(install=consumes(installs))
    def kernel_refuses(self, install: Install) -> None:
        self.happen(InstallFailed(install.exchange, "full"))

    @rule(forward=forwards)
    def flow_fails(self, forward: Forward) -> None:
        self.happen(FlowFailed(forward.flow, "refused"))
        assert forward.flow not in self.open_flows

    @rule(endpoint=endpoints, number=st.sampled_from([1, 2]))
    def connection_closes(self, endpoint: int, number: int) -> None:
        commands = self.happen(ConnectionClosed(number * 10 + endpoint, SERVER))
        assert all(isinstance(command, CloseFlow) for command in commands)

    @rule(seconds=st.sampled_from([0.25, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for command in self.happen(Tick()):
            assert isinstance(command, CloseFlow | NoReply | Reply)

    @invariant()
    def bounds_hold(self) -> None:
        metrics = self.metrics
        assert 0 <= metrics.in_flight <= CONFIG.in_flight
        assert 0 <= metrics.pending_bytes <= CONFIG.pending_bytes
        assert metrics.flows == len(self.open_flows) <= CONFIG.flows

    def teardown(self) -> None:
        """After all the silence that there can be, nothing is held."""
        for _ in range(2):
            self.now += 60
            self.happen(Tick())
        for connection in {connection for _, connection in self.asked if connection}:
            self.happen(ConnectionClosed(connection, SERVER))
        metrics = self.metrics
        assert metrics.in_flight == metrics.pending_bytes == metrics.flows == 0
        assert self.open_flows == {}


AnyOrder.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@settings(max_examples=EXAMPLES * 4, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=8), st.booleans())
def test_noise_from_both_sides_never_raises(payloads: list[bytes], tcp: bool) -> None:
    engine = Engine(SuffixJudge(), CONFIG, Metrics())
    transport = Transport.TCP if tcp else Transport.UDP
    for number, payload in enumerate(payloads):
        engine.receive(Query(1, client_of(1), SERVER, transport, payload, int(tcp)), number)
        engine.receive(Query(1, client_of(1), SERVER, transport, query("a.example.com")), number)
        for flow in range(4):
            engine.receive(Response(flow, payload), number)
