"""DNS messages that are nearly right: seeds, and changes that know the form of a message.

`Seed` is a message taken apart into its records. `Mutator.mutate` changes some of them (others'
records spliced in, doubled, left out, put in another order), then octets: pointers led elsewhere,
counts, lengths and TTLs that lie, labels that grow, plain noise. Deterministic for a seed number.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnsproxy.reader import _read_name
from tests.datapath import messages as m

CORPUS = Path(__file__).parent / "corpus"
OCTETS = bytes([0, 1, 2, 3, 4, 5, 0x10, 0x29, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xFF])
SHORTS = [0, 1, 2, 3, 4, 5, 15, 16, 17, 28, 41, 64, 65, 255, 256, 0x7FFF, 0x8000, 0xFFFF]
TTLS = [0, 1, 2, 300, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@dataclass(frozen=True, slots=True)
class Seed:
    """A message and its parts: question, records with their section, octets that matter.

    ``places`` are offsets of type, class, TTL and length fields in ``message``.
    """

    message: bytes
    question: bytes
    records: tuple[tuple[int, bytes], ...]
    places: tuple[int, ...]


def seed_of(message: bytes) -> Seed:
    """Takes a well-formed message apart."""
    _, end = _read_name(message, 12)
    end += 4
    question, at = message[12:end], end
    records, places = [], []
    for section, count in enumerate(struct.unpack("!3H", message[6:12])):
        for _ in range(count):
            _, after = _read_name(message, at)
            (length,) = struct.unpack_from("!H", message, after + 8)
            places += [after, after + 2, after + 4, after + 8]
            records.append((section, message[at : after + 10 + length]))
            at = after + 10 + length
    assert at == len(message), "a seed has no octets left over"
    return Seed(message, question, tuple(records), tuple(places))


def answer_seeds() -> list[Seed]:
    """The corpus, and forms that its servers do not write."""
    found = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
    www = "www.example.com"
    chain = m.Message(www)
    for number in range(8):
        chain.cname(www if not number else f"n{number - 1}.example.com", f"n{number}.example.com")
    found.append(chain.address("n7.example.com", "192.0.2.9", 7).edns().pack())
    hints = m.parameters((1, b"\2h2"), m.hints("192.0.2.1", "192.0.2.2"), m.hints("2001:db8::1"))
    found.append(m.Message(www, m.HTTPS).raw(m.service(m.QUESTION, 60, hints)).edns().pack())
    alias = m.service(m.QUESTION, 60, hints, priority=0, target=m.name("svc.example.net"))
    found.append(m.Message(www, m.HTTPS).raw(alias).pack())
    pure = m.Message(www).raw(m.record(m.QUESTION, m.CNAME, 9, b"\xc0\x10"))
    found.append(pure.raw(m.address(b"\xc0\x10", "192.0.2.3", 5)).pack())
    many = m.Message(www)
    for number in range(64):
        many.address(www, f"192.0.2.{number}", number + 1)
    found.append(many.pack())
    whole = m.record(m.QUESTION, m.CNAME, 40, m.name("edge.example.net"))
    found.append(m.Message(www).raw(whole).raw(m.address(b"\xc0\x2d", "192.0.2.4")).pack())
    return [seed_of(b"\x12\x34" + message[2:]) for message in dict.fromkeys(found)]


def query_seeds(names: Sequence[str]) -> list[Seed]:
    found = []
    for number, qname in enumerate(names):
        extra = [(), (m.opt(),), (m.opt(b"\0\x0a\0\x08abcdefgh", do=True),)][number % 3]
        found.append(m.query(qname, [m.A, m.AAAA, m.HTTPS, 251][number % 4], additional=extra))
        found.append(m.query(qname.upper()))
    return [seed_of(message) for message in found]


class Mutator:
    """See the module."""

    def __init__(self, seeds: Sequence[Seed], number: int, *, names: bool = False) -> None:
        """``names``: change little, and mostly names."""
        self._seeds = seeds
        self._draw = random.Random(number)
        self._pick = self._draw.randrange
        self._changes = [
            self._octet,
            self._octet,
            self._bit,
            self._pointer,
            self._pointer,
            self._field,
            self._field,
            self._count,
            self._cut,
            self._insert,
            self._case,
            self._label,
        ]
        if names:
            self._changes += [self._case, self._label] * 6
        self._most = 2 if names else 3

    def mutate(self) -> tuple[Seed, bytes]:
        """A seed, and what became of it; now and then nothing did."""
        pick = self._pick
        seed = self._seeds[pick(len(self._seeds))]
        way = pick(8)
        if way < 3 and seed.records:
            message = bytearray(self._rearranged(seed))
        else:
            message = bytearray(seed.message)
        if way == 7:
            return seed, bytes(message)
        for _ in range(pick(4) if way < 3 else 1 + pick(self._most)):
            if len(message) > 12:
                self._changes[pick(len(self._changes))](seed, message)
        return seed, bytes(message)

    def _rearranged(self, seed: Seed) -> bytes:
        pick = self._pick
        records = list(seed.records)
        for _ in range(1 + pick(3)):
            way = pick(5)
            at = pick(len(records)) if records else 0
            if way == 0:
                other = self._seeds[pick(len(self._seeds))].records
                if other:
                    section, octets = other[pick(len(other))]
                    records.insert(at, (pick(3) if pick(2) else section, octets))
            elif way == 1 and records:
                records.insert(pick(len(records) + 1), records[at])
            elif way == 2 and records:
                del records[at]
            elif way == 3 and records:
                records.insert(pick(len(records)), records.pop(at))
            elif records:
                records[at] = (pick(3), records[at][1])
        records.sort(key=lambda record: record[0])
        counts = [sum(1 for section, _ in records if section == n) for n in range(3)]
        head = seed.message[:6] + struct.pack("!3H", *counts)
        return head + seed.question + b"".join(octets for _, octets in records)

    def _somewhere(self, seed: Seed, message: bytearray) -> int:
        """Mostly behind the question: what changes before it is soon no answer to anything."""
        start = 12 + len(seed.question)
        if start < len(message) and self._pick(4):
            return start + self._pick(len(message) - start)
        return self._pick(len(message))

    def _octet(self, seed: Seed, message: bytearray) -> None:
        message[self._somewhere(seed, message)] = OCTETS[self._pick(len(OCTETS))]

    def _bit(self, seed: Seed, message: bytearray) -> None:
        message[self._somewhere(seed, message)] ^= 1 << self._pick(8)

    def _pointer(self, seed: Seed, message: bytearray) -> None:
        """Leads a pointer elsewhere, mostly to somewhere near where a name is."""
        at = message.find(b"\xc0", self._pick(len(message)))
        if at < 0 or at + 1 >= len(message):
            at = self._pick(len(message) - 1)
        target = self._pick(len(message)) if self._pick(2) else 12 + self._pick(48)
        message[at] = 0xC0 | target >> 8 & 0x3F
        message[at + 1] = target & 0xFF

    def _field(self, seed: Seed, message: bytearray) -> None:
        if not seed.places:
            self._octet(seed, message)
            return
        which = self._pick(len(seed.places))
        at = seed.places[which]
        if which % 4 == 2:
            octets = TTLS[self._pick(len(TTLS))].to_bytes(4, "big")
        elif which % 4 == 3 and self._pick(2) and at + 1 < len(message):
            length = message[at] << 8 | message[at + 1]
            octets = (length - 3 + self._pick(7) & 0xFFFF).to_bytes(2, "big")
        else:
            octets = SHORTS[self._pick(len(SHORTS))].to_bytes(2, "big")
        if at + len(octets) <= len(message):
            message[at : at + len(octets)] = octets

    def _count(self, seed: Seed, message: bytearray) -> None:
        at = 4 + 2 * self._pick(4)
        if self._pick(2):
            message[at : at + 2] = SHORTS[self._pick(len(SHORTS))].to_bytes(2, "big")
        else:
            message[at + 1] = max(0, message[at + 1] - 1 + self._pick(3)) & 0xFF

    def _cut(self, seed: Seed, message: bytearray) -> None:
        if self._pick(2):
            del message[12 + self._pick(len(message) - 12) :]
        else:
            at = self._pick(len(message))
            del message[at : at + 1 + self._pick(4)]

    def _insert(self, seed: Seed, message: bytearray) -> None:
        octets = self._draw.randbytes(1 + self._pick(4))
        at = len(message) if self._pick(3) == 0 else self._pick(len(message))
        message[at:at] = octets

    def _case(self, seed: Seed, message: bytearray) -> None:
        end = min(len(message), 12 + len(seed.question))
        message[12:end] = message[12:end].swapcase()

    def _label(self, seed: Seed, message: bytearray) -> None:
        """A label's length in the question, or a character of it."""
        at = 12 + self._pick(min(len(message) - 12, len(seed.question)))
        message[at] = self._draw.choice(b"\0\1\2\3.-_aZ09\x07\x80\xff\x30\x2d")
