"""What all Kubernetes objects have: apiVersion, kind, metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass

from policies.reader import Field

_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\Z")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_SERVER_FIELDS = (
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """``namespace`` is empty for a cluster-wide object."""

    kind: str
    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()


def read_metadata(at: Field, kind: str, namespaced: bool) -> Metadata:
    """``metadata``; a namespaced object without a namespace is in ``default``."""
    members = at.fields(("name", "namespace", "labels"), ignored=_SERVER_FIELDS)
    name = members["name"].string(at_most=253) if "name" in members else None
    if name is None and "name" not in members:
        at.error("needs name")
    elif name is not None and not _OBJECT_NAME.match(name):
        members["name"].error(f"{name!r} is not a name: lower case letters, digits, '-' and '.'")
    namespace = "default" if namespaced else ""
    if "namespace" in members:
        text = members["namespace"].string() or ""
        if not namespaced and text:
            members["namespace"].error(f"a {kind} is for the whole cluster and has no namespace")
        elif namespaced and text:
            namespace = text
            if not _NAMESPACE.match(text):
                members["namespace"].error(f"{text!r} is not the name of a namespace")
    labels: list[tuple[str, str]] = []
    for key, item in members["labels"].entries() if "labels" in members else ():
        labels.append((key, item.string() or ""))
    return Metadata(kind, name or "", namespace, tuple(labels))
