"""Gathers what a command asked, reached and was refused, bounded by distinct destinations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from dnsproxy.model import Answered, Failed, Judged, Record
from fqdnwall.agent.clock import rfc3339
from fqdnwall.agent.firewall import Firewall
from fqdnwall.agent.kerneldns import KernelDns
from fqdnwall.agent.translate import (
    ICMP_NUMBERS,
    names_of,
    protocol_name,
    qtype_name,
    reason_text,
)
from fqdnwall.api.models import Direction
from fqdnwall.api.report import (
    Connections,
    Drops,
    LearnedAddress,
    LearnedName,
    QueryCount,
    QueryOutcome,
)
from fqdnwall.datapath.layouts import (
    CtFlag,
    CtKey,
    CtValue,
    DnsPath,
    Event,
    EventType,
    bytes_address,
)
from fqdnwall.fqdn.cache import NAMES_TOLD
from fqdnwall.identity.allocator import label_texts

MAX_DISTINCT = 10_000
"""Entries of each list; what comes beyond is counted in ``omitted``."""
MAX_ADDRESSES = 50_000
"""Of all names together."""


@dataclass(frozen=True, slots=True)
class _Query:
    name: str
    qtype: int
    outcome: QueryOutcome
    rule: str
    server: str


@dataclass(frozen=True, slots=True)
class _Flow:
    address: bytes
    port: int
    protocol: int
    egress: bool
    rule: int
    identity: int


@dataclass(slots=True)
class _Tally:
    count: int = 0
    packets: int = 0
    bytes: int = 0
    first: float = 0.0
    last: float = 0.0


class Collector:
    """Fed with records; ``Firewall`` is asked for words when the report is made."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._queries: dict[_Query, int] = {}
        self._names: dict[str, dict[str, LearnedAddress]] = {}
        self._drops: dict[tuple[_Flow, int, bool], _Tally] = {}
        self._addresses = 0
        self.omitted: Counter[str] = Counter()

    def dns(self, record: Record, now: float) -> None:
        """A record of the proxy."""
        match record:
            case Judged(judgement=judgement):
                if judgement.rule is not None:
                    return
                outcome = QueryOutcome.AUDITED if judgement.allowed else QueryOutcome.REFUSED
                self._query(record, outcome, "")
            case Answered(question=question, rule=rule, learned=learned):
                if rule is not None:
                    self._query(record, QueryOutcome.ALLOWED, rule)
                if learned is not None:
                    self._learn(question.qname, learned.addresses, now)
            case Failed(question=question):
                if question is not None:
                    self._query(record, QueryOutcome.FAILED, "")

    def kernel_dns(self, event: KernelDns) -> None:
        """An exchange that the kernel settled."""
        if event.path is DnsPath.TRUNCATED:
            return  # the client asks again over TCP, and that counts
        refused = event.path is DnsPath.REFUSED
        outcome = QueryOutcome.REFUSED if refused else QueryOutcome.ALLOWED
        rule = "" if refused else self._firewall.rules.text(event.rule)
        self._count(_Query(event.qname, event.qtype, outcome, rule, event.server[0]))
        self._learn(event.qname, [(a, event.ttl) for a in event.addresses], event.at)

    def kernel(self, event: Event) -> None:
        """A record of the ring buffer."""
        if event.type != EventType.DROP:
            return
        icmp = event.protocol in ICMP_NUMBERS
        port = event.icmp_type if icmp else _peer_port(event)
        flow = _Flow(
            event.remote,
            port,
            event.protocol,
            bool(event.direction),
            event.rule,
            event.remote_identity,
        )
        key = (flow, event.reason, bool(event.audited))
        tally = self._drops.get(key)
        if tally is None:
            if len(self._drops) >= MAX_DISTINCT:
                self.omitted["drops"] += 1
                return
            tally = self._drops[key] = _Tally(first=event.time / 1e9)
        tally.packets += 1
        tally.last = event.time / 1e9

    def queries(self) -> tuple[QueryCount, ...]:
        found = [
            QueryCount(q.name, qtype_name(q.qtype), q.outcome, count, q.rule, q.server)
            for q, count in self._queries.items()
        ]
        return tuple(sorted(found, key=lambda q: (q.name, q.qtype, q.outcome)))

    def names(self, endpoint_id: int) -> tuple[LearnedName, ...]:
        learning = self._firewall.learning
        selectors = learning.selectors(learning.scope(endpoint_id))
        return tuple(
            LearnedName(
                name,
                tuple(sorted(addresses.values(), key=lambda a: ip_address(a.address).packed)),
                tuple(s.text for s in selectors if s.matches(name)),
            )
            for name, addresses in sorted(self._names.items())
        )

    def drops(self, endpoint_id: int, *, audited: bool) -> tuple[Drops, ...]:
        found = []
        past = self._past_names()
        for (flow, reason, was_audited), tally in self._drops.items():
            if was_audited is not audited:
                continue
            address = str(bytes_address(flow.address))
            found.append(
                Drops(
                    address=address,
                    port=flow.port,
                    protocol=protocol_name(flow.protocol),
                    reason=reason_text(reason),
                    reason_code=reason,
                    packets=tally.packets,
                    direction=_direction(flow),
                    names=self._names_of(endpoint_id, address, past),
                    labels=self._labels(flow),
                    rule=self._firewall.rules.text(flow.rule),
                    first_at=rfc3339(tally.first),
                    last_at=rfc3339(tally.last),
                )
            )
        return tuple(sorted(found, key=lambda d: -d.packets))

    def connections(
        self, endpoint_id: int, conntrack: Iterable[tuple[CtKey, CtValue]]
    ) -> tuple[Connections, ...]:
        """From conntrack, which still holds what has ended."""
        tallies: dict[_Flow, _Tally] = {}
        for key, value in conntrack:
            if key.endpoint != endpoint_id or value.flags & (CtFlag.AUDITED | CtFlag.DENIED):
                continue
            egress = not value.flags & CtFlag.INGRESS
            port = key.remote_port if egress else key.local_port
            icmp = key.protocol in ICMP_NUMBERS
            flow = _Flow(
                key.remote, 0 if icmp else port, key.protocol, egress, value.rule, value.identity
            )
            if flow not in tallies and len(tallies) >= MAX_DISTINCT:
                self.omitted["connections"] += 1
                continue
            tally = tallies.setdefault(flow, _Tally())
            tally.count += 1
            tally.packets += value.tx_packets + value.rx_packets
            tally.bytes += value.tx_bytes + value.rx_bytes
        past = self._past_names()
        found = [self._connections(endpoint_id, flow, t, past) for flow, t in tallies.items()]
        return tuple(sorted(found, key=lambda c: (c.names, c.address, c.port)))

    def _connections(
        self, endpoint_id: int, flow: _Flow, tally: _Tally, past: Mapping[str, Sequence[str]]
    ) -> Connections:
        address = str(bytes_address(flow.address))
        return Connections(
            address=address,
            port=flow.port,
            protocol=protocol_name(flow.protocol),
            connections=tally.count,
            packets=tally.packets,
            bytes=tally.bytes,
            direction=_direction(flow),
            names=self._names_of(endpoint_id, address, past),
            labels=self._labels(flow),
            rule=self._firewall.rules.text(flow.rule),
        )

    def _past_names(self) -> Mapping[str, Sequence[str]]:
        """By address, also those whose time is over: the report looks back."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            for address in self._names[name]:
                found[address].append(name)
        return found

    def _names_of(
        self, endpoint_id: int, address: str, past: Mapping[str, Sequence[str]]
    ) -> tuple[str, ...]:
        live = names_of(self._firewall, endpoint_id, address)
        return tuple(dict.fromkeys((*live, *past.get(address, ())[:NAMES_TOLD])))

    def _labels(self, flow: _Flow) -> tuple[str, ...]:
        return label_texts(self._firewall.allocator.labels_of(flow.identity))

    def _query(self, record: Record, outcome: QueryOutcome, rule: str) -> None:
        question = record.question
        if question is None:
            return
        self._count(_Query(question.qname, question.qtype, outcome, rule, question.server[0]))

    def _count(self, key: _Query) -> None:
        if key not in self._queries and len(self._queries) >= MAX_DISTINCT:
            self.omitted["queries"] += 1
            return
        self._queries[key] = self._queries.get(key, 0) + 1

    def _learn(self, name: str, addresses: Iterable[tuple[object, int]], now: float) -> None:
        addresses = list(addresses)
        if not addresses:
            return
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= MAX_DISTINCT:
                self.omitted["names"] += 1
                return
            known = self._names[name] = {}
        for address, ttl in addresses:
            text = str(address)
            if text not in known:
                if self._addresses >= MAX_ADDRESSES:
                    self.omitted["addresses"] += 1
                    continue
                self._addresses += 1
            known[text] = LearnedAddress(text, ttl, rfc3339(now + ttl))


def _peer_port(event: Event) -> int:
    return event.remote_port if event.direction else event.local_port


def _direction(flow: _Flow) -> Direction:
    return Direction.EGRESS if flow.egress else Direction.INGRESS
