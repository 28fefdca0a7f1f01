"""A second reading of what policies mean, from the objects as they are written.

This is the specification that the engine is held to. It shares nothing with `policies/`: it takes a
request of the batch format, asks every rule of every policy in turn whether it knows the peer and
the port, and decides by walking through the tiers. It is slow and plain on purpose, and it takes
valid policies only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
CLUSTER = "io.cilium.k8s.policy.cluster"
CLUSTER_ENTITIES = {
    "host",
    "remote-node",
    "health",
    "ingress",
    "init",
    "unmanaged",
    "kube-apiserver",
}

Json = dict[str, Any]
Labels = set[tuple[str, str, str]]
"""(source, key, value)"""


@dataclass
class Peer:
    """What is true of the other end."""

    labels: Labels
    address: Any = None
    inside: bool = False
    whole_family: int = 0
    """4 or 6: all addresses of the family that nothing else is said of."""
    names: tuple[str, ...] = ()
    named_ports: frozenset[tuple[str, str, int]] = frozenset()


@dataclass
class Statement:
    """A rule that knows the peer and the port: what it says, and where it stands."""

    tier: int
    level: int
    action: str
    proxy: str = ""
    allows: tuple[Any, ...] = ()
    ports: Any = None
    """The ports as written, for telling whether two rules are about the very same ones."""
    where: str = ""
    """The rule's place in the request."""


# ---------------------------------------------------------------- the cluster


def labels_of_endpoint(request: Json, endpoint: Json) -> Labels:
    own = endpoint.get("labels") or {}
    found: Labels = set()
    for text, value in own.items():
        source, _, key = text.rpartition(":")
        found.add((source or "k8s", key, value))
    if any(source == "reserved" for source, _, _ in found):
        return found
    namespace = endpoint.get("namespace") or "default"
    found.add(("k8s", NAMESPACE, namespace))
    of_namespace = (request.get("namespaces") or {}).get(namespace, {})
    named = {"kubernetes.io/metadata.name": namespace, **of_namespace}
    found |= {("k8s", NAMESPACE_LABELS + key, value) for key, value in named.items()}
    if endpoint.get("cluster"):
        found.add(("k8s", CLUSTER, endpoint["cluster"]))
    return found


def peer_of(request: Json, flow: Json) -> Peer:
    peer = flow["peer"]
    if "endpoint" in peer:
        endpoint = request["endpoints"][peer["endpoint"]]
        address = next((ip_address(x) for x in endpoint.get("ips") or ()), None)
        labels = labels_of_endpoint(request, endpoint)
        return Peer(labels, address, True, named_ports=ports_of_likes(request, labels))
    if "node" in peer:
        node = request["nodes"][peer["node"]]
        address = next((ip_address(x) for x in node.get("ips") or ()), None)
        labels = {("node", key, value) for key, value in (node.get("labels") or {}).items()}
        return Peer(labels | {("reserved", "remote-node", "")}, address, True)
    if "entity" in peer:
        return peer_of_entity(peer["entity"])
    address = ip_address(peer["ip"])
    for name, endpoint in request["endpoints"].items():
        if address in map(ip_address, endpoint.get("ips") or ()):
            return peer_of(request, {"peer": {"endpoint": name}})
    for name, node in (request.get("nodes") or {}).items():
        if address in map(ip_address, node.get("ips") or ()):
            return peer_of(request, {"peer": {"node": name}})
    labels = {("reserved", "world", ""), ("reserved", f"world-ipv{address.version}", "")}
    fqdns = request.get("fqdns") or {}
    names = tuple(name for name, ips in fqdns.items() if address in map(ip_address, ips))
    return Peer(labels, address, names=names)


def peer_of_entity(entity: str) -> Peer:
    labels = {("reserved", entity, "")}
    if entity == "kube-apiserver":
        labels.add(("reserved", "remote-node", ""))
    family = {"world-ipv4": 4, "world-ipv6": 6}.get(entity, 0)
    if family:
        labels.add(("reserved", "world", ""))
    return Peer(labels, whole_family=family)


def ports_of_likes(request: Json, labels: Labels) -> frozenset[tuple[str, str, int]]:
    """Named ports of every endpoint with these labels: policy knows labels, not pods."""
    return frozenset(
        (name.lower(), port["protocol"], port["port"])
        for endpoint in request["endpoints"].values()
        if labels_of_endpoint(request, endpoint) == labels
        for name, port in (endpoint.get("named_ports") or {}).items()
    )


# ---------------------------------------------------------------- selectors


def key_of(text: str, source: str, prefix: str) -> tuple[str, str]:
    if source:
        return source, prefix + text
    before, colon, after = text.partition(":")
    return (before, after) if colon and before != "any" else ("", after if colon else text)


def requirements(selector: Json, source: str = "", prefix: str = "") -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for text, value in (selector.get("matchLabels") or {}).items():
        found.append((*key_of(text, source, prefix), "In", [value]))
    for item in selector.get("matchExpressions") or ():
        key = key_of(item["key"], source, prefix)
        found.append((*key, item["operator"], item.get("values") or []))
    return found


def holds(requirement: tuple[Any, ...], labels: Labels) -> bool:
    source, key, operator, values = requirement
    found = [v for s, k, v in labels if k == key and source in ("", s)]
    return {
        "In": any(v in values for v in found),
        "NotIn": not any(v in values for v in found),
        "Exists": bool(found),
        "DoesNotExist": not found,
    }[operator]


def all_hold(wanted: list[tuple[Any, ...]], labels: Labels) -> bool:
    return all(holds(requirement, labels) for requirement in wanted)


def is_foreign(labels: Labels) -> bool:
    return any(key == CLUSTER and value != "default" for _, key, value in labels)


def names_key(wanted: list[tuple[Any, ...]], key: str) -> bool:
    return any(k == key and source in ("", "k8s") for source, k, _, _ in wanted)


def cilium_endpoint_peer(selector: Json, namespace: str, init: bool, peer: Peer) -> bool:
    """fromEndpoints and toEndpoints."""
    wanted = requirements(selector)
    if is_foreign(peer.labels) and not names_key(wanted, CLUSTER):
        return False
    if any(source == "reserved" for source, _, _, _ in wanted):
        return all_hold(wanted, peer.labels)
    if not names_key(wanted, NAMESPACE):
        by_label = any(
            k.startswith(NAMESPACE_LABELS) and source in ("", "k8s") for source, k, _, _ in wanted
        )
        if namespace and not by_label:
            wanted = [*wanted, ("k8s", NAMESPACE, "In", [namespace])]
        elif not namespace and not init:
            wanted = [*wanted, ("k8s", NAMESPACE, "Exists", [])]
    return all_hold(wanted, peer.labels)


def kubernetes_pods(namespaces: Json | None, pods: Json | None, namespace: str, peer: Peer) -> bool:
    """Pods by namespaceSelector and podSelector, in Kubernetes' own kinds of policy."""
    if is_foreign(peer.labels):
        return False
    wanted: list[tuple[Any, ...]] = [("k8s", NAMESPACE, "Exists", [])]
    if namespaces is not None:
        wanted += requirements(namespaces, "k8s", NAMESPACE_LABELS)
    elif namespace:
        wanted += [("k8s", NAMESPACE, "In", [namespace])]
    if pods is not None:
        wanted += requirements(pods, "k8s")
    return all_hold(wanted, peer.labels)


# ---------------------------------------------------------------- other peers


def in_cidr(peer: Peer, cidr: str, excepts: list[str], inside_too: bool) -> bool:
    network = ip_network(cidr, strict=False)
    if peer.whole_family:
        return network.prefixlen == 0 and network.version == peer.whole_family
    if peer.address is None or (peer.inside and not inside_too):
        return False
    return peer.address in network and not any(
        peer.address in ip_network(x, strict=False) for x in excepts
    )


def is_entity(peer: Peer, entity: str) -> bool:
    reserved = {key for source, key, _ in peer.labels if source == "reserved"}
    if entity == "all":
        return True
    if entity == "world":
        return bool(reserved & {"world", "world-ipv4", "world-ipv6"})
    if entity == "cluster":
        pod = any(key == NAMESPACE for _, key, _ in peer.labels)
        return bool(reserved & CLUSTER_ENTITIES) or (pod and not is_foreign(peer.labels))
    return entity in reserved


def name_matches(item: Json, qname: str) -> bool:
    """matchName and matchPattern, by the regular expression of the reference engine."""
    name = qname.lower().rstrip(".") + "."
    if "matchName" in item and name == item["matchName"].lower().rstrip(".") + ".":
        return True
    if "matchPattern" not in item:
        return False
    text = item["matchPattern"].lower().removesuffix(".")
    if not text.strip("*"):
        return True
    text = re.sub(r"^\*\*+\.", "\0", text + ".")
    text = re.sub(r"\*+", "*", text).replace(".", "[.]").replace("*", "[-a-z0-9_]*")
    text = text.replace("\0", "(?:[-a-z0-9_]+[.])+")
    return re.fullmatch(text, name) is not None


def service_backs(request: Json, item: Json, namespace: str, peer: Peer) -> bool:
    """toServices: the peer is a backend of a service that is meant."""
    for title, service in (request.get("services") or {}).items():
        where, _, name = title.partition("/")
        if "k8sService" in item:
            wanted = item["k8sService"]
            wanted_namespace = wanted.get("namespace") or namespace
            meant = wanted["serviceName"] == name and wanted_namespace in ("", where)
        else:
            inner = item["k8sServiceSelector"]
            wanted_namespace = inner.get("namespace") or namespace
            own = {("", key, value) for key, value in (service.get("labels") or {}).items()}
            wanted_labels = [("", k, o, v) for _, k, o, v in requirements(inner["selector"])]
            meant = wanted_namespace in ("", where) and all_hold(wanted_labels, own)
        if not meant:
            continue
        if service.get("selector") is not None:
            chosen = [("k8s", k, "In", [v]) for k, v in service["selector"].items()]
            chosen.append(("k8s", NAMESPACE, "In", [where]))
            if not is_foreign(peer.labels) and all_hold(chosen, peer.labels):
                return True
        else:
            addresses: list[str] = []
            for backend in service.get("backends") or ():
                endpoint = request["endpoints"].get(backend)
                addresses += (endpoint.get("ips") or []) if endpoint is not None else [backend]
            if peer.address is not None and peer.address in map(ip_address, addresses):
                return True
    return False


def in_group(request: Json, item: Json, peer: Peer) -> bool:
    for name, group in (request.get("cidr_groups") or {}).items():
        labels = {("", key, value) for key, value in (group.get("labels") or {}).items()}
        if "cidrGroupRef" in item:
            meant = item["cidrGroupRef"] == name
        else:
            wanted = requirements(item["cidrGroupSelector"])
            meant = all_hold([("", k, o, v) for _, k, o, v in wanted], labels)
        if meant and any(in_cidr(peer, cidr, [], False) for cidr in group["cidrs"]):
            return True
    return False


def is_node(peer: Peer) -> bool:
    return is_entity(peer, "host") or is_entity(peer, "remote-node")


# ---------------------------------------------------------------- ports


def cilium_ports(rule: Json, peer_ports: Any, flow: Json) -> list[tuple[Any, Json]]:
    """(ports as written, port rule) for each item of toPorts or icmps that knows the port."""
    found: list[tuple[Any, Json]] = []
    for item in rule.get("icmps") or ():
        for field in item.get("fields") or ():
            protocol = "ICMPv6" if field.get("family") == "IPv6" else "ICMP"
            if flow["protocol"] == protocol and flow["icmp_type"] == field["type"]:
                found.append((("icmp", field["type"]), {}))
    for item in rule.get("toPorts") or ():
        for port in item.get("ports") or ():
            written = knows_port(port, peer_ports, flow)
            if written is not None:
                found.append((written, item))
    return found


def knows_port(port: Json, peer_ports: Any, flow: Json) -> Any:
    protocol = port.get("protocol", "ANY")
    if flow["protocol"] not in ("TCP", "UDP", "SCTP"):
        return None
    if protocol not in ("ANY", flow["protocol"]):
        return None
    if not port["port"].isdigit():
        named = (port["port"].lower(), flow["protocol"], flow["port"]) in peer_ports
        return (flow["port"], flow["port"]) if named else None
    first = int(port["port"])
    last = max(first, port.get("endPort") or 0)
    if first == 0:
        return (0, 65535)
    return (first, last) if first <= flow["port"] <= last else None


def proxy_of(item: Json, flow: Json) -> tuple[str, tuple[Any, ...]] | None:
    """Which proxy a port rule asks for and what that may let through; None for no match."""
    rules = item.get("rules") or {}
    if "dns" in rules:
        return ("dns", tuple(rules["dns"])) if flow["protocol"] in ("TCP", "UDP") else None
    if "http" in rules:
        return "http", tuple(rules["http"])
    return "", ()


# ---------------------------------------------------------------- kinds of policy


def cilium_statements(
    request: Json, policy: Json, subject: Labels, peer: Peer, peer_ports: Any, flow: Json
) -> tuple[list[Statement], bool, bool]:
    """(statements, whether any rule is about the subject, whether default deny is on)."""
    namespace = ""
    if policy["kind"] == "CiliumNetworkPolicy":
        namespace = policy["metadata"].get("namespace", "default")
    specs = [("spec", policy["spec"])] if "spec" in policy else []
    specs += [(f"specs[{n}]", spec) for n, spec in enumerate(policy.get("specs", []))]
    found: list[Statement] = []
    about = deny = False
    for place, spec in specs:
        if "endpointSelector" not in spec:
            continue
        wanted = requirements(spec["endpointSelector"])
        init = any((source, key) == ("reserved", "init") for source, key, _, _ in wanted)
        if namespace:
            wanted = [r for r in wanted if (r[0], r[1]) != ("k8s", NAMESPACE)]
            wanted.append(("k8s", NAMESPACE, "In", [namespace]))
        if not all_hold(wanted, subject):
            continue
        way = flow["direction"]
        rules = [(r, "allow", f"{way}[{n}]") for n, r in enumerate(spec.get(way) or ())]
        rules += [
            (r, "deny", f"{way}Deny[{n}]") for n, r in enumerate(spec.get(way + "Deny") or ())
        ]
        about = about or bool(rules)
        wanted_deny = (spec.get("enableDefaultDeny") or {}).get(way)
        deny = deny or (bool(rules) and wanted_deny is not False)
        for rule, action, inner in rules:
            said = cilium_rule(request, rule, action, namespace, init, peer, peer_ports, flow)
            found += [replace(statement, where=f"{place}.{inner}") for statement in said]
    return found, about, deny


def cilium_rule(
    request: Json,
    rule: Json,
    action: str,
    namespace: str,
    init: bool,
    peer: Peer,
    peer_ports: Any,
    flow: Json,
) -> list[Statement]:
    has_peers = any(key.startswith(("from", "to")) and key != "toPorts" for key in rule)
    has_ports = bool(rule.get("toPorts") or rule.get("icmps"))
    if not has_peers and not has_ports:
        return []
    if has_peers and not cilium_knows(request, rule, namespace, init, peer):
        return []
    if not has_ports:
        return [Statement(1, 0, action)]
    found = []
    for written, item in cilium_ports(rule, peer_ports, flow):
        proxy = proxy_of(item, flow)
        if proxy is not None:
            found.append(Statement(1, 0, action, proxy[0], proxy[1], written))
    return found


def cilium_knows(request: Json, rule: Json, namespace: str, init: bool, peer: Peer) -> bool:
    """Whether any peer field of a Cilium rule knows the peer."""
    side = "from" if any(key.startswith("from") for key in rule) else "to"

    def items(field: str) -> Any:
        return rule.get(side + field) or ()

    return (
        any(cilium_endpoint_peer(x, namespace, init, peer) for x in items("Endpoints"))
        or any(in_cidr(peer, x, [], False) for x in items("CIDR"))
        or any(
            in_cidr(peer, x["cidr"], x.get("except") or [], False)
            if "cidr" in x
            else in_group(request, x, peer)
            for x in items("CIDRSet")
        )
        or any(is_entity(peer, x) for x in items("Entities"))
        or any(is_node(peer) and all_hold(requirements(x), peer.labels) for x in items("Nodes"))
        or any(service_backs(request, x, namespace, peer) for x in items("Services"))
        or any(name_matches(x, name) for x in items("FQDNs") for name in peer.names)
    )


def network_policy_statements(
    policy: Json, subject: Labels, peer: Peer, peer_ports: Any, flow: Json
) -> tuple[list[Statement], bool, bool]:
    """Kubernetes NetworkPolicy."""
    namespace = policy["metadata"].get("namespace", "default")
    spec = policy["spec"]
    wanted = requirements(spec.get("podSelector") or {}, "k8s")
    wanted.append(("k8s", NAMESPACE, "In", [namespace]))
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    if flow["direction"].capitalize() not in types or not all_hold(wanted, subject):
        return [], False, False
    found = []
    for number, rule in enumerate(spec.get(flow["direction"]) or ()):
        peers = rule.get("from" if flow["direction"] == "ingress" else "to") or ()
        if peers and not any(network_policy_peer(item, namespace, peer) for item in peers):
            continue
        ports = rule.get("ports") or ()
        if ports and not any(network_policy_port(item, peer_ports, flow) for item in ports):
            continue
        where = f"spec.{flow['direction']}[{number}]"
        found.append(Statement(1, 0, "allow", where=where))
    return found, True, True


def network_policy_peer(item: Json, namespace: str, peer: Peer) -> bool:
    if "ipBlock" in item:
        block = item["ipBlock"]
        return in_cidr(peer, block["cidr"], block.get("except") or [], True)
    return kubernetes_pods(item.get("namespaceSelector"), item.get("podSelector"), namespace, peer)


def network_policy_port(item: Json, peer_ports: Any, flow: Json) -> bool:
    if flow["protocol"] != item.get("protocol", "TCP"):
        return False
    if "port" not in item:
        return True
    if isinstance(item["port"], str):
        return (item["port"], flow["protocol"], flow["port"]) in peer_ports
    return bool(item["port"] <= flow["port"] <= item.get("endPort", item["port"]))


def cluster_policy_statements(
    policy: Json, subject: Labels, peer: Peer, peer_ports: Any, flow: Json
) -> tuple[list[Statement], bool, bool]:
    """ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy."""
    spec = policy["spec"]
    baseline = policy["kind"].startswith("Baseline") or spec.get("tier") == "Baseline"
    who = spec["subject"]
    pods = who.get("pods") or {}
    namespaces = who["namespaces"] if "namespaces" in who else pods.get("namespaceSelector")
    if not kubernetes_pods(namespaces, pods.get("podSelector"), "", Peer(subject)):
        return [], False, False
    found = []
    rules = spec.get(flow["direction"]) or ()
    for order, rule in enumerate(rules):
        level = spec.get("priority", 0) * 1000 + order
        where = f"spec.{flow['direction']}[{order}]"
        tier = 2 if baseline else 0
        action = rule["action"].lower().replace("accept", "allow")
        peers = rule["from" if flow["direction"] == "ingress" else "to"]
        protocols = rule.get("protocols") or rule.get("ports") or ()
        if any("domainNames" in item for item in peers) and asks_resolver(peer, flow):
            every = ({"matchPattern": "*"},)
            found.append(Statement(tier, level, "allow", "dns", every, (53, 53), where))
        if not any(cluster_policy_peer(item, peer) for item in peers):
            continue
        if protocols and not any(cluster_policy_port(x, peer_ports, flow) for x in protocols):
            continue
        found.append(Statement(tier, level, action, where=where))
    return found, bool(rules), False


def asks_resolver(peer: Peer, flow: Json) -> bool:
    """Traffic that names are learned from: DNS to the cluster's resolvers."""
    wanted = [("k8s", "k8s-app", "In", ["kube-dns"]), ("k8s", NAMESPACE, "Exists", [])]
    here = not is_foreign(peer.labels) and all_hold(wanted, peer.labels)
    return here and flow["protocol"] in ("TCP", "UDP") and flow["port"] == 53


def cluster_policy_peer(item: Json, peer: Peer) -> bool:
    if "namespaces" in item:
        return kubernetes_pods(item["namespaces"], None, "", peer)
    if "pods" in item:
        pods = item["pods"]
        return kubernetes_pods(pods.get("namespaceSelector"), pods["podSelector"], "", peer)
    if "nodes" in item:
        return is_node(peer) and all_hold(requirements(item["nodes"], "node"), peer.labels)
    if "networks" in item:
        return any(in_cidr(peer, cidr, [], True) for cidr in item["networks"])
    return any(domain_matches(text, name) for text in item["domainNames"] for name in peer.names)


def domain_matches(text: str, name: str) -> bool:
    """``*.`` in front is one or more labels."""
    wanted, given = text.lower().rstrip("."), name.lower().rstrip(".")
    if wanted.startswith("*."):
        return given.endswith(wanted[1:]) and len(given) > len(wanted) - 1
    return given == wanted


def cluster_policy_port(item: Json, peer_ports: Any, flow: Json) -> bool:
    name = item.get("destinationNamedPort") or item.get("namedPort")
    if name is not None:
        return (name, flow["protocol"], flow["port"]) in peer_ports
    for protocol in ("tcp", "udp", "sctp"):
        if protocol in item:
            port = item[protocol]["destinationPort"]
            spans = port.get("range") or {"start": port.get("number"), "end": port.get("number")}
            inside = bool(spans["start"] <= flow["port"] <= spans["end"])
            return inside and flow["protocol"] == protocol.upper()
    port = item.get("portRange") or item["portNumber"]
    first, last = port.get("start", port.get("port")), port.get("end", port.get("port"))
    inside = bool(first <= flow["port"] <= last)
    return inside and flow["protocol"] == port.get("protocol", "TCP")


# ---------------------------------------------------------------- the decision


def verdict(request: Json, flow: Json) -> str:
    """``allow``, ``deny`` or ``redirect``."""
    return judge(request, flow)[0]


def judge(request: Json, flow: Json) -> tuple[str, set[str]]:
    """The verdict, and the rules of which each may be named for it; "" is the default.

    Where nothing speaks against a flow that is allowed by default, the default may be named too.
    """
    flow = {"port": 0, "icmp_type": 0, **flow}
    own = request["endpoints"][flow["subject"]]
    subject = labels_of_endpoint(request, own)
    peer = peer_of(request, flow)
    peer_ports: Any = peer.named_ports
    if flow["direction"] == "ingress":
        peer_ports = {
            (name.lower(), port["protocol"], port["port"])
            for name, port in (own.get("named_ports") or {}).items()
        }
    statements: list[Statement] = []
    about = deny = ("reserved", "init", "") in subject
    for number, policy in enumerate(request["policies"]):
        if policy["kind"] == "NetworkPolicy":
            found = network_policy_statements(policy, subject, peer, peer_ports, flow)
        elif policy["kind"].startswith("Cilium"):
            found = cilium_statements(request, policy, subject, peer, peer_ports, flow)
        else:
            found = cluster_policy_statements(policy, subject, peer, peer_ports, flow)
        place = f"policies[{number}]"
        statements += [replace(s, where=f"{place}.{s.where}") for s in found[0]]
        about = about or found[1]
        deny = deny or found[2]
    if not about:
        return "allow", {""}
    said, deciders = decide(statements, deny, flow)
    refused = deny or any(s.action == "deny" for s in statements)
    named = {""} if not deciders or (said == "allow" and not refused) else set()
    return said, deciders | named


def decide(statements: list[Statement], deny: bool, flow: Json) -> tuple[str, set[str]]:
    """Admin tier, then the namespaced policies, then, unless these deny by default, baseline."""
    for tier in (0, 1) if deny else (0, 1, 2):
        mine = [s for s in statements if s.tier == tier]
        for level in sorted({s.level for s in mine}):
            here = [s for s in mine if s.level == level]
            denying = {s.where for s in here if s.action == "deny"}
            if denying:
                return "deny", denying
            allowing = [s for s in here if s.action == "allow"]
            if allowing:
                return permission(allowing, flow)
            break  # only PASS is left: on to the next tier
    return "deny" if deny else "allow", set()


def permission(allowing: list[Statement], flow: Json) -> tuple[str, set[str]]:
    """HTTP comes before DNS, and any proxy before plain passage."""
    for proxy in ("http", "dns"):
        asked = [s for s in allowing if s.proxy == proxy]
        if not asked:
            continue
        asking = {s.where for s in asked}
        query = flow.get("dns_query")
        if proxy == "http" or not query:
            return "redirect", asking
        written = [s.ports for s in asked]
        voided = any(not s.proxy and s.ports in written for s in allowing)
        names = [item for s in asked for item in s.allows]
        good = voided or any(name_matches(x, query) for x in names)
        return "redirect" if good else "deny", asking
    return "allow", {s.where for s in allowing}
