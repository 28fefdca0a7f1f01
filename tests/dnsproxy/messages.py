"""DNS messages written octet by octet, right and wrong ones; no codec that could correct them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

A, NS, CNAME, SOA, TXT, AAAA, OPT, SVCB, HTTPS, AXFR, ANY = 1, 2, 5, 6, 16, 28, 41, 64, 65, 252, 255
IN, CH = 1, 3
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)


def name(text: str | bytes) -> bytes:
    """The wire form of a name; nothing is checked."""
    octets = text.encode() if isinstance(text, str) else text
    labels = [label for label in octets.split(b".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def pointer(offset: int) -> bytes:
    return struct.pack("!H", 0xC000 | offset)


def question(qname: str | bytes, qtype: int = A, qclass: int = IN) -> bytes:
    return name(qname) + struct.pack("!HH", qtype, qclass)


def record(
    owner: str | bytes, rtype: int, rdata: bytes, ttl: int = 60, rclass: int = IN, lie: int = 0
) -> bytes:
    """A resource record; `lie` is added to RDLENGTH. An owner in bytes is in wire form already."""
    wire = name(owner) if isinstance(owner, str) else owner
    return wire + struct.pack("!HHIH", rtype, rclass, ttl, len(rdata) + lie) + rdata


def address(owner: str | bytes, text: str, ttl: int = 60) -> bytes:
    packed = ip_address(text).packed
    return record(owner, A if len(packed) == 4 else AAAA, packed, ttl)


def cname(owner: str | bytes, target: str | bytes, ttl: int = 60) -> bytes:
    return record(owner, CNAME, name(target) if isinstance(target, str) else target, ttl)


def service(
    owner: str | bytes, *params: tuple[int, bytes], priority: int = 1, rtype: int = HTTPS
) -> bytes:
    rdata = struct.pack("!H", priority) + name("")
    for key, value in params:
        rdata += struct.pack("!HH", key, len(value)) + value
    return record(owner, rtype, rdata)


def opt(options: bytes = b"", size: int = 1232, dnssec_ok: bool = False) -> bytes:
    ttl = 0x8000 if dnssec_ok else 0
    return b"\x00" + struct.pack("!HHIH", OPT, size, ttl, len(options)) + options


def message(
    message_id: int,
    flags: int,
    questions: tuple[bytes, ...] = (),
    answers: tuple[bytes, ...] = (),
    authorities: tuple[bytes, ...] = (),
    additionals: tuple[bytes, ...] = (),
    counts: tuple[int, int, int, int] | None = None,
    trailing: bytes = b"",
) -> bytes:
    """A message; `counts` replaces the true ones."""
    sections = (questions, answers, authorities, additionals)
    header = struct.pack("!6H", message_id, flags, *(counts or tuple(map(len, sections))))
    return header + b"".join(b"".join(section) for section in sections) + trailing


def query(
    qname: str | bytes,
    qtype: int = A,
    message_id: int = 0x0C11,
    edns: bool = False,
    flags: int = RD,
    qclass: int = IN,
) -> bytes:
    return message(
        message_id,
        flags,
        (question(qname, qtype, qclass),),
        additionals=(opt(),) if edns else (),
    )


def response(
    qname: str | bytes,
    *answers: bytes,
    qtype: int = A,
    message_id: int = 0,
    flags: int = QR | RD | RA,
) -> bytes:
    return message(message_id, flags, (question(qname, qtype),), answers)
