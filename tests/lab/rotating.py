"""An authoritative server whose every answer is an address that it never gave before.

`python -m tests.lab.rotating ADDRESS...` answers on UDP port 53 of each address, for any name: A
from `FRESH_V4`, AAAA from `FRESH_V6`, in order, starting anew after the last. Time to live is one
second; below the lasting zone it is an hour, and each answer has many addresses. Other types get an
empty answer. It is the worst case for a firewall that learns addresses,
and what no daemon of Debian's does, hence this one. Messages are written octet by octet (RFC 1035
§4): the benchmark's clients would otherwise measure this server.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address

from tests.lab.world import ADDRESSES_A_LASTING_ANSWER, FRESH_V4, FRESH_V6, LASTING_ZONE

TYPE_A, TYPE_AAAA = 1, 28
TTL_SECONDS, LASTING_TTL_SECONDS = 1, 3600
_HEADER = struct.Struct("!6H")
_POINTER_TO_QUESTION = 0xC00C
_LASTING = b"".join(bytes([len(part)]) + part.encode() for part in LASTING_ZONE.split(".")) + b"\0"


def addresses(network: IPv4Network | IPv6Network) -> Iterator[bytes]:
    """The packed addresses of `network` without its first, for ever, at most 2^20 apart."""
    size = min(network.num_addresses - 2, 1 << 20)
    width = network.max_prefixlen // 8
    first = int(network.network_address) + 1
    return (
        (first + offset).to_bytes(width, "big")
        for _ in itertools.repeat(None)
        for offset in range(size)
    )


def answer(query: bytes, fresh: dict[int, Callable[[], bytes]]) -> bytes | None:
    """The response to `query`, or None for what is not a query with one question."""
    if len(query) < _HEADER.size + 5:
        return None
    message_id, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & 0x8000 or questions != 1:
        return None
    end = query.find(b"\0", _HEADER.size) + 5
    question = query[_HEADER.size : end]
    (question_type,) = struct.unpack_from("!H", question, len(question) - 4)
    lasting = question[:-4].lower().endswith(_LASTING)
    count, ttl = (ADDRESSES_A_LASTING_ANSWER, LASTING_TTL_SECONDS) if lasting else (1, TTL_SECONDS)
    records = b""
    next_address = fresh.get(question_type)
    if next_address is None:
        count = 0
    else:
        width = 4 if question_type == TYPE_A else 16
        head = struct.pack("!HHHIH", _POINTER_TO_QUESTION, question_type, 1, ttl, width)
        records = b"".join(head + next_address() for _ in range(count))
    authoritative_response = 0x8400 | (flags & 0x0100)
    header = _HEADER.pack(message_id, authoritative_response, 1, count, 0, 0)
    return header + question + records


def serve(listen: list[str]) -> None:
    """Answers until it is ended by a signal."""
    fresh = {TYPE_A: addresses(FRESH_V4).__next__, TYPE_AAAA: addresses(FRESH_V6).__next__}
    selector = selectors.DefaultSelector()
    for text in listen:
        family = socket.AF_INET if ip_address(text).version == 4 else socket.AF_INET6
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((text, 53))
        selector.register(udp, selectors.EVENT_READ, udp)
    while True:
        for key, _ in selector.select():
            query, client = key.data.recvfrom(4096)
            response = answer(query, fresh)
            if response is not None:
                key.data.sendto(response, client)


if __name__ == "__main__":
    serve(sys.argv[1:])
