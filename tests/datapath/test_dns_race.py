"""Two CPUs learn the same address, each for a name of its own, at the same time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from fqdnwall.datapath import libbpf
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, SERVER4
from tests.datapath.dnsbench import DNS_SIZES, DnsBench

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ADDRESSES, ROUNDS = 500, 20
FRESH = ("a.example.com", "b.example.com")
KNOWN = ("c.example.com", "d.example.com")
"""Learned when the first two have made the address known."""

Frames = list[tuple[bytes, bytes]]


@pytest.fixture
def roomy() -> Iterator[DnsBench]:
    sizes = {**DNS_SIZES, "answers": 65536}
    bench = DnsBench(f"test-race-{os.getpid()}", sizes)
    try:
        bench.configure(events_per_second=0)
        yield bench
    finally:
        bench.close()


def exchanges(qname: str, port: int) -> Frames:
    """A query and its answer for each address."""
    out = []
    for number in range(ADDRESSES):
        query = m.query(qname, ident=number)
        answer = m.Message(qname, ident=number)
        answer.address(qname, f"100.64.{number >> 8}.{number & 255}")
        out.append(
            (
                p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, port, 53, query)),
                p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 53, port, answer.pack())),
            )
        )
    return out


def run_both(bench: DnsBench, frames: list[Frames]) -> list[int]:
    """Each list on a CPU of its own, in step; how many answers were delivered as they came."""
    sends = bench.datapath.programs["from_endpoint"]
    receives = bench.datapath.programs["to_endpoint"]
    at, delivered = [0, 0], [0, 0]

    def run(me: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for number, (query, answer) in enumerate(frames[me]):
            libbpf.program_run(sends, query)
            at[me] = number
            while at[1 - me] < number:
                pass  # keep step
            delivered[me] += libbpf.program_run(receives, answer).packet == answer
        at[me] = ADDRESSES

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        cpus = sorted(os.sched_getaffinity(0))
        threads = [threading.Thread(target=run, args=(n, cpus[n])) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return delivered


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_no_name_is_lost(roomy: DnsBench) -> None:
    roomy.rules(*FRESH, *KNOWN)
    frames = {qname: exchanges(qname, 40000 + n) for n, qname in enumerate((*FRESH, *KNOWN))}
    for _ in range(ROUNDS):
        roomy.clear("answers")
        for names in (FRESH, KNOWN):
            delivered = run_both(roomy, [frames[qname] for qname in names])
            assert delivered == [ADDRESSES, ADDRESSES]
        learned = roomy.learned()
        assert len(learned) == ADDRESSES
        every = {roomy.identity(qname) for qname in frames}
        assert [address for address, slots in learned.items() if set(slots) != every] == []
