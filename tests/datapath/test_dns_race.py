"""Two CPUs learn the same fresh address, each for a name of its own, at the same time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fqdnwall.datapath import libbpf
from tests.datapath import messages as m
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, SERVER4
from tests.datapath.dnsbench import DNS_SIZES, DnsBench

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ADDRESSES = 15_000
NAMES = {"a.example.com": 1001, "b.example.com": 1002}


@pytest.fixture
def roomy() -> Iterator[DnsBench]:
    sizes = {**DNS_SIZES, "answers": 65536, "dns_exchanges": 65536}
    bench = DnsBench(f"test-race-{os.getpid()}", sizes)
    try:
        bench.configure(events_per_second=0)
        yield bench
    finally:
        bench.close()


def answers(bench: DnsBench, qname: str, port: int) -> list[bytes]:
    """A frame for each address, whose query has been noted under an id of its own."""
    bench.ask(m.query(qname), port=port)
    (noted,) = [item for item in bench.exchanges() if item[0].client_port == port]
    out = []
    for number in range(ADDRESSES):
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        bench.put_exchange(replace(noted[0], id=number), replace(noted[1], sent=now))
        answer = m.Message(qname, ident=number)
        answer.address(qname, f"100.64.{number >> 8}.{number & 255}")
        out.append(p.frame(SERVER4, CLIENT4, p.udp(SERVER4, CLIENT4, 53, port, answer.pack())))
    return out


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_neither_name_is_lost(roomy: DnsBench) -> None:
    roomy.rules(*NAMES)
    frames = [answers(roomy, qname, port) for qname, port in NAMES.items()]
    program = roomy.datapath.programs["to_endpoint"]
    at, delivered = [0, 0], [0, 0]

    def run(me: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for number, frame in enumerate(frames[me]):
            at[me] = number
            while at[1 - me] < number:
                pass  # keep step
            delivered[me] += libbpf.program_run(program, frame).packet == frame
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
    assert delivered == [ADDRESSES, ADDRESSES]
    both = {roomy.identity(qname) for qname in NAMES}
    learned = roomy.learned()
    assert len(learned) == ADDRESSES
    assert [address for address, slots in learned.items() if set(slots) != both] == []
