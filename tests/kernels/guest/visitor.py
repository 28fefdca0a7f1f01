"""The command that `fqdnwall run` guards in the smoke test: prints what it could and could not do.

`visitor.py SERVER NAME CLOSED`: it imports little, so that it starts soon.
"""

import socket
import sys

PATIENCE_SECONDS = 5.0
DROPPED_SECONDS = 1.0


def ask(server: str, name: str) -> tuple[int, str]:
    """The answer's RCODE, and its first address if it begins with one."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\1\2\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect((server, 53))
        sock.send(query)
        answer = sock.recv(512)
    record = answer[len(query) :]
    return answer[3] & 15, socket.inet_ntoa(record[12:16]) if len(record) >= 16 else ""


def connects(address: str, patience: float) -> bool:
    with socket.socket() as sock:
        sock.settimeout(patience)
        try:
            sock.connect((address, 80))
        except OSError:
            return False
    return True


def main() -> None:
    server, name, closed = sys.argv[1:]
    rcode, address = ask(server, name)
    said = [
        "" if rcode == 0 and connects(address, PATIENCE_SECONDS) else f"{name} is not reached",
        "" if ask(server, "www.example.org")[0] == 5 else "another name is not refused",
        "" if not connects(closed, DROPPED_SECONDS) else f"{closed} is reached",
    ]
    sys.exit("; ".join(filter(None, said)) or 0)


if __name__ == "__main__":
    main()
