"""The proxy's decisions, without sockets or clocks: events and `now` in, commands out.

    query ── strict reading ── policy ── bounds ──> Forward ──> Response ──> Install ──> Reply
               │ FORMERR        │ REFUSED  │ SERVFAIL            │             │
               └────────────────┴──────────┴──> Reply            └─ no address ┴─ failed: SERVFAIL

Invariants:
- Nothing is sent upstream that policy did not allow, or that has a second reading.
- A response is used only if it came on the flow that the query left by, with the id drawn for it,
  and with the same question; and only once.
- A reply that carries addresses is released after the kernel has said that it holds them all.
- Upstream silence is silence; upstream failure is SERVFAIL; the engine never answers from a guess.
- Memory is bounded: exchanges (in all and for each endpoint), octets held, flows.

`now` is seconds on any clock that never goes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from dnsproxy.config import EngineConfig
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
from dnsproxy.exchange import Exchange, ExchangeTable
from dnsproxy.flows import Flow, FlowTable, RandomId
from dnsproxy.metrics import Metrics
from dnsproxy.model import (
    Answered,
    Failed,
    Failure,
    Judge,
    Judged,
    Learned,
    Observer,
    Query,
    Question,
    Transport,
)
from dnsproxy.reader import (
    CLASS_IN,
    FLAG_QR,
    FLAG_TC,
    HEADER_OCTETS,
    OPCODE_MASK,
    Answer,
    Malformed,
    QueryHead,
    question_matches,
    read_answer,
    read_query,
)
from dnsproxy.wire import ExtendedError, Rcode, error_reply, format_error, truncated_reply

_ZONE_TRANSFERS: Final = frozenset({251, 252})  # IXFR, AXFR: many messages for one question
_REFUSED_TEXT: Final = "not allowed by policy"


def system_random_id() -> RandomId:
    """16 unguessable bits a call, drawn from the kernel in blocks."""
    block = b""
    at = 0

    def draw() -> int:
        nonlocal block, at
        if at >= len(block):
            block, at = os.urandom(1024), 0
        at += 2
        return block[at - 2] << 8 | block[at - 1]

    return draw


class Engine:
    TICK_SECONDS: Final = 0.25

    def __init__(
        self,
        judge: Judge,
        config: EngineConfig,
        metrics: Metrics,
        observer: Observer | None = None,
        random_id: RandomId | None = None,
    ) -> None:
        self._judge = judge
        self._config = config
        self._metrics = metrics
        self._observer = observer
        self._flows = FlowTable(config, random_id or system_random_id())
        self._exchanges = ExchangeTable(config, metrics)
        self._handlers: dict[type[Any], Callable[[Any, float], list[Command]]] = {
            Query: self._query,
            Response: self._response,
            FlowFailed: self._flow_failed,
            Installed: self._installed,
            InstallFailed: self._install_failed,
            ConnectionClosed: self._connection_closed,
            Tick: self._tick,
        }

    def receive(self, event: Event, now: float) -> list[Command]:
        """Take one event; the commands are to be carried out in order."""
        return self._handlers[type(event)](event, now)

    # ---- from the client ----

    def _query(self, query: Query, now: float) -> list[Command]:
        self._metrics.queries += 1
        try:
            head = read_query(query.payload)
        except Malformed as error:
            self._fail(Failure.MALFORMED_QUERY, query, None, str(error))
            answer = format_error(query.payload)
            return [_reply(query, answer)] if answer else _silence(query.connection)
        wire = query.payload[HEADER_OCTETS : head.end]
        if query.endpoint is None:
            self._fail(Failure.UNKNOWN_CLIENT, query, None)
            return [_reply(query, error_reply(head, wire, Rcode.REFUSED, ExtendedError.PROHIBITED))]
        if head.qclass != CLASS_IN or head.qtype in _ZONE_TRANSFERS:
            self._fail(Failure.MALFORMED_QUERY, query, None, "class or type not supported")
            return [_reply(query, error_reply(head, wire, Rcode.REFUSED, ExtendedError.PROHIBITED))]
        question = Question(query.endpoint, query.server, query.transport, head.qname, head.qtype)
        judgement = self._judge.judge(question)
        if self._observer is not None:
            self._observer.record(Judged(question, query.client, judgement))
        if not judgement.allowed:
            self._metrics.refused += 1
            code = self._config.refusal.value
            refusal = error_reply(head, wire, code, ExtendedError.BLOCKED, _REFUSED_TEXT)
            return [_reply(query, refusal)]
        failure = self._exchanges.over_bounds(question, len(query.payload))
        if failure is not None:
            return self._reject(failure, query, head, question)
        return self._forward(query, head, question, judgement.rule, now)

    def _forward(
        self, query: Query, head: QueryHead, question: Question, rule: str | None, now: float
    ) -> list[Command]:
        commands: list[Command] = []
        flow = self._choose_flow(query, question.endpoint, now, commands)
        if flow is None:
            return commands + self._reject(Failure.FLOWS, query, head, question)
        exchange = self._exchanges.add(query, head, question, rule, now)
        exchange.flow = flow
        exchange.dns_id = self._flows.attach(flow, exchange)
        self._metrics.forwarded += 1
        payload = exchange.dns_id.to_bytes(2, "big") + query.payload[2:]
        commands.append(Forward(flow.number, payload))
        return commands

    def _choose_flow(
        self, query: Query, endpoint: int, now: float, commands: list[Command]
    ) -> Flow | None:
        udp = query.transport is Transport.UDP
        route = (query.client[0] if udp else query.connection, query.server)
        flow = self._flows.choose(route, now)
        if flow is not None:
            return flow
        if self._flows.full(endpoint):
            commands += self._close(self._flows.reclaim(endpoint))
        flow = self._flows.open(route, query.transport, endpoint, now)
        if flow is None:
            return self._flows.any_of(route)
        self._metrics.flows += 1
        self._metrics.flows_opened += 1
        commands.append(
            OpenFlow(flow.number, query.transport, query.client, query.server, query.connection)
        )
        return flow

    def _reject(
        self, failure: Failure, query: Query, head: QueryHead, question: Question
    ) -> list[Command]:
        self._fail(failure, query, question)
        wire = query.payload[HEADER_OCTETS : head.end]
        text = failure.value
        return [_reply(query, error_reply(head, wire, Rcode.SERVFAIL, ExtendedError.OTHER, text))]

    # ---- from the upstream ----

    def _response(self, response: Response, now: float) -> list[Command]:
        exchange = self._match(response)
        if exchange is None:
            self._metrics.unmatched_responses += 1
            return []
        self._exchanges.detach(exchange)
        exchange.answered_at = now
        self._metrics.upstream_seconds.observe(now - exchange.started)
        payload, wire = response.payload, exchange.question_wire
        after = HEADER_OCTETS + len(wire)
        reply = exchange.head.id.to_bytes(2, "big") + payload[2:12] + wire + payload[after:]
        if payload[3] & 0x0F or payload[6:8] == b"\x00\x00":  # an RCODE, or no answers
            return self._release(exchange, reply, now)
        try:
            answer = read_answer(payload, after)
        except Malformed as error:
            return self._malformed_answer(exchange, payload, str(error), now)
        if not answer.in_order:
            self._metrics.out_of_order_answers += 1
        if not answer.addresses:
            return self._release(exchange, reply, now)
        return self._learn(exchange, answer, payload, reply, now)

    def _match(self, response: Response) -> Exchange | None:
        flow = self._flows.get(response.flow)
        payload = response.payload
        if flow is None or len(payload) < HEADER_OCTETS:
            return None
        exchange = flow.pending.get(payload[0] << 8 | payload[1])
        if exchange is None or (payload[2] << 8) & (FLAG_QR | OPCODE_MASK) != FLAG_QR:
            return None
        return exchange if question_matches(payload, exchange.question_wire) else None

    def _learn(
        self, exchange: Exchange, answer: Answer, payload: bytes, reply: bytes, now: float
    ) -> list[Command]:
        config, question = self._config, exchange.question
        udp = question.transport is Transport.UDP
        if len(answer.addresses) > (config.udp_addresses if udp else config.tcp_addresses):
            if udp:
                return self._truncate(exchange, payload, now)
            return self._servfail(exchange, Failure.TOO_MANY_ADDRESSES, ExtendedError.OTHER)
        if not self._exchanges.hold(exchange, reply):
            return self._servfail(exchange, Failure.PENDING_BYTES, ExtendedError.OTHER)
        least, most = config.min_ttl_seconds, config.max_ttl_seconds
        exchange.learned = Learned(
            question.endpoint,
            question.qname,
            question.qtype,
            tuple([(at, min(max(ttl, least), most)) for at, ttl in answer.addresses]),
            answer.cname_chain,
            question.server,
            now - exchange.started,
        )
        return [Install(exchange.number, exchange.learned)]

    def _malformed_answer(
        self, exchange: Exchange, payload: bytes, reason: str, now: float
    ) -> list[Command]:
        """Some servers cut a truncated answer in mid-record: that is still "ask over TCP"."""
        if payload[2] << 8 & FLAG_TC and exchange.question.transport is Transport.UDP:
            return self._truncate(exchange, payload, now)
        return self._servfail(
            exchange, Failure.MALFORMED_ANSWER, ExtendedError.INVALID_DATA, reason
        )

    def _truncate(self, exchange: Exchange, payload: bytes, now: float) -> list[Command]:
        self._metrics.truncated += 1
        flags = payload[2] << 8 | payload[3]
        reply = truncated_reply(exchange.head, exchange.question_wire, flags)
        return self._release(exchange, reply, now)

    def _flow_failed(self, event: FlowFailed, now: float) -> list[Command]:
        flow = self._flows.get(event.flow)
        if flow is None:
            return []
        commands: list[Command] = []
        for exchange in list(flow.pending.values()):
            commands += self._servfail(
                exchange, Failure.UPSTREAM, ExtendedError.NETWORK_ERROR, event.reason
            )
        self._flows.remove(flow)
        return commands + self._close([flow])

    # ---- from the kernel's side ----

    def _installed(self, event: Installed, now: float) -> list[Command]:
        exchange = self._exchanges.get(event.exchange)
        if exchange is None or exchange.reply is None or exchange.learned is None:
            return []
        self._metrics.learned_answers += 1
        self._metrics.learned_addresses += len(exchange.learned.addresses)
        self._metrics.dataplane_seconds.observe(now - exchange.answered_at)
        return self._release(exchange, exchange.reply, now)

    def _install_failed(self, event: InstallFailed, now: float) -> list[Command]:
        exchange = self._exchanges.get(event.exchange)
        if exchange is None or exchange.reply is None:
            return []
        return self._servfail(exchange, Failure.INSTALL, ExtendedError.OTHER, event.reason)

    # ---- endings ----

    def _release(self, exchange: Exchange, reply: bytes, now: float) -> list[Command]:
        self._exchanges.remove(exchange)
        self._metrics.answered += 1
        elapsed = now - exchange.started
        self._metrics.total_seconds.observe(elapsed)
        question = exchange.question
        if self._observer is not None:
            self._observer.record(
                Answered(
                    question,
                    exchange.client,
                    exchange.rule,
                    reply[3] & 0x0F,
                    exchange.learned,
                    elapsed,
                )
            )
        return [
            Reply(question.transport, exchange.client, question.server, exchange.connection, reply)
        ]

    def _servfail(
        self, exchange: Exchange, failure: Failure, error: ExtendedError, detail: str = ""
    ) -> list[Command]:
        self._exchanges.remove(exchange)
        self._fail_exchange(failure, exchange, detail)
        reply = error_reply(
            exchange.head, exchange.question_wire, Rcode.SERVFAIL, error, failure.value
        )
        question = exchange.question
        return [
            Reply(question.transport, exchange.client, question.server, exchange.connection, reply)
        ]

    def _connection_closed(self, event: ConnectionClosed, now: float) -> list[Command]:
        flows = self._flows.route((event.connection, event.server))
        for flow in flows:
            for exchange in list(flow.pending.values()):
                self._exchanges.remove(exchange)
            self._flows.remove(flow)
        return self._close(flows)

    def _tick(self, event: Tick, now: float) -> list[Command]:
        commands: list[Command] = []
        for exchange in self._exchanges.expired(now):
            if exchange.reply is not None:
                commands += self._servfail(
                    exchange, Failure.INSTALL, ExtendedError.OTHER, "not installed in time"
                )
            else:
                self._exchanges.remove(exchange)
                self._fail_exchange(Failure.SILENCE, exchange)
                commands += _silence(exchange.connection)
        return commands + self._close(self._flows.finished(now))

    def _close(self, flows: list[Flow] | tuple[Flow, ...]) -> list[Command]:
        self._metrics.flows -= len(flows)
        return [CloseFlow(flow.number) for flow in flows]

    def _fail_exchange(self, failure: Failure, exchange: Exchange, detail: str = "") -> None:
        self._metrics.failures[failure] += 1
        if self._observer is not None:
            question = exchange.question
            self._observer.record(
                Failed(
                    failure,
                    question.endpoint,
                    exchange.client,
                    question.server,
                    question.transport,
                    question,
                    detail,
                )
            )

    def _fail(
        self, failure: Failure, query: Query, question: Question | None, detail: str = ""
    ) -> None:
        self._metrics.failures[failure] += 1
        if self._observer is not None:
            self._observer.record(
                Failed(
                    failure,
                    query.endpoint,
                    query.client,
                    query.server,
                    query.transport,
                    question,
                    detail,
                )
            )


def _reply(query: Query, payload: bytes) -> Reply:
    return Reply(query.transport, query.client, query.server, query.connection, payload)


def _silence(connection: int) -> list[Command]:
    return [NoReply(connection)] if connection else []
