"""From a name to the identity of its addresses: one for each set of selectors it matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from policies import Identity, Labels, NameSelector
from policies.labels import FQDN, fqdn_labels

KERNEL_SLOTS: Final = 4

Slot = tuple[int, float]
"""(identity, expiry in seconds)."""


def labels_for(name: str, selectors: Sequence[NameSelector]) -> Labels | None:
    """The labels of the identity of the name's addresses; None when no selector matches it."""
    texts = [str(selector.text) for selector in selectors if selector.matches(name)]
    return fqdn_labels(texts) if texts else None


def fit(
    slots: Sequence[Slot],
    labels_of: Callable[[int], Labels],
    allocate: Callable[[Labels], Identity],
) -> tuple[Slot, ...]:
    """At most as many slots as the kernel has, ``slots`` given with the latest expiry first.

    Names beyond that share a slot whose identity stands for all of their selectors. The pair with
    the nearest expiries merges, and keeps the later one: a selector may then be honoured for as
    long as its neighbour's TTL, never without one.
    """
    kept = list(slots)
    while len(kept) > KERNEL_SLOTS:
        gaps = [kept[at][1] - kept[at + 1][1] for at in range(len(kept) - 1)]
        at = gaps.index(min(gaps))
        union = labels_of(kept[at][0]) | labels_of(kept[at + 1][0])
        merged = allocate(fqdn_labels(sorted(label.key for label in union if label.source == FQDN)))
        expiry = kept[at][1]
        kept[at : at + 2] = [(merged, expiry)]
        kept = _distinct(kept)
    return tuple(kept)


def _distinct(slots: Sequence[Slot]) -> list[Slot]:
    """One slot an identity, the latest expiry first."""
    latest: dict[int, float] = {}
    for identity, expiry in slots:
        latest[identity] = max(expiry, latest.get(identity, 0.0))
    return sorted(latest.items(), key=lambda slot: -slot[1])
