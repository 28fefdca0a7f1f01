"""Names that share an address share the kernel's four slots without any losing its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.fqdn.identities import KERNEL_SLOTS, Slot, fit, labels_for
from policies import Identity, Labels, fqdn_labels, name_selector, pattern_selector


class Numbers:
    """Identities for sets of selectors, as the allocator gives them."""

    def __init__(self) -> None:
        self.of: dict[Labels, int] = {}

    def allocate(self, labels: Labels) -> Identity:
        return Identity(self.of.setdefault(labels, 100 + len(self.of)))

    def labels_of(self, number: int) -> Labels:
        return next(labels for labels, known in self.of.items() if known == number)

    def texts(self, number: int) -> set[str]:
        return {label.key for label in self.labels_of(number) if label.source == "fqdn"}


@given(
    st.dictionaries(
        st.frozensets(st.sampled_from("abcdefgh"), min_size=1, max_size=3),
        st.floats(1, 1000),
        max_size=9,
    )
)
def test_every_selector_is_honoured_for_its_time_at_least(
    wanted: dict[frozenset[str], float],
) -> None:
    numbers = Numbers()
    slots: list[Slot] = sorted(
        ((numbers.allocate(fqdn_labels(sorted(texts))), end) for texts, end in wanted.items()),
        key=lambda slot: -slot[1],
    )
    kept = fit(slots, numbers.labels_of, numbers.allocate)
    assert len(kept) <= KERNEL_SLOTS
    assert len({number for number, _ in kept}) == len(kept)
    assert [end for _, end in kept] == sorted((end for _, end in kept), reverse=True)
    for texts, end in wanted.items():
        for text in texts:
            assert max(e for number, e in kept if text in numbers.texts(number)) >= end
    every = set().union(*wanted) if wanted else set()
    assert set().union(*(numbers.texts(n) for n, _ in kept)) == every
    latest = max(wanted.values(), default=0)
    assert all(end <= latest for _, end in kept)
    if len(slots) <= KERNEL_SLOTS:
        assert kept == tuple(slots)


def test_a_names_labels_are_the_selectors_that_it_matches() -> None:
    selectors = [name_selector("api.example.com"), pattern_selector("*.example.com")]
    assert labels_for("api.example.com", selectors) == fqdn_labels(
        ["api.example.com", "*.example.com"]
    )
    assert labels_for("www.example.com", selectors) == fqdn_labels(["*.example.com"])
    assert labels_for("example.com", selectors) is None
