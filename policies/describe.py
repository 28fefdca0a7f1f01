"""Words for people about what policies select."""

from __future__ import annotations

from collections.abc import Iterable

from policies.labels import K8S, NAMESPACE_KEY, Operator, Requirement
from policies.model import Policy


def selecting_labels(policies: Iterable[Policy]) -> dict[str, str]:
    """For each policy, the labels (and the namespace) with which a subject would be selected."""
    return {policy.title: _of_policy(policy) for policy in policies}


def _of_policy(policy: Policy) -> str:
    texts = []
    for spec in policy.specs:
        own = [r for r in spec.subject.requirements if not _is_namespace(r, policy.namespace)]
        text = ", ".join(map(str, own)) or "any labels"
        if spec.on_nodes:
            text = f"nodes with {text}"
        elif policy.namespace:
            text = f"{text} in namespace {policy.namespace}"
        texts.append(text)
    return "; or ".join(dict.fromkeys(texts))


def _is_namespace(requirement: Requirement, namespace: str) -> bool:
    return requirement == Requirement(K8S, NAMESPACE_KEY, Operator.IN, frozenset({namespace}))
