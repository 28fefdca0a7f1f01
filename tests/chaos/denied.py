"""Knocks at addresses that no rule allows; says how many opened: `denied.py SECONDS ADDRESS...`.

It imports nothing of the project's: it runs under guard.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

AT_ONCE = 32
WAIT_SECONDS = 0.2


def knock(addresses: list[str]) -> int:
    """How many of some connections that begin together are open a moment later."""
    sockets = []
    for at in range(AT_ONCE):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((addresses[at % len(addresses)], 80))
        sockets.append(sock)
    _, writable, _ = select.select([], sockets, [], WAIT_SECONDS)
    opened = sum(1 for sock in writable if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    for sock in sockets:
        sock.close()
    return opened


def main() -> None:
    end = time.monotonic() + float(sys.argv[1])
    knocks = opened = 0
    while time.monotonic() < end:
        opened += knock(sys.argv[2:])
        knocks += AT_ONCE
    print(json.dumps({"knocks": knocks, "opened": opened}))


if __name__ == "__main__":
    main()
