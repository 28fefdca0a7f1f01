"""One query on its way through the proxy, and the table of all of them with its bounds.

Invariant: the sums that the bounds look at are the sums over the table. Deadlines are in order of
arrival, because every exchange has the same time to live; the oldest is always in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from dnsproxy.config import EngineConfig
from dnsproxy.flows import Flow
from dnsproxy.metrics import Metrics
from dnsproxy.model import Failure, Learned, Query, Question, SocketAddress
from dnsproxy.reader import HEADER_OCTETS, QueryHead


@dataclass(slots=True, eq=False)
class Exchange:
    """`question_wire` is the client's question as it came, letter case and all.

    Without `reply` the upstream has not answered; with it, the kernel has not yet taken `learned`.
    The query's payload is not kept, as it may be long.
    """

    number: int
    client: SocketAddress
    connection: int
    head: QueryHead
    question: Question
    question_wire: bytes
    rule: str | None
    started: float
    deadline: float
    held_bytes: int
    flow: Flow | None = None
    dns_id: int = 0
    reply: bytes | None = None
    answered_at: float = 0.0
    learned: Learned | None = None


@dataclass(slots=True)
class _Usage:
    exchanges: int = 0
    held_bytes: int = 0


class ExchangeTable:
    """The exchanges in flight, in order of arrival."""

    def __init__(self, config: EngineConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._exchanges: dict[int, Exchange] = {}
        self._usage: dict[int, _Usage] = {}
        self._copies: dict[_CopyKey, int] = {}
        self._last_number = 0

    def get(self, number: int) -> Exchange | None:
        return self._exchanges.get(number)

    def over_bounds(self, question: Question, octets: int) -> Failure | None:
        """The bound that one more exchange of `octets` would break."""
        config, usage = self._config, self._usage.get(question.endpoint, _NOTHING)
        if len(self._exchanges) >= config.in_flight:
            return Failure.IN_FLIGHT
        if usage.exchanges >= config.in_flight_per_endpoint:
            return Failure.IN_FLIGHT_ENDPOINT
        if self._copies.get(_copy_key(question), 0) >= config.in_flight_per_question:
            return Failure.IN_FLIGHT_QUESTION
        if (
            self._metrics.pending_bytes + octets > config.pending_bytes
            or usage.held_bytes + octets > config.pending_bytes_per_endpoint
        ):
            return Failure.PENDING_BYTES
        return None

    def add(
        self, query: Query, head: QueryHead, question: Question, rule: str | None, now: float
    ) -> Exchange:
        self._last_number += 1
        exchange = Exchange(
            self._last_number,
            query.client,
            query.connection,
            head,
            question,
            query.payload[HEADER_OCTETS : head.end],
            rule,
            now,
            now + self._config.upstream_timeout_seconds,
            len(query.payload),
        )
        self._exchanges[exchange.number] = exchange
        usage = self._usage.setdefault(question.endpoint, _Usage())
        key = _copy_key(question)
        self._copies[key] = self._copies.get(key, 0) + 1
        usage.exchanges += 1
        usage.held_bytes += exchange.held_bytes
        self._metrics.in_flight += 1
        self._metrics.pending_bytes += exchange.held_bytes
        return exchange

    def hold(self, exchange: Exchange, reply: bytes) -> bool:
        """Keep the reply instead of the query; False when that breaks the bound on bytes."""
        more = len(reply) - exchange.held_bytes
        usage = self._usage[exchange.question.endpoint]
        if (
            self._metrics.pending_bytes + more > self._config.pending_bytes
            or usage.held_bytes + more > self._config.pending_bytes_per_endpoint
        ):
            return False
        usage.held_bytes += more
        exchange.reply = reply
        exchange.held_bytes += more
        self._metrics.pending_bytes += more
        return True

    def remove(self, exchange: Exchange) -> None:
        """Free the slot, and the id on the flow if it is still taken."""
        del self._exchanges[exchange.number]
        endpoint = exchange.question.endpoint
        usage = self._usage[endpoint]
        usage.exchanges -= 1
        usage.held_bytes -= exchange.held_bytes
        if not usage.exchanges:
            del self._usage[endpoint]
        key = _copy_key(exchange.question)
        copies = self._copies.pop(key) - 1
        if copies:
            self._copies[key] = copies
        self._metrics.in_flight -= 1
        self._metrics.pending_bytes -= exchange.held_bytes
        self.detach(exchange)

    def detach(self, exchange: Exchange) -> None:
        """Let no further message on the flow match this exchange."""
        if exchange.flow is not None:
            del exchange.flow.pending[exchange.dns_id]
            exchange.flow = None

    def expired(self, now: float) -> list[Exchange]:
        """Those that have waited too long for their server, or for the kernel."""
        patience = self._config.install_timeout_seconds
        due = takewhile(lambda exchange: exchange.deadline <= now, self._exchanges.values())
        return [
            exchange
            for exchange in due
            if exchange.reply is None or exchange.answered_at + patience <= now
        ]


_NOTHING = _Usage()
_CopyKey = tuple[int, SocketAddress, str, int]


def _copy_key(question: Question) -> _CopyKey:
    return question.endpoint, question.server, question.qname, question.qtype
