"""Values by address prefix, asked for what lies inside a prefix and for what holds it.

What lies inside is one stretch of the prefixes in order; what holds a prefix is found by looking up
its own leading bits, once for each length that is in use. Neither looks at any other prefix.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from policies.labels import Network

_Value = TypeVar("_Value")
_LONGEST = 128


class Place(NamedTuple):
    """A prefix as a number of 128 bits or 32; a prefix sorts right before those inside it."""

    version: int
    first: int
    length: int


class PrefixMap(Generic[_Value]):
    """A mapping from prefixes; both families may be in it and never meet."""

    def __init__(self) -> None:
        self._values: dict[Place, _Value] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._ordered: list[Place] = []
        self._is_ordered = True

    def __len__(self) -> int:
        return len(self._values)

    def get(self, prefix: Network) -> _Value | None:
        """The value of exactly this prefix."""
        return self._values.get(_place(prefix))

    def put(self, prefix: Network, value: _Value) -> None:
        """Set a prefix's value, in place of one that it has."""
        place = _place(prefix)
        if place not in self._values:
            self._lengths[place.version, place.length] += 1
            self._ordered.append(place)
            self._is_ordered = False
        self._values[place] = value

    def drop(self, prefix: Network) -> None:
        """Forget a prefix. Raises KeyError when it is not there."""
        place = _place(prefix)
        del self._values[place]
        self._lengths[place.version, place.length] -= 1
        self._order()
        del self._ordered[bisect_left(self._ordered, place)]

    def inside(self, prefix: Network) -> list[tuple[Place, _Value]]:
        """The prefixes that lie inside this one, itself included, in order."""
        self._order()
        version, first, length = _place(prefix)
        last = first + (1 << (prefix.max_prefixlen - length)) - 1
        start = bisect_left(self._ordered, Place(version, first, length))
        end = bisect_right(self._ordered, Place(version, last, _LONGEST))
        return [(place, self._values[place]) for place in self._ordered[start:end]]

    def holding(self, prefix: Network) -> Iterator[_Value]:
        """The values of the prefixes that hold this one, itself included, longest first."""
        version, first, length = _place(prefix)
        for shorter in range(length, -1, -1):
            if self._lengths.get((version, shorter)):
                shift = prefix.max_prefixlen - shorter
                value = self._values.get(Place(version, first >> shift << shift, shorter))
                if value is not None:
                    yield value

    def _order(self) -> None:
        """Sorting late makes filling cheap: what is sorted already costs a look at each."""
        if not self._is_ordered:
            self._ordered.sort()
            self._is_ordered = True


def _place(prefix: Network) -> Place:
    return Place(prefix.version, int(prefix.network_address), prefix.prefixlen)
