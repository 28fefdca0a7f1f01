"""From text to policies: every document of every kind, and all errors at once.

A document with an error gives no policy; the documents beside it are not touched by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from policies.cilium import read_cidr_group, read_cilium_policy
from policies.document import Mapping as MappingNode
from policies.document import Node, from_value, load_documents
from policies.errors import PolicyError
from policies.kubernetes import read_network_policy
from policies.metadata import Metadata, read_metadata
from policies.model import CidrGroup, Policy
from policies.reader import Field, Problems
from policies.tiers import read_admin_policy, read_baseline_policy, read_cluster_policy
from policies.together import told_apart


@dataclass(frozen=True, slots=True)
class ParseResult:
    """What a text holds. ``errors`` empty means that all of it was understood."""

    policies: tuple[Policy, ...]
    errors: tuple[PolicyError, ...]
    cidr_groups: tuple[CidrGroup, ...] = ()


Parsed: TypeAlias = Policy | CidrGroup
_Reader: TypeAlias = Callable[[dict[str, Field], Field, Metadata], Parsed]


@dataclass(frozen=True, slots=True)
class _Kind:
    api_versions: tuple[str, ...]
    namespaced: bool
    fields: tuple[str, ...]
    read: _Reader


_KINDS: Final[dict[str, _Kind]] = {
    "CiliumNetworkPolicy": _Kind(("cilium.io/v2",), True, ("spec", "specs"), read_cilium_policy),
    "CiliumClusterwideNetworkPolicy": _Kind(
        ("cilium.io/v2",), False, ("spec", "specs"), read_cilium_policy
    ),
    "NetworkPolicy": _Kind(("networking.k8s.io/v1",), True, ("spec",), read_network_policy),
    "ClusterNetworkPolicy": _Kind(
        ("policy.networking.k8s.io/v1alpha2",), False, ("spec",), read_cluster_policy
    ),
    "AdminNetworkPolicy": _Kind(
        ("policy.networking.k8s.io/v1alpha1",), False, ("spec",), read_admin_policy
    ),
    "BaselineAdminNetworkPolicy": _Kind(
        ("policy.networking.k8s.io/v1alpha1",), False, ("spec",), read_baseline_policy
    ),
    "CiliumCIDRGroup": _Kind(
        ("cilium.io/v2", "cilium.io/v2alpha1"), False, ("spec",), read_cidr_group
    ),
}


def parse_policies(text: str, source: str) -> ParseResult:
    """Read YAML (or JSON), any number of documents. ``source`` is the name that errors carry."""
    documents, errors = load_documents(text, source)
    return _parse(documents, source, errors)


def parse_policy_objects(objects: Iterable[Mapping[str, object]], source: str) -> ParseResult:
    """Read policies that are decoded already, as the Kubernetes API or JSON gives them."""
    documents: list[Node] = []
    errors: list[PolicyError] = []
    for index, value in enumerate(objects):
        try:
            documents.append(from_value(value))
        except ValueError as error:
            errors.append(PolicyError(f"{source}[{index}]", 0, "", str(error)))
    return _parse(documents, source, errors, numbered=True)


def _parse(
    documents: Iterable[Node], source: str, errors: list[PolicyError], numbered: bool = False
) -> ParseResult:
    found: list[Parsed] = []
    for index, document in enumerate(documents):
        problems = Problems(f"{source}[{index}]" if numbered else source)
        for item in _objects(Field(document, "", problems)):
            before = len(problems.errors)
            parsed = _object(item)
            if parsed is not None and len(problems.errors) == before:
                found.append(parsed)
        errors += problems.errors
    policies = [item for item in found if isinstance(item, Policy)]
    groups = [item for item in found if isinstance(item, CidrGroup)]
    return together([ParseResult(tuple(policies), tuple(errors), tuple(groups))])


def together(results: Iterable[ParseResult]) -> ParseResult:
    """What several texts hold. An object that is there twice is an error of the later text."""
    results = tuple(results)
    found = told_apart(
        (policy for result in results for policy in result.policies),
        (group for result in results for group in result.cidr_groups),
    )
    errors = [error for result in results for error in result.errors]
    return ParseResult(found.policies, (*errors, *found.errors), found.cidr_groups)


def _objects(at: Field) -> list[Field]:
    """The object itself, or the items of a ``List``."""
    if isinstance(at.node, MappingNode):
        kind = at.node.get("kind")
        items = at.node.get("items")
        kind_text = getattr(kind, "value", None)
        if isinstance(kind_text, str) and kind_text.endswith("List") and items is not None:
            return Field(items, "items", at.problems).items()
    return [at]


def _object(at: Field) -> Parsed | None:
    if not isinstance(at.node, MappingNode):
        at.error("a policy must be a mapping")
        return None
    kind_node = at.node.get("kind")
    kind_text = getattr(kind_node, "value", None)
    if not isinstance(kind_text, str):
        at.error("needs kind")
        return None
    if kind_text not in _KINDS:
        at.error(f"kind {kind_text!r} is not a policy; known are {', '.join(_KINDS)}")
        return None
    kind = _KINDS[kind_text]
    members = at.fields(("apiVersion", "kind", "metadata", *kind.fields), ignored=("status",))
    if "apiVersion" not in members:
        at.error("needs apiVersion")
    else:
        members["apiVersion"].one_of(kind.api_versions)
    if "metadata" not in members:
        at.error("needs metadata")
        return None
    metadata = read_metadata(members["metadata"], kind_text, kind.namespaced)
    return kind.read(members, at, metadata)
