"""Mutated queries and answers through the programs, held against the strict reader in Python.

    python -m tests.datapath.dns_fuzz [--count N] [--seconds S] [--seed N] [--workers N]

What must hold for every message, whatever it is:

* the kernel lets a query out only if the strict reader takes it and the rules allow its name, and
  what it notes is that name and its identity; it refuses only a name that the rules refuse, with
  the proxy's own octets; it asks the proxy only where its tree says so or the form is not its own;
* the kernel delivers an answer as it is only if the strict reader takes it as the answer to the
  query, has learned by then just the addresses that the strict reading gives, and none for longer;
  an answer of another form is delivered truncated or dropped, and nothing of it is learned.

Lets some 15,000 messages a second through on one core.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from dnsproxy.engine import _REFUSED_TEXT
from dnsproxy.reader import (
    CLASS_IN,
    HEADER_OCTETS,
    Malformed,
    QueryHead,
    question_matches,
    read_answer,
    read_query,
)
from dnsproxy.wire import ExtendedError, error_reply
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DNS_NAME_MAX,
    DnsExchange,
    DnsLearned,
    PlaceKey,
    address_bytes,
)
from fqdnwall.fqdn.ruleset import Action, compile_ruleset, judge, key_octets, labels_of
from policies import DnsRuleSet
from tests.datapath import packets as p
from tests.datapath import places
from tests.datapath.bench import CLIENT4, CLIENT6, ENDPOINT, SERVER4, SERVER6
from tests.datapath.dnsbench import RULE, DnsBench, selector
from tests.datapath.mutations import Mutator, Seed, answer_seeds, query_seeds

PASS, DROP, REDIRECT = 0xFFFFFFFF, 2, 7
RULES = (
    "www.example.com",
    "*.example.com",
    "**.deep.org",
    "api-*.star.net",
    "-.0",
    "_x._tcp.y",
    "a.b.c.example.net",
)
NAMES = (
    "www.example.com",
    "other.example.com",
    "a.b.example.com",
    "example.com",
    "x.deep.org",
    "x.y.deep.org",
    "deep.org",
    "api-1.star.net",
    "web.star.net",
    "-.0",
    "_x._tcp.y",
    "evil.org",
    "",
    "a.b.c.example.net",
    "a.b.d.example.net",
    ".".join(["a" * 63] * 3 + ["b" * 45, "deep.org"]),
    ".".join("abcdefghijklmnopqrstuvwxyz" * 4) + ".deep.org",
)
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
SIZES = {
    "conntrack": 1024,
    "learned": 64,
    "ipcache": 64,
    "events": 4096,
    "endpoints": 64,
    "answers": 128,
    "dns_names": 1024,
    "dns_exchanges": 1024,
    "dns_stats": 256,
}
ROOM = 65536


class Violation(AssertionError):
    """What must hold did not; the text has the message in hexadecimal."""


class Shot:
    """Frames through one program, without a copy more than needed."""

    def __init__(self, program_fd: int, templates: list[bytes]) -> None:
        self._fd = program_fd
        self._in = ctypes.create_string_buffer(ROOM)
        self._out = ctypes.create_string_buffer(ROOM)
        self._at_in = ctypes.addressof(self._in)
        self._at_out = ctypes.addressof(self._out)
        self._templates = templates
        self._options = libbpf._TestRunOptions(
            sz=ctypes.sizeof(libbpf._TestRunOptions), data_in=self._at_in, data_out=self._at_out
        )
        self._reference = ctypes.byref(self._options)
        self._call = libbpf._library().bpf_prog_test_run_opts

    def fire(self, which: int, message: bytes) -> tuple[int, bytes]:
        """The verdict, and the UDP payload afterwards."""
        frame = bytearray(self._templates[which])
        head, size = len(frame), len(message)
        struct.pack_into("!H", frame, head - 4, 8 + size)
        if head == 42:
            struct.pack_into("!H", frame, 16, 28 + size)
        else:
            struct.pack_into("!H", frame, 18, 8 + size)
        frame += message
        options = self._options
        ctypes.memmove(self._at_in, bytes(frame), len(frame))
        options.data_size_in = len(frame)
        options.data_size_out = ROOM
        options.repeat = 1
        if self._call(self._fd, self._reference):
            raise OSError(ctypes.get_errno(), "test run")
        payload = ctypes.string_at(self._at_out + head, max(0, options.data_size_out - head))
        return options.retval, payload


def template(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Everything before the payload; lengths are filled in later, checksums by nobody."""
    l4 = p.udp(source, destination, source_port, destination_port, b"")
    return p.frame(source, destination, l4)


PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
PORTS = (40000, 40001)


def _exchange(pair: tuple[str, str], port: int) -> DnsExchange:
    """A query of that client to that server."""
    client, server = map(address_bytes, pair)
    return DnsExchange(0, client, server, port, 53, 0x1234, 0, 7, 1, 0, 0, 0, b"", 0)


def _note(asked: DnsExchange, seed: Seed) -> bytes:
    """The exchange with the seed's question, behind its time."""
    query = read_query(seed.message[:2] + b"\1\0\0\1\0\0\0\0\0\0" + seed.question)
    name = key_octets(labels_of(query.qname))
    noted = replace(asked, type=query.qtype, name_size=len(name) + 1, name=name)
    return noted.pack()[8:]


class Queries:
    """One bench under queries."""

    def __init__(self, bench: DnsBench, number: int) -> None:
        bench.reset()
        bench.configure(events_per_second=0)
        bench.rules(*RULES)
        self._bench = bench
        self._mutator = Mutator(query_seeds(NAMES), number, names=True)
        self._dns = DnsRuleSet(tuple((selector(text), RULE) for text in RULES))
        self._fqdns = tuple(selector(text) for text in RULES)
        self._nodes = compile_ruleset(self._dns, self._fqdns)
        ends = [(pair, port) for pair in PAIRS for port in PORTS]
        self._shot = Shot(
            bench.datapath.programs["from_endpoint"],
            [template(client, server, port, 53) for (client, server), port in ends],
        )
        self._ends = [_exchange(pair, port) for pair, port in ends]
        self._places = lru_cache(1 << 16)(self._places_of)
        self._exchanges = bench.datapath.maps["dns_exchanges"]
        self._truth = lru_cache(1 << 16)(self._judge)
        self.counts: Counter[str] = Counter()

    def _judge(self, qname: str) -> tuple[Action, Action, int]:
        """By the selectors, by the tree, and the identity of the answer's addresses."""
        true = judge(self._dns, self._fqdns, qname)
        name = labels_of(qname)
        node = next(at for at in range(len(name) + 1) if name[at:] in self._nodes)
        found = self._nodes[name[node:]]
        walked = (found.exact, found.child, found.deeper)[min(node, 2)].action
        texts = [s.text for s in true.selectors]
        allowed = true.action is Action.ALLOW and texts and walked is Action.ALLOW
        return true.action, walked, self._bench.identity(*texts) if allowed else 0

    def _places_of(self, which: int, ident: bytes) -> list[bytes]:
        """Keys of where the query with this id may be noted."""
        noted = replace(self._ends[which], id=int.from_bytes(ident, "big"))
        return list(places.exchange_keys(ENDPOINT, noted))

    def one(self, number: int) -> None:
        _, message = self._mutator.mutate()
        which = number & 3
        verdict, payload = self._shot.fire(which, message)
        try:
            head: QueryHead | None = read_query(message)
        except Malformed:
            head = None
        if verdict == PASS:
            self.counts["query allowed"] += 1
            self._allowed(which, message, payload, head)
        elif verdict == REDIRECT:
            self.counts["query refused"] += 1
            self._refused(message, payload, head)
        else:
            self.counts["query asked"] += 1
            self._asked(message, head)

    def _allowed(self, which: int, message: bytes, payload: bytes, head: QueryHead | None) -> None:
        if head is None or head.qclass != CLASS_IN or head.qtype in (251, 252):
            raise Violation(f"let out: {message.hex()}")
        true, _, identity = self._truth(head.qname)
        if true is not Action.ALLOW:
            raise Violation(f"let out though refused: {head.qname} {message.hex()}")
        if payload != message:
            raise Violation(f"changed on its way: {message.hex()}")
        keys = self._places(which, message[:2])
        raws = [libbpf.lookup(self._exchanges, key, DnsExchange.size()) for key in keys]
        key, raw = next(((k, r) for k, r in zip(keys, raws, strict=True) if r), (b"", None))
        if raw is None:
            raise Violation(f"not noted: {message.hex()}")
        libbpf.delete(self._exchanges, key)
        noted = DnsExchange.unpack(raw)
        name = key_octets(labels_of(head.qname))
        if (noted.identity, noted.type, noted.name_size, noted.name.rstrip(b"\0")) != (
            identity,
            head.qtype,
            len(name) + 1,
            name.rstrip(b"\0"),
        ) or (noted.edns, noted.dnssec_ok) != (head.edns, head.dnssec_ok):
            raise Violation(f"noted otherwise: {noted} {message.hex()}")

    def _refused(self, message: bytes, payload: bytes, head: QueryHead | None) -> None:
        if head is None or head.qclass != CLASS_IN:
            raise Violation(f"refused though odd: {message.hex()}")
        true, walked, _ = self._truth(head.qname)
        if true is not Action.REFUSE or walked is not Action.REFUSE:
            raise Violation(f"refused though not refused: {head.qname} {message.hex()}")
        question = message[HEADER_OCTETS : head.end]
        if payload != error_reply(head, question, 5, ExtendedError.BLOCKED, _REFUSED_TEXT):
            raise Violation(f"another refusal: {payload.hex()} to {message.hex()}")

    def _asked(self, message: bytes, head: QueryHead | None) -> None:
        """A query of the kernel's own form is asked about only where the tree says so."""
        if head is None or head.qclass != CLASS_IN or head.qtype in (251, 252):
            return
        size = head.end - HEADER_OCTETS - 4
        if (
            size > DNS_NAME_MAX + 1
            or message[2] & 2
            or not PLAIN.issuperset(head.qname.replace(".", ""))
        ):
            return
        if int.from_bytes(message[10:12], "big") > 1 or not (head.edns or head.end == len(message)):
            return
        if head.edns and message[head.end] != 0:
            return  # a pointer to a root octet
        if self._truth(head.qname)[1] is not Action.ASK:
            raise Violation(f"asked though decided: {head.qname} {message.hex()}")


class Answers:
    """One bench under answers."""

    def __init__(self, bench: DnsBench, number: int) -> None:
        bench.reset()
        bench.configure(events_per_second=0)
        bench.rules("*")
        self._bench = bench
        seeds = answer_seeds()
        self._mutator = Mutator(seeds, number)
        self._fd = bench.datapath.maps["answers"]
        self._exchanges = bench.datapath.maps["dns_exchanges"]
        self._shot = Shot(
            bench.datapath.programs["to_endpoint"],
            [template(server, client, 53, PORTS[0]) for client, server in PAIRS],
        )
        self._keys = []
        self._noted: list[dict[bytes, bytes]] = []
        for pair in PAIRS:
            asked = _exchange(pair, PORTS[0])
            self._keys.append(next(iter(places.exchange_keys(ENDPOINT, asked))))
            self._noted.append({seed.question: _note(asked, seed) for seed in seeds})
        self._taken = _Take(self._fd)
        self.counts: Counter[str] = Counter()

    def one(self, number: int) -> None:
        seed, message = self._mutator.mutate()
        which = number & 1
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        noted = before.to_bytes(8, "little") + self._noted[which][seed.question]
        libbpf.update(self._exchanges, self._keys[which], noted)
        verdict, payload = self._shot.fire(which, message)
        if verdict == DROP:
            self.counts["answer dropped"] += 1
            if self._matches(message, seed.question):
                raise Violation(f"dropped: {message.hex()}")
            return
        if verdict != PASS or not self._matches(message, seed.question):
            raise Violation(f"delivered: {message.hex()}")
        learned = self._taken.all()
        if payload == message:
            self._delivered(message, 12 + len(seed.question), learned, before)
        else:
            self.counts["answer truncated"] += 1
            self._truncated(message, 12 + len(seed.question), payload, learned)

    def _matches(self, message: bytes, question: bytes) -> bool:
        """Whether the message says that it is the answer to the question."""
        return (
            len(message) >= HEADER_OCTETS
            and message[:2] == b"\x12\x34"
            and message[2] & 0xF8 == 0x80
            and question_matches(message, question)
        )

    def _delivered(
        self, message: bytes, end: int, learned: dict[bytes, tuple[int, int]], before: int
    ) -> None:
        if message[3] & 15 or message[6:8] == b"\0\0":
            self.counts["answer empty"] += 1
            if learned:
                raise Violation(f"learned of an empty answer: {message.hex()}")
            return
        try:
            answer = read_answer(message, end)
        except Malformed as error:
            raise Violation(f"delivered though {error}: {message.hex()}") from None
        self.counts["answer learned" if learned else "answer without addresses"] += 1
        if not answer.in_order:
            raise Violation(f"delivered out of order: {message.hex()}")
        truth = {address_bytes(address): ttl for address, ttl in answer.addresses}
        if learned.keys() != truth.keys():
            raise Violation(f"learned {learned.keys()}, not {truth.keys()}: {message.hex()}")
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for address, (identity, expires) in learned.items():
            if identity != 7 or not before <= expires <= now + truth[address] * 10**9:
                raise Violation(f"learned for too long: {message.hex()}")

    def _truncated(
        self, message: bytes, end: int, payload: bytes, learned: dict[bytes, tuple[int, int]]
    ) -> None:
        flags = bytes([message[2] | 2, message[3]])
        if payload != message[:2] + flags + b"\0\1\0\0\0\0\0\0" + message[12:end]:
            raise Violation(f"another truncation: {payload.hex()} of {message.hex()}")
        if learned:
            raise Violation(f"learned of what it did not deliver: {message.hex()}")


class _Take:
    """Reads and empties the map of learned addresses in one call."""

    def __init__(self, fd: int) -> None:
        room = 256
        self._fd = fd
        self._room = room
        self._keys = ctypes.create_string_buffer(room * PlaceKey.size())
        self._values = ctypes.create_string_buffer(room * DnsLearned.size())
        self._position = ctypes.create_string_buffer(64)
        self._options = libbpf._BatchOptions(sz=ctypes.sizeof(libbpf._BatchOptions))
        self._count = ctypes.c_uint32()
        self._call = libbpf._library().bpf_map_lookup_and_delete_batch

    def all(self) -> dict[bytes, tuple[int, int]]:
        """Address → identity and expiry (ns)."""
        self._count.value = self._room
        result = self._call(
            self._fd,
            None,
            self._position,
            self._keys,
            self._values,
            ctypes.byref(self._count),
            ctypes.byref(self._options),
        )
        if result and ctypes.get_errno() != 2:
            raise OSError(ctypes.get_errno(), "take")
        count = self._count.value
        if not count:
            return {}
        keys, values = self._keys.raw, self._values.raw
        found: dict[bytes, tuple[int, int]] = {}
        for at in range(count):
            (scope,) = struct.unpack_from("=I", keys, at * PlaceKey.size())
            address, identity, endpoint, expires = struct.unpack_from(
                "=16sIIQ", values, at * DnsLearned.size()
            )
            if (scope, endpoint) != (ENDPOINT, ENDPOINT) or address in found:
                raise Violation(f"an entry that nobody meant: {scope} {endpoint} {address.hex()}")
            found[address] = (identity, expires)
        return found


def run(instance: str, number: int, count: int, seconds: float = float("inf")) -> Counter[str]:
    """Half queries, half answers. Raises Violation."""
    bench = DnsBench(instance, SIZES)
    try:
        total: Counter[str] = Counter()
        for kind in (Queries, Answers):
            fuzz = kind(bench, number)
            one: Callable[[int], None] = fuzz.one
            end = time.monotonic() + seconds / 2
            done = 0
            while done < count // 2 and time.monotonic() < end:
                for at in range(min(1000, count // 2 - done)):
                    one(at)
                done += 1000
            total += fuzz.counts
        return total
    finally:
        bench.close()


def _worker(job: tuple[str, int, int, float]) -> Counter[str]:
    return run(*job)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dns_fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1 << 62, help="messages, in all")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    jobs = [
        (
            f"fuzz-{os.getpid()}-{n}",
            chosen.seed * 1000 + n,
            chosen.count // chosen.workers,
            chosen.seconds,
        )
        for n in range(chosen.workers)
    ]
    started = time.monotonic()
    with multiprocessing.Pool(chosen.workers) as pool:
        total: Counter[str] = sum(pool.map(_worker, jobs), Counter())
    took = time.monotonic() - started
    messages = sum(total.values())
    print(f"seed {chosen.seed}: {messages:,} messages in {took:.0f} s, no violation")
    for what, count in sorted(total.items()):
        print(f"  {count:>12,} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
