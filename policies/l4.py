"""Protocol and port as the kernel's policy key sees them: prefixes that are nested or apart.

A prefix is (protocol, port, bits): ``bits`` leading bits of the 16-bit port count. Protocol 0 is
every protocol, and then nothing else counts. A range of ports becomes the fewest prefixes that
cover it, at most 30.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from policies.identity import Protocol


class L4(NamedTuple):
    """A set of (protocol, port) pairs that one key of the longest-prefix map can hold."""

    protocol: int
    port: int
    bits: int

    def covers(self, other: L4) -> bool:
        """Whether every pair of ``other`` is one of this."""
        if self.protocol == 0:
            return True
        if self.protocol != other.protocol or self.bits > other.bits:
            return False
        return self.port == other.port & _mask(self.bits)

    def has(self, protocol: int, port: int) -> bool:
        """Whether one packet's protocol and destination port (or ICMP type) lie inside."""
        if self.protocol == 0:
            return True
        return self.protocol == protocol and self.port == port & _mask(self.bits)

    @property
    def length(self) -> int:
        """Bits of the prefix beyond the identity, which the kernel compares at equal precedence."""
        return 0 if self.protocol == 0 else 8 + self.bits

    @property
    def last_port(self) -> int:
        return self.port | (0xFFFF >> self.bits)

    def __str__(self) -> str:
        if self.protocol == 0:
            return "any"
        name = Protocol(self.protocol).name
        if self.bits == 0:
            return f"{name}"
        ports = f"{self.port}" if self.bits == 16 else f"{self.port}-{self.last_port}"
        return f"{ports}/{name}"


ANYTHING: Final = L4(0, 0, 0)


def _mask(bits: int) -> int:
    return (0xFFFF << (16 - bits)) & 0xFFFF


@lru_cache(maxsize=1 << 16)
def ancestors(prefix: L4) -> tuple[L4, ...]:
    """Every prefix that covers this one, itself included, from the narrowest to ANYTHING."""
    if prefix.protocol == 0:
        return (ANYTHING,)
    own = [
        L4(prefix.protocol, prefix.port & _mask(bits), bits) for bits in range(prefix.bits, -1, -1)
    ]
    return (*own, ANYTHING)


@lru_cache(maxsize=1 << 14)
def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, bits) that cover exactly the ports ``first`` to ``last``."""
    found = []
    while first <= last:
        size = (first & -first) or 0x10000
        while first + size - 1 > last:
            size >>= 1
        found.append((first, 17 - size.bit_length()))
        first += size
    return tuple(found)
