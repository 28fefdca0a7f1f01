"""What the DNS proxy carries by itself: UDP queries a second, CPU a query, and latency added.

    sudo .venv/bin/python -m benchmarks.dns_proxy [--seconds N]

Three namespaces in a row, dnsperf, the proxy, Knot DNS; routing stands in for the datapath, so that
only the proxy is measured, with a judge that matches suffixes and an installer that does not wait.
dnsperf and Knot share one core, the proxy has another. "Direct" is the same path with the packets
forwarded by the proxy's namespace and no proxy. Latency is measured at 1,000 queries a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from dnsproxy import Judgement, Learned, Proxy, ProxyConfig, Question
from tests.dnsproxy.net import SERVER_V4, Net, net

NAMES = 2000
STEADY_RATE = 1000
_CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, PROXY_CORE = {_CORES[0]}, {_CORES[-1]}


class _Agent:
    """Judge, installer and endpoint look-up in one, as cheap as they can be.

    `waits`: addresses are installed by another task, as with an installer that must wait.
    """

    def __init__(self, waits: bool) -> None:
        self.waits = waits

    def judge(self, query: Question) -> Judgement:
        return Judgement(query.qname.endswith(".bench.test"), "bench")

    async def install(self, learned: Learned) -> None:
        return

    def install_now(self, learned: Learned) -> bool:
        return not self.waits

    def endpoint_of(self, address: str) -> int | None:
        return 1


def serve(waits: bool) -> None:
    """The proxy's own process. Prints "ready", and at SIGTERM what it used and counted."""
    agent = _Agent(waits)
    config = ProxyConfig(port=53, listen_ipv4="0.0.0.0", listen_ipv6=None)
    proxy = Proxy(agent, agent, agent, config)

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(proxy.serve)
                start = resource.getrusage(resource.RUSAGE_SELF)
                print("ready", flush=True)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()
        end = resource.getrusage(resource.RUSAGE_SELF)
        used = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
        metrics = proxy.metrics
        print(
            json.dumps(
                {
                    "queries": metrics.queries,
                    "answered": metrics.answered,
                    "cpu_microseconds": round(1e6 * used / max(1, metrics.queries), 1),
                    "system_share": round((end.ru_stime - start.ru_stime) / (used or 1), 2),
                    "flows_opened": metrics.flows_opened,
                    "resident_mebibytes": round(end.ru_maxrss / 1024),
                }
            )
        )

    trio.run(main)


@contextlib.contextmanager
def knot(made: Net, directory: Path) -> Iterator[None]:
    """Knot DNS in the server's namespace: `NAMES` names, two addresses each."""
    records = "".join(
        f"n{i} 60 A 192.0.2.{i % 250}\nn{i} 60 A 198.51.100.{i % 250}\n" for i in range(NAMES)
    )
    (directory / "zone").write_text(
        "$ORIGIN bench.test.\n@ 60 SOA ns h 1 60 60 60 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n"
        + records
    )
    (directory / "knot.conf").write_text(
        f"""server:
  rundir: {directory}
  listen: {SERVER_V4}@53
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: {directory}/knot.sock
database:
  storage: {directory}
zone:
  - domain: bench.test
    file: {directory}/zone
    journal-content: none
"""
    )
    command = ["/usr/sbin/knotd", "-c", str(directory / "knot.conf")]
    process = made.server.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, LOAD_CORE)
    try:
        _wait_for_answer(made)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for_answer(made: Net) -> None:
    with made.server.entered():
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    query = b"\0\1\0\0\0\1\0\0\0\0\0\0\2n0\5bench\4test\0\0\1\0\1"
    with probe:
        probe.settimeout(0.1)
        for _ in range(100):
            with contextlib.suppress(OSError):
                probe.sendto(query, (SERVER_V4, 53))
                probe.recv(512)
                return
    raise TimeoutError("Knot DNS does not answer")


def dnsperf(made: Net, directory: Path, seconds: int, *options: str) -> tuple[float, list[float]]:
    """Runs dnsperf: (answers a second, seconds that each answer took, sorted)."""
    names = directory / "names"
    names.write_text("".join(f"n{i}.bench.test A\n" for i in range(NAMES)))
    command = ["dnsperf", "-s", SERVER_V4, "-d", str(names), "-l", str(seconds), "-e", "-v"]
    os.sched_setaffinity(0, LOAD_CORE)
    output = made.client.run([*command, *options], timeout_seconds=seconds + 30).stdout
    rate = re.search(r"Queries per second:\s+([\d.]+)", output)
    assert rate, output[-2000:]
    took = sorted(float(t) for t in re.findall(r"^> NOERROR \S+ A ([\d.]+)$", output, re.MULTILINE))
    return float(rate[1]), took


@contextlib.contextmanager
def proxy(made: Net, role: str) -> Iterator[dict[str, float]]:
    """The proxy in its process; the dictionary is filled with its report at the end."""
    report: dict[str, float] = {}
    process = made.proxy.start(
        [sys.executable, "-m", "benchmarks.dns_proxy", role], stdout=subprocess.PIPE
    )
    os.sched_setaffinity(process.pid, PROXY_CORE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield report
    finally:
        process.terminate()
        with contextlib.suppress(ValueError):
            report.update(json.loads(process.stdout.read()))
        process.wait()


def measure(made: Net, directory: Path, seconds: int) -> dict[str, float]:
    rate, _ = dnsperf(made, directory, seconds, "-q", "50")
    _, took = dnsperf(made, directory, seconds, "-q", "50", "-Q", str(STEADY_RATE))
    return {
        "queries_per_second": round(rate),
        "median_milliseconds": round(1e3 * took[len(took) // 2], 3),
        "p99_milliseconds": round(1e3 * took[len(took) * 99 // 100], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["serve", "serve-waiting"])
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    if options.role:
        serve(waits=options.role == "serve-waiting")
        return
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with net(intercept=False) as made, knot(made, directory):
            results["direct"] = measure(made, directory, options.seconds)
        for name, role in (("proxy", "serve"), ("proxy, installer waits", "serve-waiting")):
            with net() as made, knot(made, directory), proxy(made, role) as report:
                through = measure(made, directory, options.seconds)
            direct = results["direct"]
            through["rate_of_direct"] = round(
                through["queries_per_second"] / direct["queries_per_second"], 3
            )
            through["p99_added_milliseconds"] = round(
                through["p99_milliseconds"] - direct["p99_milliseconds"], 3
            )
            results[name] = through | report
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
