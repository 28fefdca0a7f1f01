"""What to write and what to delete so that a map holds what it should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """``put`` are new or changed, ``delete`` are no longer wanted."""

    put: Mapping[K, V]
    delete: frozenset[K]

    def __bool__(self) -> bool:
        return bool(self.put or self.delete)

    def only_adds(self, installed: Mapping[K, V]) -> bool:
        """Whether nothing that is installed changes or goes."""
        return not self.delete and not self.put.keys() & installed.keys()


def delta(desired: Mapping[K, V], installed: Mapping[K, V]) -> Delta[K, V]:
    return Delta(
        {key: value for key, value in desired.items() if installed.get(key) != value},
        frozenset(installed.keys() - desired.keys()),
    )
