"""Policies and groups from several texts, as the objects of one cluster.

Objects of one kind, namespace and name are one object there. Of two in the texts the first counts,
and the other is an error that names both places: which of them was meant nobody can know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from policies.errors import PolicyError
from policies.model import CidrGroup, Policy, PolicyKey


class Together(NamedTuple):
    """``errors``: one for each object that stands in another one's place."""

    policies: tuple[Policy, ...]
    cidr_groups: tuple[CidrGroup, ...]
    errors: tuple[PolicyError, ...]


def told_apart(policies: Iterable[Policy], cidr_groups: Iterable[CidrGroup] = ()) -> Together:
    """The first object of each kind, namespace and name, in the order given."""
    found: dict[PolicyKey, Policy | CidrGroup] = {}
    errors: list[PolicyError] = []
    objects: tuple[Policy | CidrGroup, ...] = (*policies, *cidr_groups)
    for each in objects:
        first = found.setdefault(each.key, each)
        if first is not each:
            errors.append(_twice(each, first))
    kept = found.values()
    return Together(
        tuple(each for each in kept if isinstance(each, Policy)),
        tuple(each for each in kept if isinstance(each, CidrGroup)),
        tuple(errors),
    )


def _twice(second: Policy | CidrGroup, first: Policy | CidrGroup) -> PolicyError:
    where = f"{first.source}:{first.line}" if first.line else first.source
    message = f"{second.title} is at {where} already; give one of them another name"
    return PolicyError(second.source, second.line, "metadata.name", message)
