"""Reading Kubernetes label selectors, and narrowing them to where a Cilium policy may look."""

from __future__ import annotations

from policies.labels import (
    ANY_SOURCE,
    CLUSTER_KEY,
    K8S,
    NAMESPACE_KEY,
    NAMESPACE_LABELS_PREFIX,
    RESERVED,
    Operator,
    Requirement,
    Selector,
    key_problem,
    label_is,
    split_selector_key,
    value_problem,
)
from policies.model import LabelPeer
from policies.reader import Field

_OPERATORS = {operator.value: operator for operator in Operator}


def read_selector(at: Field, source: str = "", key_prefix: str = "") -> Selector:
    """A label selector. ``source`` and ``key_prefix`` fix the keys' source and put words before
    them, for the kinds whose keys are plain Kubernetes keys; otherwise a key may name its source.
    """
    members = at.fields(("matchLabels", "matchExpressions"))
    found: list[Requirement] = []
    if "matchLabels" in members:
        for text, item in members["matchLabels"].entries():
            key = _key(text, item, source, key_prefix)
            value = item.string()
            if value is not None and (problem := value_problem(value)):
                item.error(problem)
            found.append(Requirement(*key, Operator.IN, frozenset({value or ""})))
    if "matchExpressions" in members:
        for item in members["matchExpressions"].items():
            requirement = _expression(item, source, key_prefix)
            if requirement is not None:
                found.append(requirement)
    return Selector(tuple(found))


def _key(text: str, at: Field, source: str, key_prefix: str) -> tuple[str, str]:
    found = (source, text) if source else split_selector_key(text)
    if problem := key_problem(found[1]):
        at.error(problem)
    return found[0], key_prefix + found[1]


def _expression(at: Field, source: str, key_prefix: str) -> Requirement | None:
    members = at.fields(("key", "operator", "values"))
    for needed in ("key", "operator"):
        if needed not in members:
            at.error(f"needs {needed}")
    if "key" not in members or "operator" not in members:
        return None
    text = members["key"].string()
    operator_text = members["operator"].one_of(_OPERATORS)
    values: set[str] = set()
    if "values" in members:
        for item in members["values"].items():
            value = item.string()
            if value is not None and (problem := value_problem(value)):
                item.error(problem)
            values.add(value or "")
    if text is None or operator_text is None:
        return None
    operator = _OPERATORS[operator_text]
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    if takes_values and not values:
        at.error(f"the operator {operator_text} needs values")
    if not takes_values and values:
        at.error(f"the operator {operator_text} takes no values")
    key = _key(text, members["key"], source, key_prefix)
    return Requirement(*key, operator, frozenset(values))


def subject_in_namespace(selector: Selector, namespace: str) -> Selector:
    """A CiliumNetworkPolicy's subject: always in the policy's own namespace.

    A requirement ``k8s:io.kubernetes.pod.namespace`` is replaced; the same key without its source
    stays, as a second requirement.
    """
    return selector.without(K8S, NAMESPACE_KEY).also(label_is(K8S, NAMESPACE_KEY, namespace))


def cilium_peer(selector: Selector, namespace: str, subject: Selector) -> LabelPeer:
    """An item of fromEndpoints or toEndpoints; ``namespace`` is empty for cluster-wide policies.

    Unless the selector says otherwise it looks into the policy's namespace, or, cluster-wide, at
    pods only. ``subject`` matters for cluster-wide policies on initialising endpoints.
    """
    any_cluster = selector.has_key(CLUSTER_KEY)
    if selector.has_source(RESERVED) or selector.has_key(NAMESPACE_KEY):
        return LabelPeer(selector, any_cluster)
    if namespace:
        if not selector.has_key_prefix(NAMESPACE_LABELS_PREFIX):
            selector = selector.also(label_is(K8S, NAMESPACE_KEY, namespace))
    elif not any(r.source == RESERVED and r.key == "init" for r in subject.requirements):
        selector = selector.also(Requirement(K8S, NAMESPACE_KEY, Operator.EXISTS))
    return LabelPeer(selector, any_cluster)


def plain_key(selector: Selector) -> Selector:
    """The selector with every source left open, for labels that have no source of their own."""
    return Selector(
        tuple(Requirement(ANY_SOURCE, r.key, r.operator, r.values) for r in selector.requirements)
    )
