"""Under load, the agent and its proxy are killed at random moments, and nobody notices.

While an agent is dead, decided names are allowed, refused and learned by the kernel alone; while
one starts, it takes over. So not one query for a decided name fails, not one connection to an
address learned a moment before fails, and not one that is not allowed opens. By its nature this is
the kernel's path alone: a proxy that is dead answers nobody.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from tests.lab.daemons import REPOSITORY
from tests.lab.node import Node

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

KILLS = 20
QUERIES_A_SECOND = 5000
CONNECTIONS_A_SECOND = 500
SECONDS = 60
NAMES = ("api", "www", "brief", "v4only", "shared-a")
CLOSED = ("203.0.113.11", "203.0.113.90")


def test_twenty_kills_under_load_cost_the_kernels_dns_no_query_and_no_connection(
    node: Node,
) -> None:
    loads = Loads(node)
    chance = random.Random(1)
    end = time.monotonic() + SECONDS - 5
    kills = 0
    while kills < KILLS and time.monotonic() < end:
        time.sleep(chance.uniform(0.05, 1.0))
        node.kill()
        kills += 1
        time.sleep(chance.uniform(0.0, 0.4))
        node.start()
    dns, connections, knocks = loads.results()
    assert kills >= KILLS // 2, "this machine starts agents too slowly to say anything"
    assert "Queries lost:         0 " in dns, dns
    assert "NOERROR" in dns, dns
    assert "SERVFAIL" not in dns, dns
    assert "REFUSED" not in dns, dns
    assert connections["failed"] == {}, connections
    assert connections["connected"] == CONNECTIONS_A_SECOND * SECONDS
    assert knocks["knocks"] > 1000
    assert knocks["opened"] == 0


class Loads:
    """What runs in the container meanwhile."""

    def __init__(self, node: Node) -> None:
        server = node.lab.resolvers[0]
        names = node.directory / "names"
        names.write_text("".join(f"{name}.example.com A\n" for name in NAMES))
        python = sys.executable
        box = node.box.namespace
        rate = str(QUERIES_A_SECOND)
        # fmt: off
        self._dns = box.start(
            ["dnsperf", "-s", server, "-d", str(names), "-Q", rate, "-l", str(SECONDS), "-c", "4"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self._fresh = box.start(
            [python, str(REPOSITORY / "tests/lab/fresh.py"), "--server", server,
             "--count", str(CONNECTIONS_A_SECOND * SECONDS),
             "--a-second", str(CONNECTIONS_A_SECOND)],
            stdout=subprocess.PIPE,
        )
        self._denied = box.start(
            [python, str(REPOSITORY / "tests/chaos/denied.py"), str(SECONDS), *CLOSED],
            stdout=subprocess.PIPE,
        )
        # fmt: on

    def results(self) -> tuple[str, dict[str, object], dict[str, int]]:
        """dnsperf's report, and what the other two print."""
        dns = self._dns.communicate(timeout=SECONDS + 30)[0]
        fresh = json.loads(self._fresh.communicate(timeout=SECONDS + 60)[0])
        return dns, fresh, json.loads(self._denied.communicate(timeout=SECONDS + 30)[0])
