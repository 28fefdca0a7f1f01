"""What DNS costs in the kernel: ``python -m benchmarks.dns_kernel``, as root, on a quiet machine.

Queries and answers go through the programs by BPF_PROG_TEST_RUN, which reports the time that they
took. A query is run many times over; an answer once for each exchange that is noted for it, so that
its time holds the caches that Python left cold and the clock's reading. Then what users of others
complain about: very many names on one address, very many addresses on one name, and the memory.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Row, percentile
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import DnsLearned, PlaceKey
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6
from tests.datapath.dnsbench import PORT, DnsBench

SIZES = {"events": 1 << 20}
NAME = "www.example.com"
REPEATS = 200_000
SINGLES = 20_000
NAMES_ON_ONE_ADDRESS = 160_000
ADDRESSES_ON_ONE_NAME = 10_000
ADDRESSES_AN_ANSWER = 50
ENTRIES = 200_000
MEMORY_PER_ENTRY_OVER = 4096


@contextlib.contextmanager
def bench(*rules: str) -> Iterator[DnsBench]:
    """The programs with maps of the size that an agent gives them."""
    made = DnsBench(f"bench-{os.getpid()}", SIZES)
    try:
        made.configure(events_per_second=5_000)
        made.rules(*rules)
        yield made
    finally:
        made.close()


def frame_of_query(message: bytes, client: str = CLIENT4, server: str = SERVER4) -> bytes:
    return p.frame(client, server, p.udp(client, server, PORT, 53, message))


def frame_of_answer(message: bytes, client: str = CLIENT4, server: str = SERVER4) -> bytes:
    return p.frame(server, client, p.udp(server, client, 53, PORT, message))


class Exchanges:
    """Runs queries and answers; times in nanoseconds of the kernel's own clock."""

    def __init__(self, dns: DnsBench) -> None:
        self._dns = dns
        self._from = dns.datapath.programs["from_endpoint"]
        self._to = dns.datapath.programs["to_endpoint"]

    def query(self, frame: bytes, repeat: int = 1) -> int:
        run = libbpf.program_run(self._from, frame, repeat=repeat)
        assert run.verdict == 0xFFFFFFFF, "the query is let out"
        return run.nanoseconds

    def answer(self, frame: bytes) -> int:
        run = libbpf.program_run(self._to, frame)
        assert run.verdict == 0xFFFFFFFF, "the answer is delivered"
        assert run.packet == frame, "and not truncated"
        return run.nanoseconds

    def median_answer(self, query: bytes, answer: bytes) -> float:
        """Of answers that each have a query of their own before them."""
        times = []
        for number in range(SINGLES):
            self.query(query)
            times.append(self.answer(answer))
            if number % 256 == 0:
                self._dns.records()
        return statistics.median(times)


ANSWERS = {
    "1 address": m.Message(NAME).address(NAME, "203.0.113.1"),
    "2 addresses": m.Message(NAME).address(NAME, "203.0.113.1").address(NAME, "203.0.113.2"),
    "a chain of 2, 2 addresses, EDNS": m.Message(NAME)
    .cname(NAME, "edge.cdn.example.net")
    .cname("edge.cdn.example.net", "a7.cdn.example.net")
    .address("a7.cdn.example.net", "203.0.113.1")
    .address("a7.cdn.example.net", "203.0.113.2")
    .edns(),
    "no data": m.Message(NAME).soa("example.com").edns(),
}


def _times(dns: DnsBench) -> Iterator[Row]:
    exchanges = Exchanges(dns)
    query = m.query(NAME, additional=(m.opt(),))
    long = ".".join(["a" * 60] * 3 + ["example.com"])
    frames = {
        "www.example.com": frame_of_query(query),
        "www.example.com, IPv6": frame_of_query(query, CLIENT6, SERVER6),
        f"{len(long)} characters": frame_of_query(m.query(long)),
    }
    for what, frame in frames.items():
        yield Row(f"query, {what}", "ns", {"kernel": exchanges.query(frame, REPEATS)})
    for what, message in ANSWERS.items():
        frame = frame_of_answer(message.pack())
        taken = exchanges.median_answer(frame_of_query(query), frame)
        yield Row(f"answer, {what}", "ns", {"kernel": taken})
    many = m.Message(NAME)
    for number in range(64):
        many.address(NAME, f"203.0.113.{number}")
    taken = exchanges.median_answer(frame_of_query(query), frame_of_answer(many.pack()))
    yield Row("answer, 64 addresses", "ns", {"kernel": taken})


def _rows_of_times(what: str, times: Sequence[int]) -> list[Row]:
    ordered = sorted(times)
    return [
        Row(f"{what}, median", "µs", {"kernel": percentile(ordered, 0.5) / 1000}),
        Row(f"{what}, p99.9", "µs", {"kernel": percentile(ordered, 0.999) / 1000}),
        Row(f"{what}, longest", "µs", {"kernel": ordered[-1] / 1000}),
    ]


def _names_on_one_address(dns: DnsBench) -> list[Row]:
    exchanges = Exchanges(dns)
    times = []
    for number in range(NAMES_ON_ONE_ADDRESS):
        qname = f"n{number}.pool.example.com"
        spent = exchanges.query(frame_of_query(m.query(qname)))
        answer = m.Message(qname).address(qname, "203.0.113.1", 300)
        times.append(spent + exchanges.answer(frame_of_answer(answer.pack())))
        if number % 256 == 0:
            dns.records()
    assert len(dns.learned()) == 1
    return _rows_of_times(f"{NAMES_ON_ONE_ADDRESS:,} names on one address, an exchange", times)


def _addresses_on_one_name(dns: DnsBench) -> list[Row]:
    exchanges = Exchanges(dns)
    times = []
    for first in range(0, ADDRESSES_ON_ONE_NAME, ADDRESSES_AN_ANSWER):
        answer = m.Message(NAME)
        for number in range(first, first + ADDRESSES_AN_ANSWER):
            answer.address(NAME, f"100.64.{number >> 8}.{number & 255}", 300)
        spent = exchanges.query(frame_of_query(m.query(NAME)))
        times.append(spent + exchanges.answer(frame_of_answer(answer.pack())))
    assert len(dns.learned()) == ADDRESSES_ON_ONE_NAME
    return _rows_of_times(
        f"{ADDRESSES_ON_ONE_NAME:,} addresses on one name, an exchange of {ADDRESSES_AN_ANSWER}",
        times,
    )


def _memory_of(fd: int) -> int:
    """Bytes, as the kernel counts what a map holds (Linux 6.4)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("memlock:"):
            return int(line.split()[1])
    raise RuntimeError("no memlock in fdinfo")


def _slab_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("SUnreclaim:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no SUnreclaim in meminfo")


def _memory(dns: DnsBench) -> Iterator[Row]:
    """``slab`` is what the machine's memory lost meanwhile: others' changes are in it."""
    fd = dns.datapath.maps["answers"]
    value = DnsLearned(bytes(16), 1, 1, 1 << 62).pack()
    entries = [(PlaceKey(n >> 15, n & 0x7FFF).pack(), value) for n in range(ENTRIES)]
    counted, slab = _memory_of(fd), _slab_bytes()
    for at in range(0, ENTRIES, MEMORY_PER_ENTRY_OVER):
        libbpf.update_batch(fd, entries[at : at + MEMORY_PER_ENTRY_OVER])
    counted, slab = _memory_of(fd) - counted, _slab_bytes() - slab
    figures = {"counted": counted / ENTRIES, "slab": slab / ENTRIES}
    yield Row("memory of a learned address", "bytes", figures)


def measure() -> list[Row]:
    """All of the above, each on a bench of its own."""
    rows: list[Row] = []
    with bench("**.example.com", "api.github.com", "*.googleapis.com") as dns:
        rows += _times(dns)
    with bench("**.example.com") as dns:
        rows += _names_on_one_address(dns)
    with bench("**.example.com") as dns:
        rows += _addresses_on_one_name(dns)
    with bench("**.example.com") as dns:
        rows += _memory(dns)
    return rows


def main() -> int:
    started = time.monotonic()
    for row in measure():
        figures = ", ".join(f"{way} {value:,.1f}" for way, value in row.figures.items())
        print(f"{row.title}: {figures} {row.unit}")
    print(f"({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
