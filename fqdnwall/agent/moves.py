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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Ways:
    """``meanwhile`` is the identity of each key; ``parents`` whom the old policies judge it as."""

    meanwhile: dict[IpcacheKey, int] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)


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


def ways(
    moving: Mapping[IpcacheKey, Move],
    in_use: set[int],
    alike_before: Alike,
    alike_after: Alike,
    own: Callable[[Move], int],
) -> Ways:
    """The way of each move. ``own`` gives an identity of its own; ``in_use`` are addresses'."""
    found = Ways()
    chosen: dict[Move, int] = {}
    for key, move in moving.items():
        if move not in chosen:
            chosen[move] = _way(move, in_use, alike_before, alike_after, own, found.parents)
        found.meanwhile[key] = chosen[move]
    return found


def _way(
    move: Move,
    in_use: set[int],
    alike_before: Alike,
    alike_after: Alike,
    own: Callable[[Move], int],
    parents: dict[int, int],
) -> int:
    former, wanted = move.former, move.wanted
    may_be_new = is_outside(former) or not is_outside(wanted)
    may_be_old = is_outside(wanted) or not is_outside(former)
    may_inherit = wanted not in in_use and wanted not in RESERVED_LABELS
    may_be_new = may_be_new and (may_inherit or alike_before(former, wanted))
    if may_be_new and parents.setdefault(wanted, former) == former:
        return wanted
    if may_be_old and alike_after(former, wanted):
        return former
    number = own(move)
    parents[number] = former
    return number


def is_outside(identity: int) -> bool:
    """As the datapath sees it (``bpf/lib/policy.h``)."""
    return identity in (WORLD, WORLD_IPV4, WORLD_IPV6) or identity >> LOCAL_SCOPE == 1


def own_labels(move: Move, labels: Labels) -> Labels:
    """Of an identity that stands in for ``wanted``, whose labels are given."""
    return labels | {Label("fqdnwall", "moved-from", str(move.former))}
