"""Messages that the proxy itself composes. The only module that imports dnslib.

A reply of ours is the client's header turned round, its question byte for byte, and at most an OPT
record with an Extended DNS Error (RFC 8914) if the client spoke EDNS. dnslib encodes the OPT record
once for each (code, text, DO); the rest is a splice, because the client's own letter case must come
back as it was, and because refusing must stay cheaper than asking.

Why dnslib does not read. What is learned or allowed must have one reading only, so `reader` walks
every octet itself, dnslib being lenient (its docstring says where); dnslib could then only repeat
what is known. And it costs too much: 15 µs to parse a query and 39 µs an answer of three records,
against 5 and 12 µs for the strict walk (dnslib 0.9.26, Python 3.11). Measured in the whole proxy
(`benchmarks/dns_proxy.py`), an exchange takes 63 to 68 µs of CPU as it is, and 133 µs with dnslib
parsing both messages besides: 15,000 a second on a core against 7,500, where 8,000 is the goal.
dnslib writes what we write, and in the tests it is the second opinion on every message.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

from dnslib import EDNS0, EDNSOption
from dnslib.label import DNSBuffer

from dnsproxy.reader import FLAG_QR, FLAG_TC, HEADER_OCTETS, OPCODE_MASK, QueryHead

_UDP_PAYLOAD_SIZE: Final = 1232  # what we say we take; as recommended since DNS flag day 2020
_EDE_OPTION: Final = 15
_FLAG_RA: Final = 0x0080
_KEPT_FLAGS: Final = 0x0110 | OPCODE_MASK  # RD and CD, and the opcode
_HEADER: Final = struct.Struct("!6H")


class Rcode(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


class ExtendedError(IntEnum):
    """INFO-CODEs of RFC 8914 §4 that the proxy gives."""

    OTHER = 0  # a bound is met, or the kernel did not take the addresses; the text says which
    BLOCKED = 15  # policy does not allow the name
    PROHIBITED = 18  # nobody's query, or a class or type that the proxy does not carry
    NETWORK_ERROR = 23  # the upstream cannot be reached
    INVALID_DATA = 24  # the upstream's answer is malformed


def error_reply(
    head: QueryHead, question: bytes, rcode: int, error: ExtendedError, text: str = ""
) -> bytes:
    """A reply with no records. `question` is the client's own, in wire form."""
    flags = FLAG_QR | head.flags & _KEPT_FLAGS | _FLAG_RA | rcode
    tail = _opt(error, text, head.dnssec_ok) if head.edns else b""
    return _HEADER.pack(head.id, flags, 1, 0, 0, 1 if head.edns else 0) + question + tail


def truncated_reply(head: QueryHead, question: bytes, upstream_flags: int) -> bytes:
    """The upstream's answer with TC set and its sections emptied: ask again over TCP."""
    flags = upstream_flags | FLAG_QR | FLAG_TC
    tail = _opt(None, "", head.dnssec_ok) if head.edns else b""
    return _HEADER.pack(head.id, flags, 1, 0, 0, 1 if head.edns else 0) + question + tail


def format_error(message: bytes) -> bytes | None:
    """The reply to what cannot be read: a header alone. None where there must be no reply.

    Nothing is said to a message that is itself a response (it could go on for ever), nor to one
    that has no header.
    """
    if len(message) < HEADER_OCTETS:
        return None
    query_id, flags = struct.unpack_from("!HH", message)
    if flags & FLAG_QR:
        return None
    rcode = Rcode.NOTIMP if flags & OPCODE_MASK else Rcode.FORMERR
    flags = FLAG_QR | flags & _KEPT_FLAGS | _FLAG_RA | rcode
    return _HEADER.pack(query_id, flags, 0, 0, 0, 0)


def cut_to_question(message: bytes) -> bytes:
    """A reply of ours or the upstream's, with TC set and all its records left out.

    For what does not fit the client's link: a proxy must not make fragments (RFC 9715 §3.1).
    """
    offset = HEADER_OCTETS
    while message[offset]:
        offset += message[offset] + 1
    return (
        message[:2]
        + bytes([message[2] | FLAG_TC >> 8, message[3]])
        + b"\x00\x01\x00\x00\x00\x00\x00\x00"
        + message[HEADER_OCTETS : offset + 5]
    )


@lru_cache(maxsize=64)
def _opt(error: ExtendedError | None, text: str, dnssec_ok: bool) -> bytes:
    options = []
    if error is not None:
        options.append(EDNSOption(_EDE_OPTION, struct.pack("!H", error) + text.encode()))
    record = EDNS0(udp_len=_UDP_PAYLOAD_SIZE, flags="do" if dnssec_ok else "", opts=options)
    buffer = DNSBuffer()
    record.pack(buffer)
    return bytes(buffer.data)
