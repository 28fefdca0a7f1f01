"""The bench with DNS rules: trees of names, queries and answers as frames, and what was learned.

Nothing listens for the proxy: a query that the kernel hands to it is dropped because its socket is
not found, which is how `asked` knows.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from fqdnwall.agent.kerneldns import KernelDns, read_dns_event
from fqdnwall.agent.rulesets import RuleSets
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DnsExchange,
    DnsLearned,
    DnsPath,
    DropReason,
    Event,
    EventType,
    LearnedValue,
    PlaceKey,
    Verdict,
    address_bytes,
    bytes_address,
)
from fqdnwall.endpoint.policymap import RuleBook
from policies import (
    DnsRuleSet,
    Identity,
    Labels,
    NameSelector,
    RuleRef,
    fqdn_labels,
    name_selector,
    pattern_selector,
)
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath import places
from tests.datapath.bench import CLIENT4, ENDPOINT, SERVER4, SIZES, Bench, context, entry

RULE = RuleRef("p", "spec", "rule")
REFUSED, NXDOMAIN = 5, 3
PORT = 40000
DAY = 86_400
DNS_SIZES = {**SIZES, "answers": 256, "dns_names": 65536, "dns_exchanges": 4096, "dns_stats": 256}
_VERDICTS = {0xFFFFFFFF: "pass", 2: "drop", 7: "redirect"}


def selector(text: str) -> NameSelector:
    return pattern_selector(text) if "*" in text else name_selector(text)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a DNS message: the verdict, the frame after it, and what was said of it."""

    verdict: str
    frame: bytes
    mark: int
    reason: DropReason | None
    path: DnsPath | None
    event: KernelDns | None

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    @property
    def message(self) -> bytes:
        """The UDP payload."""
        return payload(self.frame)


def payload(frame: bytes) -> bytes:
    """Of UDP, behind a fixed IP header."""
    return frame[14 + (40 if frame[14] >> 4 == 6 else 20) + 8 :]


class DnsBench(Bench):
    """One endpoint whose UDP port 53 carries DNS rules."""

    def __init__(self, instance: str, sizes: dict[str, int] | None = None) -> None:
        self.rulesets: RuleSets | None = None
        self.refusal = REFUSED
        self.min_ttl, self.max_ttl = 0, DAY
        super().__init__(instance, DNS_SIZES if sizes is None else sizes)

    def reset(self) -> None:
        for name in ("answers", "dns_names", "dns_exchanges", "dns_stats", "dns_budgets"):
            self.clear(name)
        self.refusal, self.min_ttl, self.max_ttl = REFUSED, 0, DAY
        super().reset()
        self._numbers: dict[Labels, Identity] = {}
        self.rulesets = RuleSets(self.maps.dns_names, RuleBook(), self._identity)

    def _identity(self, labels: Labels) -> Identity:
        return self._numbers.setdefault(labels, Identity(0x0100_0001 + len(self._numbers)))

    def identity(self, *selectors: str) -> int:
        """The number of the names that just these `toFQDNs` selectors match."""
        return self._numbers[fqdn_labels(list(selectors))]

    def configure(self, dns_port: int = 0, *, events_per_second: int = 1 << 30) -> None:
        super().configure(dns_port, events_per_second=events_per_second)
        self.maps.set_config(
            replace(
                self.maps.config(),
                dns_enabled=1,
                dns_refusal=self.refusal,
                dns_min_ttl_seconds=self.min_ttl,
                dns_max_ttl_seconds=self.max_ttl,
                dns_events_per_second=events_per_second,
            )
        )

    def rules(self, *allowed: str, fqdns: tuple[str, ...] | None = None) -> int:
        """Allow these names to be asked for; by default they are `toFQDNs` selectors too."""
        assert self.rulesets is not None
        dns = DnsRuleSet(tuple((selector(text), RULE) for text in allowed))
        chosen = allowed if fqdns is None else fqdns
        number = self.rulesets.number(dns, tuple(selector(text) for text in chosen))
        self.policy(entry(0, Verdict.REDIRECT, protocol=17, port=53, rule=4, ruleset=number))
        return number

    def paths(self) -> dict[DnsPath, int]:
        """Of all endpoints together."""
        total: Counter[DnsPath] = Counter()
        for (_, path), count in self.maps.dns_counters().items():
            total[path] += count
        return dict(+total)

    def run(self, program: str, frame: bytes, **fields: int) -> Done:
        before = self.paths()
        self.records()
        run = libbpf.program_run(self.datapath.programs[program], frame, context(**fields))
        after = self.paths()
        changed = [path for path in after if after[path] != before.get(path, 0)]
        assert len(changed) <= 1, changed
        reason, event = None, None
        for raw in self.records():
            if len(raw) != Event.size():
                event = read_dns_event(raw)
            elif (said := Event.unpack(raw)).type == EventType.DROP:
                reason = DropReason(said.reason)
        verdict = _VERDICTS[run.verdict]
        mark = int.from_bytes(run.context[8:12], "little")
        path = changed[0] if changed else None
        return Done(verdict, run.packet, mark, reason if verdict == "drop" else None, path, event)

    def records(self) -> list[bytes]:
        """Of the ring, DNS events among them."""
        return list(self._ring.consume())

    def events(self) -> list[Event]:
        """Those that are not about DNS."""
        return [Event.unpack(raw) for raw in self.records() if len(raw) == Event.size()]

    def ask(
        self,
        message: bytes,
        *,
        client: str = CLIENT4,
        server: str = SERVER4,
        port: int = PORT,
        **fields: int,
    ) -> Done:
        """The endpoint sends the query."""
        frame = p.frame(client, server, p.udp(client, server, port, 53, message))
        return self.run("from_endpoint", frame, **fields)

    def answer(
        self,
        message: bytes,
        *,
        client: str = CLIENT4,
        server: str = SERVER4,
        port: int = PORT,
        server_port: int = 53,
        **fields: int,
    ) -> Done:
        """The answer is on its way to the endpoint."""
        frame = p.frame(server, client, p.udp(server, client, server_port, port, message))
        return self.run("to_endpoint", frame, **fields)

    def exchanges(self) -> list[tuple[int, DnsExchange]]:
        """The endpoint, and the query that it waits for."""
        fd = self.datapath.maps["dns_exchanges"]
        items = libbpf.all_items(fd, PlaceKey.size(), DnsExchange.size())
        return [(PlaceKey.unpack(key).owner, DnsExchange.unpack(value)) for key, value in items]

    def put_exchange(self, exchange: DnsExchange, endpoint: int = ENDPOINT) -> None:
        places.put_exchange(self.datapath.maps["dns_exchanges"], endpoint, exchange)

    def put_learned(self, address: str, identity: int, expires: int) -> None:
        """As if the endpoint had read it in an answer; ``expires`` in ns of the boot clock."""
        entry = DnsLearned(address_bytes(address), identity, ENDPOINT, expires)
        places.put_learned(self.datapath.maps["answers"], self.scope, entry)

    def slots(self, address: str) -> dict[int, float]:
        """What the address carries in the endpoint's scope: identity → seconds left."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for key, value in self.maps.answers.items():
            if key.scope == self.scope and str(bytes_address(key.address)) == address:
                return _seconds(value, now)
        return {}

    def learned(self) -> dict[IPv4Address | IPv6Address, dict[int, float]]:
        """Every address in the kernel's own map."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        items = list(self.maps.answers.items())
        assert all(key.scope == self.scope for key, _ in items)
        return {bytes_address(key.address): _seconds(value, now) for key, value in items}

    def was_asked(self, done: Done, path: DnsPath) -> bool:
        """The query went to the proxy for this reason."""
        return done.reason is DropReason.PROXY_LOOKUP_FAILED and done.path is path


def _seconds(value: LearnedValue, now: int) -> dict[int, float]:
    return {s.identity: (s.expires - now) / 1e9 for s in value.slots if s.identity}


def exchange(bench: DnsBench, qname: str, qtype: int = m.A, **fields: object) -> None:
    """A query that the kernel lets out and waits for the answer of."""
    done = bench.ask(m.query(qname, qtype), **fields)  # type: ignore[arg-type]
    assert (done.verdict, done.path) == ("pass", DnsPath.ALLOWED)


__all__ = ["ENDPOINT", "DnsBench", "Done", "exchange", "payload", "selector"]
