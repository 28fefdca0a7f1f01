"""A strict reader for the parts of a DNS message that the proxy decides on (RFC 1035, 6891, 9460).

Contract: bytes in, values out, `Malformed` for everything that is not exactly a DNS message. What
it accepts has one reading only: every count is true, every length fits, names are at most 255
octets of labels of at most 63, pointers lead strictly backwards, and no octet is left over.

This is not a second codec. dnslib stays the codec (`dnsproxy.wire`), but cannot be the judge of
untrusted bytes. It accepts (0.9.26): label types 01 and 10 as lengths, names over 255 octets,
pointers into the header and from the question, octets after the last record, RDATA that a CNAME or
an SVCB record does not fill, and it refuses labels that are not UTF-8, which are legal. It is slow
too; `dnsproxy.wire` gives the figures.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dnsproxy.model import Address, DnsProxyError

TYPE_A: Final = 1
TYPE_CNAME: Final = 5
TYPE_AAAA: Final = 28
TYPE_OPT: Final = 41
TYPE_SVCB: Final = 64
TYPE_HTTPS: Final = 65
CLASS_IN: Final = 1

HEADER_OCTETS: Final = 12
FLAG_QR: Final = 0x8000
FLAG_TC: Final = 0x0200
OPCODE_MASK: Final = 0x7800
RCODE_MASK: Final = 0x000F

_MAX_NAME: Final = 255
_POINTER: Final = 0xC0
_HEADER: Final = struct.Struct("!6H")
_TWO: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_TTL_SIGN: Final = 0x80000000
_ADDRESS_OCTETS: Final = {TYPE_A: 4, TYPE_AAAA: 16}
_HINT_OCTETS: Final = {4: 4, 6: 16}  # SvcParamKeys ipv4hint and ipv6hint
_POINTER_TO_QUESTION: Final = b"\xc0\x0c"
_PLAIN_OPT: Final = b"\x00\x00\x29"  # the root's name, and the type
_MAX_JUMPS: Final = 64  # else a message of pointers to pointers would keep us busy for long
_PLAIN: Final = b"-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Malformed(DnsProxyError):
    """The bytes are not a DNS message of the kind asked for. The text says why."""


@dataclass(frozen=True, slots=True)
class QueryHead:
    """What a query asks. `end` is the offset just after the question.

    `edns` tells whether an OPT record was there, `dnssec_ok` its DO bit.
    """

    id: int
    flags: int
    qname: str
    qtype: int
    qclass: int
    end: int
    edns: bool
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer section gives for the name that was asked.

    `addresses` are distinct, in order of appearance, each with the least TTL (seconds) along the
    chain that leads to it. `in_order` is False when a record's owner is not the name that the
    chain has reached: then there are no addresses.
    """

    addresses: tuple[tuple[Address, int], ...]
    cname_chain: tuple[str, ...]
    in_order: bool


def read_query(message: bytes) -> QueryHead:
    """Read a query: QR 0, opcode 0, one question, nothing but additional records after it."""
    if len(message) < HEADER_OCTETS:
        raise Malformed("shorter than a header")
    query_id, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if flags & (FLAG_QR | OPCODE_MASK):
        raise Malformed("not a standard query")
    if questions != 1 or answers or authorities:
        raise Malformed("not exactly one question")
    try:
        qname, end = _read_question_name(message)
        qtype, qclass = _TWO.unpack_from(message, end)
        end += 4
        edns, dnssec_ok = _read_additional(message, end, additionals)
    except (IndexError, struct.error):
        raise Malformed("cut short") from None
    return QueryHead(query_id, flags, qname, qtype, qclass, end, edns, dnssec_ok)


def question_matches(message: bytes, question: bytes) -> bool:
    """Whether a response has exactly this one question; letter case in the name is no matter.

    `question` is the wire form of a question that `read_query` accepted (name, type, class).
    """
    end = HEADER_OCTETS + len(question)
    if message[4:6] != b"\x00\x01":
        return False
    echoed = message[HEADER_OCTETS:end]
    if echoed == question:
        return True
    # Length octets are below 64, so that lower() touches letters only; type and class stay as is.
    return echoed[-4:] == question[-4:] and echoed[:-4].lower() == question[:-4].lower()


def read_answer(message: bytes, question_end: int) -> Answer:
    """Read a response whose question has been compared, and has ended at `question_end`.

    All sections are walked, so that a message with lying counts gives nothing at all; only the
    answer section is read for addresses.
    """
    try:
        _, _, _, answers, authorities, additionals = _HEADER.unpack_from(message)
        reader = _AnswerReader(message)
        offset = reader.read_answers(question_end, answers)
        offset = _skip_records(message, offset, authorities)
        _read_additional(message, offset, additionals)
    except (IndexError, struct.error):
        raise Malformed("cut short") from None
    return reader.result()


class _AnswerReader:
    """Follows the chain through an answer section, record by record.

    Addresses are kept as octets until the end: 4 or 16 of them tell the family.
    """

    __slots__ = ("_chain", "_expected", "_found", "_in_order", "_least_ttl", "_message", "_qname")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._qname, _ = _read_name(message, HEADER_OCTETS)
        self._expected = self._qname
        self._least_ttl = _TTL_SIGN - 1
        self._found: dict[bytes, int] = {}
        self._chain: list[str] = []
        self._in_order = True

    def read_answers(self, offset: int, count: int) -> int:
        message = self._message
        for _ in range(count):
            if message[offset : offset + 2] == _POINTER_TO_QUESTION:  # nearly every owner
                owner, offset = self._qname, offset + 2
            else:
                owner, offset = _read_name(message, offset)
            rtype, rclass, ttl, length = _RECORD.unpack_from(message, offset)
            offset += 10
            end = offset + length
            if end > len(message):
                raise Malformed("RDLENGTH overruns the message")
            if rclass == CLASS_IN:
                if ttl & _TTL_SIGN:
                    ttl = 0  # RFC 2181 §8
                self._read_record(owner, rtype, ttl, offset, end)
            offset = end
        return offset

    def _read_record(self, owner: bytes, rtype: int, ttl: int, start: int, end: int) -> None:
        octets = _ADDRESS_OCTETS.get(rtype)
        if octets is not None:
            self._expect(owner)
            if end - start != octets:
                raise Malformed("address of the wrong length")
            self._add(self._message[start:end], ttl)
        elif rtype == TYPE_CNAME:
            self._expect(owner)
            target, after = _read_name(self._message, start)
            if after != end:
                raise Malformed("CNAME does not fill its RDATA")
            self._expected = target
            self._least_ttl = min(self._least_ttl, ttl)
            self._chain.append(_text(target))
        elif rtype in (TYPE_HTTPS, TYPE_SVCB):
            self._expect(owner)
            self._read_service(ttl, start, end)

    def _add(self, address: bytes, ttl: int) -> None:
        self._found[address] = min(ttl, self._least_ttl, self._found.get(address, ttl))

    def _expect(self, owner: bytes) -> None:
        if owner != self._expected:
            self._in_order = False

    def _read_service(self, ttl: int, start: int, end: int) -> None:
        """SvcPriority, TargetName without compression, then parameters in rising order."""
        message = self._message
        alias = message[start : start + 2] == b"\x00\x00"
        _, offset = _read_name(message, start + 2, compressed=False)
        previous = -1
        while offset < end:
            key, length = _TWO.unpack_from(message, offset)
            offset += 4
            if key <= previous or offset + length > end:
                raise Malformed("SvcParams out of order or too long")
            octets = None if alias else _HINT_OCTETS.get(key)
            if octets is not None:
                self._hints(octets, ttl, offset, offset + length)
            previous = key
            offset += length
        if offset != end:
            raise Malformed("SVCB does not fill its RDATA")

    def _hints(self, octets: int, ttl: int, start: int, end: int) -> None:
        if start == end or (end - start) % octets:
            raise Malformed("hints of the wrong length")
        for at in range(start, end, octets):
            self._add(self._message[at : at + octets], ttl)

    def result(self) -> Answer:
        if not self._in_order:
            return Answer((), tuple(self._chain), False)
        addresses: list[tuple[Address, int]] = [
            (IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets), ttl)
            for octets, ttl in self._found.items()
        ]
        return Answer(tuple(addresses), tuple(self._chain), True)


def _read_question_name(message: bytes) -> tuple[str, int]:
    """The asked name as text, and the offset after it. No compression: nothing is before it."""
    offset = HEADER_OCTETS
    length = message[offset]
    while length:
        if length > 63:
            raise Malformed("compression or label type in the question")
        offset += length + 1
        length = message[offset]
    offset += 1
    if offset - HEADER_OCTETS > _MAX_NAME:
        raise Malformed("name over 255 octets")
    return _text(message[HEADER_OCTETS:offset]), offset


def _read_name(message: bytes, offset: int, compressed: bool = True) -> tuple[bytes, int]:
    """A name in lower-case wire form without compression, and the offset after it in place.

    Each pointer must lead before the run of labels that it ends, so that the walk always ends.
    """
    labels = b""
    after = jumps = 0
    run = start = offset
    while True:
        length = message[offset]
        if length == 0:
            labels += message[start : offset + 1]
            break
        if length < 64:
            offset += length + 1
            if offset - start + len(labels) > _MAX_NAME:
                raise Malformed("name over 255 octets")
        elif length >= _POINTER and compressed:
            labels += message[start:offset]
            target = (length & 0x3F) << 8 | message[offset + 1]
            jumps += 1
            if target >= run or target < HEADER_OCTETS or jumps > _MAX_JUMPS:
                raise Malformed("pointer does not lead backwards, or one too many")
            after = after or offset + 2
            run = start = offset = target
        else:
            raise Malformed("compression or label type out of place")
    if len(labels) > _MAX_NAME:
        raise Malformed("name over 255 octets")
    return labels.lower(), after or offset + 1


def _skip_records(message: bytes, offset: int, count: int) -> int:
    for _ in range(count):
        _, offset = _read_name(message, offset)
        offset += 10 + _RECORD.unpack_from(message, offset)[3]
        if offset > len(message):
            raise Malformed("RDLENGTH overruns the message")
    return offset


def _read_additional(message: bytes, offset: int, count: int) -> tuple[bool, bool]:
    """Walk the last section to the message's very end: (an OPT record was there, its DO bit)."""
    edns = dnssec_ok = False
    for _ in range(count):
        if message[offset : offset + 3] == _PLAIN_OPT:
            owner, offset = b"\x00", offset + 1
        else:
            owner, offset = _read_name(message, offset)
        rtype, _, ttl, length = _RECORD.unpack_from(message, offset)
        offset += 10 + length
        if offset > len(message):
            raise Malformed("RDLENGTH overruns the message")
        if rtype == TYPE_OPT:
            if edns or owner != b"\x00":
                raise Malformed("second OPT, or OPT with a name")
            edns, dnssec_ok = True, bool(ttl & 0x8000)
    if offset != len(message):
        raise Malformed("octets after the last record")
    return edns, dnssec_ok


def _text(wire: bytes) -> str:
    """The text of a name in wire form without compression, as `dnsproxy.model` defines it."""
    if wire == b"\x00":
        return "."
    labels = []
    offset = 0
    while length := wire[offset]:
        label = wire[offset + 1 : offset + 1 + length]
        if label.translate(None, _PLAIN):
            labels.append("".join(chr(o) if o in _PLAIN else f"\\{o:03d}" for o in label))
        else:
            labels.append(label.decode("ascii"))
        offset += length + 1
    return ".".join(labels).lower()
