"""DNS messages, octet by octet: what servers write, and what nobody should.

A `Message` keeps count of where names stand, so that a record's owner can be written as servers
write it: by the longest suffix that stands earlier in the message (RFC 1035 §4.1.4). Everything
else (pointers that lie, counts, lengths) is written by hand in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, DNAME, OPT = 1, 2, 5, 6, 12, 15, 16, 28, 39, 41
RRSIG, NSEC3, SVCB, HTTPS, ANY = 46, 50, 64, 65, 255
IN, CH = 1, 3
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
QUESTION = b"\xc0\x0c"


def name(text: str) -> bytes:
    """Wire form without compression."""
    labels = text.rstrip(".").split(".") if text.strip(".") else []
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in labels) + b"\0"


def header(
    ident: int = 0x1234,
    flags: int = RD,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
) -> bytes:
    return struct.pack("!6H", ident, flags, *counts)


def opt(options: bytes = b"", *, do: bool = False, owner: bytes = b"\0", size: int = 1232) -> bytes:
    return owner + struct.pack("!HHIH", OPT, size, 0x8000 if do else 0, len(options)) + options


def query(
    qname: str | bytes,
    qtype: int = A,
    *,
    ident: int = 0x1234,
    flags: int = RD,
    qclass: int = IN,
    additional: tuple[bytes, ...] = (),
    counts: tuple[int, int, int, int] | None = None,
    tail: bytes = b"",
) -> bytes:
    """``qname`` as octets is taken as it is."""
    wire = qname if isinstance(qname, bytes) else name(qname)
    counts = counts or (1, 0, 0, len(additional))
    question = wire + struct.pack("!HH", qtype, qclass)
    return header(ident, flags, counts) + question + b"".join(additional) + tail


def record(owner: bytes, rtype: int, ttl: int, data: bytes, *, rclass: int = IN) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, ttl & 0xFFFFFFFF, len(data)) + data


def address(owner: bytes, text: str, ttl: int = 300) -> bytes:
    packed = ip_address(text).packed
    return record(owner, A if len(packed) == 4 else AAAA, ttl, packed)


def parameters(*pairs: tuple[int, bytes]) -> bytes:
    """SvcParams as they are given (RFC 9460 §2.2)."""
    return b"".join(struct.pack("!HH", key, len(value)) + value for key, value in pairs)


def service(
    owner: bytes, ttl: int, params: bytes, *, priority: int = 1, target: bytes = b"\0"
) -> bytes:
    return record(owner, HTTPS, ttl, struct.pack("!H", priority) + target + params)


def hints(*texts: str) -> tuple[int, bytes]:
    packed = [ip_address(text).packed for text in texts]
    return (4 if len(packed[0]) == 4 else 6), b"".join(packed)


@dataclass(slots=True)
class Message:
    """A response under construction, with names compressed as servers do."""

    qname: str
    qtype: int = A
    ident: int = 0x1234
    flags: int = QR | RD | RA
    records: bytes = b""
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    places: dict[str, int] = field(default_factory=dict)
    question: bytes = b""

    def __post_init__(self) -> None:
        self.question = self.question or name(self.qname) + struct.pack("!HH", self.qtype, IN)
        self._note(self.qname.lower(), 12)

    @property
    def at(self) -> int:
        return 12 + len(self.question) + len(self.records)

    def _note(self, text: str, at: int) -> None:
        labels = text.rstrip(".").split(".") if text.strip(".") else []
        for number, label in enumerate(labels):
            self.places.setdefault(".".join(labels[number:]), at)
            at += len(label) + 1

    def compressed(self, text: str, at: int) -> bytes:
        """The name as it goes at that offset; its suffixes may be pointed to from then on."""
        labels = text.rstrip(".").split(".") if text.strip(".") else []
        out = b""
        for number, label in enumerate(labels):
            place = self.places.get(".".join(labels[number:]).lower())
            if place is not None:
                return out + struct.pack("!H", 0xC000 | place)
            self.places.setdefault(".".join(labels[number:]).lower(), at + len(out))
            out += bytes([len(label)]) + label.encode("latin-1")
        return out + b"\0"

    def add(self, owner: str, rtype: int, ttl: int, data: bytes, section: int = 0) -> Message:
        self.records += record(self.compressed(owner, self.at), rtype, ttl, data)
        self.counts[section] += 1
        return self

    def address(self, owner: str, text: str, ttl: int = 300, section: int = 0) -> Message:
        packed = ip_address(text).packed
        return self.add(owner, A if len(packed) == 4 else AAAA, ttl, packed, section)

    def names(
        self, owner: str, rtype: int, ttl: int, target: str, section: int = 0, before: bytes = b""
    ) -> Message:
        """A record whose data ends with a name that is compressed: CNAME, NS, MX."""
        head = self.compressed(owner, self.at)
        start = self.at + len(head) + 10 + len(before)
        data = before + self.compressed(target, start)
        self.records += record(head, rtype, ttl, data)
        self.counts[section] += 1
        return self

    def cname(self, owner: str, target: str, ttl: int = 300) -> Message:
        return self.names(owner, CNAME, ttl, target)

    def soa(self, owner: str, ttl: int = 900) -> Message:
        head = self.compressed(owner, self.at)
        start = self.at + len(head) + 10
        first = self.compressed(f"ns.{owner}", start)
        second = self.compressed(f"admin.{owner}", start + len(first))
        numbers = struct.pack("!5I", 1, 7200, 3600, 86400, 900)
        self.records += record(head, SOA, ttl, first + second + numbers)
        self.counts[1] += 1
        return self

    def edns(self, options: bytes = b"", *, do: bool = False) -> Message:
        self.records += opt(options, do=do)
        self.counts[2] += 1
        return self

    def raw(self, octets: bytes, section: int = 0, count: int = 1) -> Message:
        self.records += octets
        self.counts[section] += count
        return self

    def pack(self) -> bytes:
        answers, authorities, additionals = self.counts
        counts = (1, answers, authorities, additionals)
        return header(self.ident, self.flags, counts) + self.question + self.records
