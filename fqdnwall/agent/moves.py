"""Addresses that get another identity, on their way from the old policies to the new ones.

While policies are swapped endpoint by endpoint, an address must be judged by the old ones as the
identity that it had, and by the new ones as the one it gets. Either may be known to both, and be
other addresses' too. So what stands in ipcache meanwhile is, in this order:

    the new identity     where no address has it yet, so that the old policies may judge it as the
                         old one (``PoliciesInForce.inherit``), or where they do so anyway
    the old identity     where the new policies do not tell the two apart
    one of their own     with the new one's labels, and a label that says where it comes from: the
                         old policies judge it as the old identity, the new ones by its labels

Pure. An identity of the outside, which learned names open, stands in only where both are such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from fqdnwall.datapath.layouts import IpcacheKey, IpcacheValue
from fqdnwall.ipcache.desired import longest_match, prefix_of
from policies import Label, Labels
from policies.identity import WORLD, WORLD_IPV4, WORLD_IPV6
from policies.labels import RESERVED_LABELS

LOCAL_SCOPE = 24


@dataclass(frozen=True, slots=True)
class Move:
    """What the addresses of an ipcache key are, and what they will be."""

    former: int
    wanted: int


Alike = Callable[[int, int], bool]
"""Whether some policies judge two identities alike."""


def moves(
    put: Iterable[IpcacheKey],
    delete: Iterable[IpcacheKey],
    now: Callable[[IpcacheKey], IpcacheValue | None],
    wanted: Mapping[IpcacheKey, IpcacheValue],
) -> dict[IpcacheKey, Move]:
    """What moves when the keys of ``put`` are written and those of ``delete`` go.

    ``now`` is the longest match in the table as it is.
    """
    found = {}
    for key in (*put, *delete):
        move = Move(_identity(key, now(key)), _identity(key, longest_match(wanted, key)))
        if move.former != move.wanted:
            found[key] = move
    return found


def _identity(key: IpcacheKey, value: IpcacheValue | None) -> int:
    if value is not None:
        return value.identity
    return WORLD_IPV4 if prefix_of(key).version == 4 else WORLD_IPV6


class Ways:
    """How addresses move. ``own`` gives an identity of its own; ``in_use`` are addresses' now.

    ``parents``: identities that no address has yet, and whom the old policies must judge them as.
    """

    def __init__(
        self, in_use: Set[int], before: Alike, after: Alike, own: Callable[[Move], int]
    ) -> None:
        self._in_use = in_use
        self._before = before
        self._after = after
        self._own = own
        self._known: dict[Move, int] = {}
        self.parents: dict[int, int] = {}

    def identity(self, move: Move) -> int:
        """Of the move's addresses while policies are swapped."""
        if move not in self._known:
            self._known[move] = self._find(move)
        return self._known[move]

    def _find(self, move: Move) -> int:
        former, wanted = move.former, move.wanted
        if (is_outside(former) or not is_outside(wanted)) and self._is_before(wanted, former):
            return wanted
        if (is_outside(wanted) or not is_outside(former)) and self._after(former, wanted):
            return former
        number = self._own(move)
        self.parents[number] = former
        return number

    def _is_before(self, wanted: int, former: int) -> bool:
        """Whether the old policies judge one as the other, or may be taught to."""
        if wanted not in self._in_use and wanted not in RESERVED_LABELS:
            wanted = self.parents.setdefault(wanted, former)
        return self._before(wanted, former)


def is_outside(identity: int) -> bool:
    """As the datapath sees it (``bpf/lib/policy.h``)."""
    return identity in (WORLD, WORLD_IPV4, WORLD_IPV6) or identity >> LOCAL_SCOPE == 1


def own_labels(move: Move, labels: Labels) -> Labels:
    """Of an identity that stands in for ``wanted``, whose labels are given."""
    return labels | {Label("fqdnwall", "moved-from", str(move.former))}
