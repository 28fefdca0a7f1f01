"""Hypothesis draws clusters, policies and flows, as objects of the batch format.

The vocabulary is small on purpose: few labels, ports and addresses meet often, and it is where
rules meet that engines go wrong. Every policy drawn is valid.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]
Draw = st.DrawFn

VALUES = ["x", "y"]
NAMESPACES = ["default", "other"]
OUTSIDE = ["192.0.2.1", "192.0.2.130", "198.51.100.1", "2001:db8::1", "2001:db8:1::1"]
CIDRS = [
    "0.0.0.0/0",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.1/32",
    "10.0.0.0/8",
    "10.0.1.0/24",
    "::/0",
    "2001:db8::/32",
    "2001:db8::1/128",
]
EXCEPTS = {
    "0.0.0.0/0": ["192.0.2.0/24", "10.0.0.0/8", "192.0.2.1/32"],
    "192.0.2.0/24": ["192.0.2.128/25", "192.0.2.1/32"],
    "10.0.0.0/8": ["10.0.1.0/24"],
    "::/0": ["2001:db8::/32"],
    "2001:db8::/32": ["2001:db8::1/128"],
}
NAMES = ["a.io", "w.a.io", "v.w.a.io", "b.io"]
PATTERNS = ["*", "*.a.io", "**.a.io", "*.io", "w*.a.io", "*.*.a.io"]
PORTS = [53, 80, 81, 443, 8080]
ENTITIES = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "init",
    "health",
    "unmanaged",
    "none",
]
PEER_ENTITIES = [name for name in ENTITIES if name not in ("all", "cluster", "none")]


def subset(draw: Draw, items: list[Any], most: int = 2, least: int = 1) -> list[Any]:
    return draw(st.lists(st.sampled_from(items), min_size=least, max_size=most, unique_by=repr))


def maybe(draw: Draw, chance: int = 2) -> bool:
    return draw(st.integers(0, chance - 1)) == 0


def label_selector(draw: Draw, keys: list[str]) -> Json:
    shape = draw(st.integers(0, 5))
    if shape == 0:
        return {}
    key = draw(st.sampled_from(keys))
    if shape <= 3:
        return {"matchLabels": {key: draw(st.sampled_from(VALUES))}}
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    item: Json = {"key": key, "operator": operator}
    if operator in ("In", "NotIn"):
        item["values"] = subset(draw, VALUES)
    return {"matchExpressions": [item]}


CILIUM_KEYS = ["app", "k8s:app", "any:tier", "tier"]
NAMESPACE_KEYS = [
    "k8s:io.kubernetes.pod.namespace",
    "io.kubernetes.pod.namespace",
    "k8s:io.cilium.k8s.namespace.labels.team",
]


def endpoint_selector(draw: Draw, peer: bool) -> Json:
    if not peer and maybe(draw):
        return {}
    selector = label_selector(draw, CILIUM_KEYS)
    if maybe(draw, 5):
        key = draw(st.sampled_from(NAMESPACE_KEYS))
        value = draw(st.sampled_from(VALUES if "team" in key else NAMESPACES))
        selector.setdefault("matchLabels", {})[key] = value
    if peer and maybe(draw, 10):
        selector = {"matchLabels": {f"reserved:{draw(st.sampled_from(['host', 'world']))}": ""}}
    if peer and maybe(draw, 12):
        key = "k8s:io.cilium.k8s.policy.cluster"
        selector.setdefault("matchLabels", {})[key] = "far"
    return selector


def cidr_rule(draw: Draw) -> Json:
    shape = draw(st.integers(0, 6))
    if shape == 0:
        return {"cidrGroupRef": draw(st.sampled_from(["g", "missing"]))}
    if shape == 1:
        return {"cidrGroupSelector": label_selector(draw, ["role"])}
    cidr = draw(st.sampled_from(CIDRS))
    rule: Json = {"cidr": cidr}
    if cidr in EXCEPTS and maybe(draw):
        rule["except"] = subset(draw, EXCEPTS[cidr])
    return rule


def service(draw: Draw) -> Json:
    if maybe(draw):
        inner: Json = {"selector": label_selector(draw, ["app"])}
        if maybe(draw):
            inner["namespace"] = draw(st.sampled_from(NAMESPACES))
        return {"k8sServiceSelector": inner}
    named: Json = {"serviceName": draw(st.sampled_from(["s", "outside", "missing"]))}
    if maybe(draw):
        named["namespace"] = draw(st.sampled_from(NAMESPACES))
    return {"k8sService": named}


def fqdn(draw: Draw) -> Json:
    if maybe(draw):
        return {"matchName": draw(st.sampled_from(NAMES))}
    return {"matchPattern": draw(st.sampled_from(PATTERNS))}


def cilium_peers(draw: Draw, side: str, deny: bool) -> Json:
    kinds = ["", "Endpoints", "Endpoints", "CIDR", "CIDRSet", "Entities", "Nodes"]
    if side == "to":
        kinds += ["Services", *([] if deny else ["FQDNs", "FQDNs", "FQDNs"])]
    kind = draw(st.sampled_from(kinds))
    if not kind:
        return {}
    count = draw(st.sampled_from([0, 1, 1, 2, 2, 3]))
    makers: dict[str, Any] = {
        "Endpoints": lambda: endpoint_selector(draw, True),
        "CIDR": lambda: draw(st.sampled_from([*CIDRS, "192.0.2.1"])),
        "CIDRSet": lambda: cidr_rule(draw),
        "Entities": lambda: draw(st.sampled_from(ENTITIES)),
        "Nodes": lambda: label_selector(draw, ["zone", "node:zone"]),
        "Services": lambda: service(draw),
        "FQDNs": lambda: fqdn(draw),
    }
    return {side + kind: [makers[kind]() for _ in range(count)]}


def port_item(draw: Draw) -> Json:
    shape = draw(st.integers(0, 7))
    protocol = draw(st.sampled_from([None, "TCP", "TCP", "UDP", "SCTP", "ANY"]))
    item: Json = {} if protocol is None else {"protocol": protocol}
    if shape == 0:
        return {**item, "port": draw(st.sampled_from(["http", "dns", "none"]))}
    if shape == 1:
        return {**item, "port": "0"}
    first = draw(st.sampled_from(PORTS))
    item["port"] = str(first)
    if shape <= 3:
        item["endPort"] = first + draw(st.sampled_from([0, 1, 27, 400]))
    return item


def port_rule(draw: Draw, side: str, deny: bool) -> Json:
    shape = draw(st.integers(0, 5))
    if not deny and shape == 0 and side == "to":
        protocol = draw(st.sampled_from(["UDP", "TCP", "ANY"]))
        rules = [fqdn(draw) for _ in range(draw(st.integers(1, 2)))]
        return {"ports": [{"port": "53", "protocol": protocol}], "rules": {"dns": rules}}
    if not deny and shape == 1:
        port = str(draw(st.sampled_from(PORTS)))
        return {"ports": [{"port": port, "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}
    return {"ports": [port_item(draw) for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3])))]}


def icmp_rule(draw: Draw) -> Json:
    types = st.sampled_from([0, 3, 8, 128])
    fields = []
    for _ in range(draw(st.integers(0, 2))):
        field: Json = {"type": draw(types)}
        if maybe(draw):
            field["family"] = draw(st.sampled_from(["IPv4", "IPv6"]))
        fields.append(field)
    return {"fields": fields}


def cilium_rule(draw: Draw, side: str, deny: bool) -> Json:
    rule = cilium_peers(draw, side, deny)
    shape = draw(st.integers(0, 5))
    if shape <= 2 and "toServices" not in rule:
        rules = [port_rule(draw, side, deny) for _ in range(draw(st.integers(1, 2)))]
        rule["toPorts"] = rules
    elif shape == 3:
        rule["icmps"] = [icmp_rule(draw)]
    return rule


def cilium_spec(draw: Draw) -> Json:
    spec: Json = {"endpointSelector": endpoint_selector(draw, False)}
    for section, side in (("ingress", "from"), ("egress", "to")):
        if maybe(draw, 4) is False:
            count = draw(st.integers(0, 4))
            spec[section] = [cilium_rule(draw, side, False) for _ in range(count)]
        if maybe(draw, 3):
            spec[section + "Deny"] = [cilium_rule(draw, side, True)]
    if maybe(draw, 4):
        spec["enableDefaultDeny"] = {
            draw(st.sampled_from(["ingress", "egress"])): draw(st.booleans())
        }
    return spec


def cilium_policy(draw: Draw) -> Json:
    clusterwide = maybe(draw, 3)
    metadata: Json = {"name": draw(st.sampled_from(["p", "q"]))}
    if not clusterwide and maybe(draw):
        metadata["namespace"] = draw(st.sampled_from(NAMESPACES))
    policy: Json = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy",
        "metadata": metadata,
    }
    if maybe(draw, 4):
        return {**policy, "specs": [cilium_spec(draw), cilium_spec(draw)]}
    return {**policy, "spec": cilium_spec(draw)}


def network_policy(draw: Draw) -> Json:
    spec: Json = {"podSelector": {} if maybe(draw) else label_selector(draw, ["app", "tier"])}
    for section, side in (("ingress", "from"), ("egress", "to")):
        if maybe(draw, 4) is False:
            rules = []
            for _ in range(draw(st.integers(0, 2))):
                rule: Json = {}
                if maybe(draw, 3) is False:
                    rule[side] = [kubernetes_peer(draw) for _ in range(draw(st.integers(0, 2)))]
                if maybe(draw):
                    rule["ports"] = [kubernetes_port(draw) for _ in range(draw(st.integers(0, 2)))]
                rules.append(rule)
            spec[section] = rules
    if maybe(draw):
        spec["policyTypes"] = subset(draw, ["Ingress", "Egress"])
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "k", "namespace": draw(st.sampled_from(NAMESPACES))},
        "spec": spec,
    }


def kubernetes_peer(draw: Draw) -> Json:
    if maybe(draw, 3):
        cidr = draw(st.sampled_from(CIDRS))
        block: Json = {"cidr": cidr}
        if cidr in EXCEPTS and maybe(draw):
            block["except"] = subset(draw, EXCEPTS[cidr])
        return {"ipBlock": block}
    which = draw(st.sampled_from([("pod",), ("namespace",), ("pod", "namespace")]))
    peer: Json = {}
    if "pod" in which:
        peer["podSelector"] = label_selector(draw, ["app", "tier"])
    if "namespace" in which:
        peer["namespaceSelector"] = label_selector(draw, ["team"])
    return peer


def kubernetes_port(draw: Draw) -> Json:
    port: Json = {}
    if maybe(draw):
        port["protocol"] = draw(st.sampled_from(["TCP", "UDP", "SCTP"]))
    if maybe(draw, 4):
        return port
    if maybe(draw, 4):
        return {**port, "port": draw(st.sampled_from(["http", "dns", "none"]))}
    port["port"] = draw(st.sampled_from(PORTS))
    if maybe(draw):
        port["endPort"] = port["port"] + draw(st.sampled_from([0, 1, 300]))
    return port


def tiered_policy(draw: Draw) -> Json:
    kind = draw(st.sampled_from(["cluster", "cluster", "cluster", "admin", "baseline"]))
    spec: Json = {"subject": subject(draw)}
    if kind == "cluster":
        spec["tier"] = draw(st.sampled_from(["Admin", "Admin", "Baseline"]))
    if kind != "baseline":
        spec["priority"] = draw(st.sampled_from([0, 1, 1000]))
    actions = ["Accept" if kind == "cluster" else "Allow", "Deny"]
    if kind != "baseline":
        actions.append("Pass")
    for section, side in (("ingress", "from"), ("egress", "to")):
        if maybe(draw, 4) is False:
            rules = [tiered_rule(draw, side, actions, kind) for _ in range(draw(st.integers(0, 3)))]
            spec[section] = rules
    name = {"cluster": "ClusterNetworkPolicy", "admin": "AdminNetworkPolicy"}
    version = "v1alpha2" if kind == "cluster" else "v1alpha1"
    return {
        "apiVersion": f"policy.networking.k8s.io/{version}",
        "kind": name.get(kind, "BaselineAdminNetworkPolicy"),
        "metadata": {"name": "default"},
        "spec": spec,
    }


def passing_policy(draw: Draw) -> Json:
    """Networks are passed on, and names are accepted before that, after it and further down."""
    passing: Json = {"action": "Pass", "to": [{"networks": subset(draw, CIDRS)}]}
    names: Json = {"action": "Accept", "to": [{"domainNames": subset(draw, [*NAMES, "*.a.io"])}]}
    for rule in (passing, names):
        if maybe(draw, 3):
            rule["protocols"] = [cluster_port(draw, False)]
    others = [tiered_rule(draw, "to", ["Accept", "Deny"], "cluster") for _ in range(2)]
    rules = draw(st.permutations([passing, *subset(draw, [names, *others], 3, 0)]))
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "default"},
        "spec": {
            "tier": draw(st.sampled_from(["Admin", "Admin", "Admin", "Baseline"])),
            "priority": draw(st.sampled_from([0, 1])),
            "subject": {"namespaces": {}},
            "egress": rules,
        },
    }


def naming_policy(draw: Draw) -> Json:
    """Names are allowed, in the tier of namespaced policies."""
    rules = [{"toFQDNs": [fqdn(draw)]} for _ in range(draw(st.integers(1, 2)))]
    rules[0] |= {"toPorts": [port_rule(draw, "from", False)]} if maybe(draw) else {}
    spec = {"endpointSelector": {}, "egress": [*rules, cilium_rule(draw, "to", False)]}
    if maybe(draw, 3):
        spec["egressDeny"] = [cilium_rule(draw, "to", True)]
    if maybe(draw, 4):
        spec["enableDefaultDeny"] = {"egress": False}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "n"},
        "spec": spec,
    }


def subject(draw: Draw) -> Json:
    if maybe(draw, 3) is False:
        return {"namespaces": {} if maybe(draw) else label_selector(draw, ["team"])}
    return {
        "pods": {
            "namespaceSelector": label_selector(draw, ["team"]),
            "podSelector": label_selector(draw, ["app", "tier"]),
        }
    }


def tiered_rule(draw: Draw, side: str, actions: list[str], kind: str) -> Json:
    action = draw(st.sampled_from(actions))
    kinds = ["namespaces", "pods"]
    if side == "to":
        kinds += ["nodes", "networks", "networks"]
        if action in ("Accept", "Allow"):
            kinds += ["domainNames", "domainNames"]
    peers = []
    for which in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2)):
        makers: dict[str, Any] = {
            "namespaces": lambda: label_selector(draw, ["team"]),
            "pods": lambda: subject(draw).get("pods") or {"podSelector": {}},
            "nodes": lambda: label_selector(draw, ["zone"]),
            "networks": lambda: subset(draw, CIDRS),
            "domainNames": lambda: subset(draw, [*NAMES, "*.a.io", "*.w.a.io"]),
        }
        peers.append({which: makers[which]()})
    rule: Json = {"action": action, side: peers}
    inside = all(set(peer) & {"namespaces", "pods"} for peer in peers)
    if maybe(draw):
        field = "protocols" if kind == "cluster" else "ports"
        make = cluster_port if kind == "cluster" else admin_port
        rule[field] = [make(draw, inside) for _ in range(draw(st.integers(1, 2)))]
    return rule


def cluster_port(draw: Draw, named: bool) -> Json:
    if named and maybe(draw, 4):
        return {"destinationNamedPort": draw(st.sampled_from(["http", "dns"]))}
    protocol = draw(st.sampled_from(["tcp", "udp", "sctp"]))
    first = draw(st.sampled_from(PORTS))
    if maybe(draw):
        return {protocol: {"destinationPort": {"number": first}}}
    return {protocol: {"destinationPort": {"range": {"start": first, "end": first + 300}}}}


def admin_port(draw: Draw, named: bool) -> Json:
    if named and maybe(draw, 4):
        return {"namedPort": draw(st.sampled_from(["http", "dns"]))}
    protocol = draw(st.sampled_from(["TCP", "UDP", "SCTP"]))
    first = draw(st.sampled_from(PORTS))
    if maybe(draw):
        return {"portNumber": {"protocol": protocol, "port": first}}
    return {"portRange": {"protocol": protocol, "start": first, "end": first + 300}}


def cluster(draw: Draw) -> Json:
    """Endpoints enough for every selector to tell some apart."""
    shapes = {"a": ("default", "10.0.0.1"), "b": ("default", "10.0.1.1"), "c": ("other", None)}
    endpoints: Json = {}
    for name, (namespace, ip) in shapes.items():
        labels = {key: draw(st.sampled_from(VALUES)) for key in subset(draw, ["app", "tier"])}
        endpoint: Json = {"labels": labels, "namespace": namespace, "ips": [ip] if ip else []}
        if maybe(draw):
            endpoint["named_ports"] = {
                "http": {"port": draw(st.sampled_from([80, 8080])), "protocol": "TCP"},
                "dns": {"port": 53, "protocol": "UDP"},
            }
        endpoints[name] = endpoint
    endpoints["resolver"] = {
        "labels": {"k8s-app": "kube-dns"},
        "namespace": "other",
        "ips": ["10.0.2.53"],
    }
    endpoints["init"] = {"labels": {"reserved:init": ""}}
    endpoints["far"] = {"labels": {"app": "x"}, "namespace": "default", "cluster": "far"}
    return {
        "endpoints": endpoints,
        "namespaces": {"default": {"team": "x"}, "other": {"team": "y"}},
        "nodes": {
            "n1": {"labels": {"zone": "x"}, "ips": ["10.0.1.9"]},
            "n2": {"labels": {"zone": "y"}, "ips": ["192.0.2.9"]},
        },
        "services": {
            "default/s": {"labels": {"app": "x"}, "selector": {"app": "x"}},
            "other/outside": {
                "labels": {"app": "y"},
                "selector": None,
                "backends": ["192.0.2.1", "b"],
            },
        },
        "cidr_groups": {"g": {"labels": {"role": "x"}, "cidrs": ["192.0.2.0/24"]}},
        "fqdns": {
            "a.io": ["192.0.2.1"],
            "w.a.io": ["192.0.2.130", "2001:db8::1"],
            "v.w.a.io": ["198.51.100.1"],
            "b.io": ["192.0.2.1", "10.0.0.1"],
        },
    }


def flow(draw: Draw) -> Json:
    if maybe(draw, 8):
        found: Json = {"direction": "egress", "subject": "a", "peer": {"endpoint": "resolver"}}
        found |= {"protocol": draw(st.sampled_from(["UDP", "TCP"])), "port": 53}
        return {**found, "dns_query": draw(st.sampled_from([*NAMES, "x.com"]))}
    peers: list[Json] = [
        *({"endpoint": name} for name in ("a", "b", "c", "far", "resolver", "init")),
        *({"ip": address} for address in (*OUTSIDE, *OUTSIDE, "10.0.0.1", "10.0.1.9")),
        *({"node": name} for name in ("n1", "n2")),
        {"entity": draw(st.sampled_from(PEER_ENTITIES))},
    ]
    found = {
        "direction": draw(st.sampled_from(["egress", "egress", "ingress"])),
        "subject": draw(st.sampled_from(["a", "a", "a", "b", "c", "init"])),
        "peer": draw(st.sampled_from(peers)),
    }
    protocol = draw(st.sampled_from(["TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", "ICMP", "ICMPv6"]))
    found["protocol"] = protocol
    if protocol.startswith("ICMP"):
        return {**found, "icmp_type": draw(st.sampled_from([0, 3, 8, 128]))}
    found["port"] = draw(st.sampled_from([*PORTS, 80, 80, 53, 54, 1]))
    if found["port"] == 53 and maybe(draw):
        found["dns_query"] = draw(st.sampled_from([*NAMES, "x.com"]))
    return found


PASSING = [passing_policy, naming_policy, tiered_policy]
FLAVOURS = [
    [cilium_policy],
    [cilium_policy, network_policy],
    [tiered_policy, tiered_policy, network_policy],
    [tiered_policy, tiered_policy, tiered_policy, cilium_policy],
    PASSING,
]


@st.composite
def requests(
    draw: Draw, flows: int = 25, most_policies: int = 5, flavour: list[Any] | None = None
) -> Json:
    """A whole request; ``flows`` of them at once, since a flow is cheap beside its cluster."""
    # Kinds meet in one request, and each is drawn enough by itself.
    kinds = st.sampled_from(flavour or draw(st.sampled_from(FLAVOURS)))
    policies = [draw(kinds)(draw) for _ in range(draw(st.integers(1, most_policies)))]
    return {
        "id": 0,
        **cluster(draw),
        "policies": _told_apart(policies),
        "flows": [flow(draw) for _ in range(flows)],
    }


def _told_apart(policies: list[Json]) -> list[Json]:
    """Objects of one kind have names of their own; the baseline one has but one name."""
    baseline = [p for p in policies if p["kind"] == "BaselineAdminNetworkPolicy"]
    found = [policy for policy in policies if policy not in baseline[1:]]
    for number, policy in enumerate(found):
        if policy not in baseline:
            policy["metadata"]["name"] += str(number)
    return found
