"""Ten thousand connections, each to an address learned a moment before from a TTL-1 answer.

    python tests/lab/fresh.py --server IP --count N [--at-once N] [--names N] [--a-second N]

For each of `count` turns: ask `--server` for the A record of a name in the rotating zone, open a
TCP connection to port 80 of the address in the answer, close it. Prints JSON: how many turns were
done, which failed and how, how many addresses were distinct, and the seconds it took. It imports
nothing of the project's: it is run under guard.
"""

from __future__ import annotations

import argparse
import collections
import json
import socket
import struct
import threading
import time

ANSWER_WITHIN_SECONDS = 3.0
CONNECT_WITHIN_SECONDS = 0.9  # less than a lost SYN takes to be sent again


def ask(udp: socket.socket, name: str, message_id: int) -> str:
    """The address in the answer. Raises OSError on silence, ValueError on another answer."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack("!6H", message_id, 0x0100, 1, 0, 0, 0) + question + b"\0\1\0\1"
    udp.send(query)
    answer = udp.recv(4096)
    if answer[:2] != query[:2] or answer[3] & 15 or answer[6:8] != b"\0\1":
        raise ValueError(f"unexpected answer for {name}: {answer[:12].hex()}")
    return socket.inet_ntoa(answer[-4:])


def turns(
    server: str,
    numbers: range,
    names: int,
    pause_seconds: float,
    tally: collections.Counter[str],
) -> set[str]:
    """Does the turns `numbers`, counting failures by kind; returns the addresses that it saw.

    With a pause, turns begin that far apart, as long as each is done in time.
    """
    seen = set()
    due = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(ANSWER_WITHIN_SECONDS)
        udp.connect((server, 53))
        for number in numbers:
            due += pause_seconds
            if pause_seconds:
                time.sleep(max(0.0, due - time.monotonic()))
            try:
                address = ask(udp, f"n{number % names}.fresh.example", number & 0xFFFF)
                seen.add(address)
                with socket.create_connection((address, 80), CONNECT_WITHIN_SECONDS):
                    tally["connected"] += 1
            except (OSError, ValueError) as error:
                tally[f"{type(error).__name__}: {error}"] += 1
    return seen


def main() -> None:
    """The command that the module's docstring shows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--a-second", type=float, default=0.0)
    chosen = parser.parse_args()
    tallies = [collections.Counter[str]() for _ in range(chosen.at_once)]
    seen: list[set[str]] = [set() for _ in range(chosen.at_once)]

    def work(worker: int) -> None:
        numbers = range(worker, chosen.count, chosen.at_once)
        pause = chosen.at_once / chosen.a_second if chosen.a_second else 0.0
        seen[worker] = turns(chosen.server, numbers, chosen.names, pause, tallies[worker])

    started = time.monotonic()
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(chosen.at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(tallies, collections.Counter[str]())
    connected = total.pop("connected", 0)
    result = {
        "connected": connected,
        "failed": dict(total),
        "distinct": len(set().union(*seen)),
        "seconds": round(time.monotonic() - started, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
