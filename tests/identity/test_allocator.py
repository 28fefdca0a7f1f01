"""The same labels have the same number, across agents, and no number means two things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqdnwall.identity.allocator import (
    Allocator,
    IdentitiesExhausted,
    Scope,
)
from policies import Identity, Labels, fqdn_labels, pod_labels
from policies.identity import HOST, WORLD
from policies.labels import RESERVED_LABELS


def names(number: int) -> Labels:
    return fqdn_labels([f"n{number}.com"])


def pods(number: int) -> Labels:
    return pod_labels((f"app=a{number}",), "default", cluster="default")


def test_reserved_labels_have_ciliums_numbers_and_keep_them() -> None:
    allocator = Allocator()
    assert allocator.allocate(RESERVED_LABELS[HOST], Scope.LOCAL) == HOST == 1
    allocator.release(WORLD)
    assert allocator.labels_of(WORLD) == RESERVED_LABELS[WORLD]


def test_numbers_are_of_their_scope() -> None:
    allocator = Allocator()
    assert allocator.allocate(pods(1), Scope.CLUSTER) == 256
    assert allocator.allocate(names(1), Scope.LOCAL) == 1 << 24 | 1


def test_labels_get_their_number_again_after_release() -> None:
    allocator = Allocator()
    first = allocator.allocate(names(1), Scope.LOCAL)
    allocator.release(first)
    assert allocator.allocate(names(2), Scope.LOCAL) != first
    assert allocator.allocate(names(1), Scope.LOCAL) == first


def test_labels_get_the_number_that_an_earlier_agent_gave() -> None:
    allocator = Allocator({names(1): Identity(1 << 24 | 9), names(2): Identity(1 << 24 | 1)})
    assert allocator.allocate(names(3), Scope.LOCAL) == 1 << 24 | 2
    assert allocator.allocate(names(1), Scope.LOCAL) == 1 << 24 | 9
    assert allocator.allocate(names(2), Scope.LOCAL) == 1 << 24 | 1


@pytest.mark.slow
def test_a_number_that_is_only_remembered_is_given_to_others_when_there_is_no_other() -> None:
    allocator = Allocator()
    first, last = Scope.CLUSTER.value
    numbers = [allocator.allocate(pods(i), Scope.CLUSTER) for i in range(last - first + 1)]
    with pytest.raises(IdentitiesExhausted):
        allocator.allocate(pods(-1), Scope.CLUSTER)
    allocator.release(numbers[5])
    assert allocator.allocate(pods(-1), Scope.CLUSTER) == numbers[5]
    with pytest.raises(IdentitiesExhausted):
        allocator.allocate(pods(5), Scope.CLUSTER)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_no_two_sets_of_labels_share_a_number(steps: list[tuple[bool, int]]) -> None:
    allocator = Allocator()
    held: dict[Labels, Identity] = {}
    for give, which in steps:
        labels = names(which)
        if give:
            held[labels] = allocator.allocate(labels, Scope.LOCAL)
        elif labels in held:
            allocator.release(held.pop(labels))
        assert len(set(held.values())) == len(held)
        for known, number in held.items():
            assert allocator.find(known) == number
            assert allocator.labels_of(number) == known
    assert set(allocator.identities) == {*RESERVED_LABELS, *held.values()}
