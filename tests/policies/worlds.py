"""Small worlds for tables: policies as text, flows as words."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import dedent

from policies.cluster import (
    AddressRef,
    Cluster,
    Endpoint,
    EndpointRef,
    EntityRef,
    Flow,
    NameRef,
    NodeRef,
    PeerRef,
)
from policies.identity import Direction, Protocol
from policies.model import Policy
from policies.options import Options
from policies.parse import parse_policies
from policies.world import Judgement, World


def policies(text: str) -> tuple[Policy, ...]:
    result = parse_policies(dedent(text), "test.yaml")
    assert result.errors == (), "\n".join(map(str, result.errors))
    return result.policies


def cnp(spec: str, name: str = "p", namespace: str = "default") -> tuple[Policy, ...]:
    """A CiliumNetworkPolicy from the text of its spec; the subject is every pod when left out."""
    body = dedent(spec).strip("\n")
    if "endpointSelector" not in body:
        body = "endpointSelector: {}\n" + body
    return policies(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n"
        + "\n".join("  " + line for line in body.splitlines())
    )


def ccnp(spec: str, name: str = "c") -> tuple[Policy, ...]:
    body = dedent(spec).strip("\n")
    return policies(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec:\n" + "\n".join("  " + x for x in body.splitlines())
    )


def endpoint(name: str, namespace: str = "default", ip: str = "", **labels: str) -> Endpoint:
    ips = (ip_address(ip),) if ip else ()
    return Endpoint(name, tuple(labels.items()), namespace, ips)


CLUSTER = Cluster(
    {
        e.name: e
        for e in (
            endpoint("web", ip="10.244.0.1", app="web", tier="front"),
            endpoint("db", ip="10.244.0.2", app="db", tier="back"),
            endpoint("other", namespace="other", ip="10.244.1.1", app="web"),
            endpoint("dns", namespace="kube-system", ip="10.244.2.1", **{"k8s-app": "kube-dns"}),
        )
    },
    namespaces={"default": {"team": "blue"}, "other": {"team": "red"}},
    names={
        "docs.cilium.io": (ip_address("192.0.2.1"),),
        "cilium.io": (ip_address("192.0.2.2"),),
        "evil.io": (ip_address("10.2.0.9"),),
    },
)


def peer_of(text: str) -> PeerRef:
    kind, _, rest = text.partition(":")
    if kind == "entity":
        return EntityRef(rest)
    if kind == "node":
        return NodeRef(rest)
    if kind == "name":
        return NameRef(rest)
    try:
        return AddressRef(ip_address(text))
    except ValueError:
        return EndpointRef(text)


def judge(
    found: tuple[Policy, ...],
    peer: str,
    l4: str = "80/TCP",
    direction: Direction = Direction.EGRESS,
    subject: str = "web",
    cluster: Cluster = CLUSTER,
    options: Options | None = None,
    dns_query: str = "",
) -> Judgement:
    port, _, protocol = l4.partition("/")
    flow = Flow(direction, subject, peer_of(peer), Protocol[protocol.upper()], int(port), dns_query)
    return World(cluster, found, options).judge(flow)


def verdict(found: tuple[Policy, ...], peer: str, l4: str = "80/TCP", **more: object) -> str:
    return judge(found, peer, l4, **more).verdict.value  # type: ignore[arg-type]


def ingress(found: tuple[Policy, ...], peer: str, l4: str = "80/TCP", **more: object) -> str:
    return verdict(found, peer, l4, direction=Direction.INGRESS, **more)
