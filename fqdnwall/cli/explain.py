"""``fqdnwall policy explain``: the question put to ``policies``, offline or for a live endpoint.

A question is a subject, a peer, a direction and a port. Offline, subject and peer are described by
labels or by a cluster file; live, the agent's endpoints, addresses and learned names are the
cluster, and its policies are those in force.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fqdnwall.cli.errors import CommandError, UsageError
from fqdnwall.cli.output import Table, lines, render
from policies.cluster import (
    AddressRef,
    Cluster,
    Endpoint,
    EndpointRef,
    EntityRef,
    Flow,
    NameRef,
    Node,
    NodeRef,
    PeerRef,
)
from policies.clusterfile import CLUSTER_FIELDS, PROTOCOLS, read_cluster
from policies.document import load_documents
from policies.explain import Explanation
from policies.identity import HOST, Direction, Protocol
from policies.model import Policy
from policies.parse import parse_policies, together
from policies.reader import Field, Problems
from policies.world import ENTITY_IDENTITY

if TYPE_CHECKING:
    from fqdnwall.api.client import AgentClient

SUBJECT = "the subject"
PEER = "the peer"
_SOMEWHERE = ipaddress.IPv4Address("192.0.0.8")
"""The IPv4 dummy address (RFC 7600): of the world, and nobody's."""
_GENERATED = ("io.cilium.k8s.", "io.kubernetes.pod.namespace")
"""Labels that follow from the namespace, and are made again from it."""


@dataclass(frozen=True, slots=True)
class Paper:
    """A cluster, its policies, and who in it is asked about."""

    cluster: Cluster
    policies: tuple[Policy, ...]
    subject: str


def read_policies(texts: Sequence[tuple[str, str]]) -> tuple[Policy, ...]:
    """The policies of (source, text). Raises CommandError with the first error."""
    found = together(parse_policies(text, source) for source, text in texts)
    if found.errors:
        raise CommandError(str(found.errors[0]), "see: fqdnwall policy validate FILE...")
    return found.policies


def on_paper(
    texts: Sequence[tuple[str, str]],
    cluster: tuple[str, str] | None,
    subject: str | None,
    labels: Sequence[tuple[str, str]],
    namespace: str,
) -> Paper:
    """Offline: the subject is one of the cluster file's endpoints, or made from its labels."""
    found = Cluster() if cluster is None else _read_cluster(*cluster)
    if subject is None:
        own = Endpoint(SUBJECT, tuple(labels), namespace)
        found = replace(found, endpoints={**found.endpoints, SUBJECT: own})
    elif subject not in found.endpoints and subject not in found.nodes:
        raise UsageError(f"--subject: the cluster file has no {subject!r}", "name one that it has")
    return Paper(found, read_policies(texts), subject or SUBJECT)


def from_agent(client: AgentClient, endpoint_id: int) -> Paper:
    """Live: what the agent has in force, as a cluster on paper."""
    subject = client.endpoint(endpoint_id)
    endpoints = {}
    for e in client.endpoints():
        labels = _pairs(e.labels)
        title = f"{e.namespace}/{e.name}#{e.id}"
        endpoints[title] = Endpoint(title, labels, e.namespace, _addresses(e.addresses))
    local = {address for e in endpoints.values() for address in e.ips}
    nodes = {}
    for entry in client.ipcache():
        prefix = ipaddress.ip_network(entry.prefix)
        address = prefix.network_address
        if prefix.num_addresses > 1 or address in local:
            continue
        if entry.identity == HOST:
            nodes[str(address)] = Node(str(address), (), (address,), is_host=True)
        elif any(label.startswith("k8s:") for label in entry.labels):
            namespace = _namespace(entry.labels)
            endpoints[str(address)] = Endpoint(
                str(address), _pairs(entry.labels), namespace, (address,)
            )
    names: dict[str, set[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {}
    for cached in client.fqdn_cache(endpoint_id):
        names.setdefault(cached.fqdn.lower().removesuffix("."), set()).update(
            _addresses(cached.ips)
        )
    known = {name: tuple(sorted(found, key=str)) for name, found in names.items()}
    documents = {policy.source.partition(":")[0]: policy.document for policy in client.policies()}
    title = f"{subject.namespace}/{subject.name}#{subject.id}"
    cluster = Cluster(endpoints, nodes, names=known)
    return Paper(cluster, read_policies(tuple(documents.items())), title)


def ask(paper: Paper, direction: Direction, peer: str, port: str, query: str) -> Explanation:
    """Raises UsageError where the peer or the port cannot be read, or the peer is not known."""
    from policies.cluster import UnknownPeer
    from policies.explain import explain
    from policies.world import World

    number, protocol = _port(port or ("53/UDP" if query else "443/TCP"))
    reference, cluster = _peer(peer, paper)
    flow = Flow(direction, paper.subject, reference, protocol, number, query)
    try:
        return explain(World(cluster, paper.policies), flow)
    except UnknownPeer as error:
        raise UsageError(str(error), "see: fqdnwall policy explain --help") from None


def explanation_text(found: Explanation, question: str) -> str:
    judgement = found.judgement
    rule = str(judgement.rule) if judgement.rule is not None else "no rule"
    text = [
        f"{question}: {judgement.verdict.value}",
        f"Decided by: {rule} ({judgement.reason.value})",
        *(f"The peer is: {labels}" for labels in found.peer),
    ]
    rows = [
        (
            "=>" if c.decided else "",
            c.action.value,
            "yes" if c.knows_peer else "no",
            "yes" if c.knows_port else "no",
            str(c.rule),
        )
        for c in found.considered
    ]
    table = render(Table(("", "ACTION", "PEER", "PORT", "RULE"), rows)) if rows else ""
    advice = ["To change it:", *(f"  {line}" for line in found.advice)]
    return lines(text) + (f"\n{table}" if table else "") + "\n" + lines(advice)


def explanation_json(found: Explanation) -> dict[str, Any]:
    from policies.batch import verdict_json

    return {
        **verdict_json(found.judgement),
        "peer": list(found.peer),
        "considered": [
            {
                "rule": str(c.rule),
                "action": c.action.value,
                "tier": c.tier.name.lower(),
                "knows_peer": c.knows_peer,
                "knows_port": c.knows_port,
                "decided": c.decided,
            }
            for c in found.considered
        ],
        "advice": list(found.advice),
    }


def _read_cluster(source: str, text: str) -> Cluster:
    documents, errors = load_documents(text, source)
    problems = Problems(source, list(errors))
    cluster = Cluster()
    for document in documents:
        members = Field(document, "", problems).fields((*CLUSTER_FIELDS, "policies", "cases"))
        cluster = read_cluster(members)
    if problems.errors:
        raise CommandError(str(problems.errors[0]), "correct the cluster file")
    return cluster


def _peer(text: str, paper: Paper) -> tuple[PeerRef, Cluster]:
    """The peer that the text means, and the cluster with it."""
    cluster = paper.cluster
    kind, colon, rest = text.partition(":")
    if colon and kind in ("entity", "node", "name"):
        if kind == "entity" and rest not in ENTITY_IDENTITY:
            known = ", ".join(ENTITY_IDENTITY)
            raise UsageError(f"{rest!r} is no single identity", f"one of {known}")
        if kind == "entity":
            return EntityRef(rest), cluster
        return (NodeRef(rest), cluster) if kind == "node" else _named(cluster, rest)
    try:
        return AddressRef(ipaddress.ip_address(text)), cluster
    except ValueError:
        pass
    if text in cluster.endpoints:
        return EndpointRef(text), cluster
    if "=" in text:
        return EndpointRef(PEER), _with_peer(cluster, text, paper.subject)
    if "." in text:
        return _named(cluster, text)
    raise UsageError(
        f"{text!r} is no peer that is known",
        "an address, a DNS name, K=V[,K=V...][@NAMESPACE], an endpoint's name, entity:E or node:N",
    )


def _named(cluster: Cluster, text: str) -> tuple[PeerRef, Cluster]:
    """A DNS name; one without a known address stands at an address that no policy names."""
    name = text.lower().removesuffix(".")
    return NameRef(name), replace(cluster, names={name: (_SOMEWHERE,), **cluster.names})


def _with_peer(cluster: Cluster, text: str, subject: str) -> Cluster:
    """The cluster with an endpoint that has the labels ``K=V[,K=V...][@NAMESPACE]``."""
    written, _, namespace = text.partition("@")
    own = cluster.endpoints.get(subject)
    labels = []
    for item in written.split(","):
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UsageError(f"{item!r} is not a label", "write K=V[,K=V...][@NAMESPACE]")
        labels.append((key, value))
    home = namespace or (own.namespace if own else "default")
    return replace(
        cluster, endpoints={**cluster.endpoints, PEER: Endpoint(PEER, tuple(labels), home)}
    )


def _port(text: str) -> tuple[int, Protocol]:
    number, _, word = text.partition("/")
    protocol = _by_upper(PROTOCOLS).get((word or "TCP").upper())
    if not number.isascii() or not number.isdigit() or int(number) > 65535 or protocol is None:
        raise UsageError(f"--port: {text!r} is not PORT[/PROTOCOL]", "such as 443/TCP or 8/ICMP")
    return int(number), protocol


def _by_upper(protocols: Mapping[str, Protocol]) -> dict[str, Protocol]:
    return {word.upper(): protocol for word, protocol in protocols.items()}


def _addresses(
    texts: Sequence[str],
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    return tuple(ipaddress.ip_address(text) for text in texts)


def _pairs(labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Labels as a cluster file has them: the k8s source left out, generated ones, too."""
    found = []
    for label in labels:
        source, _, rest = label.partition(":")
        key, _, value = rest.partition("=")
        if source in ("reserved", "cidr", "fqdn") or key.startswith(_GENERATED):
            continue
        found.append((key if source in ("k8s", "any") else f"{source}:{key}", value))
    return tuple(found)


def _namespace(labels: Sequence[str]) -> str:
    prefix = "k8s:io.kubernetes.pod.namespace="
    return next((x.removeprefix(prefix) for x in labels if x.startswith(prefix)), "default")
