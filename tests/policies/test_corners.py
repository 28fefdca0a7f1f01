"""The corners of the language where readers go wrong (reference, datapath §2.5), one test each."""

from __future__ import annotations

import pytest

from policies.cluster import Cluster, Endpoint, Node
from policies.identity import Direction, Protocol
from policies.options import Enforcement, Options
from policies.parse import parse_policies
from tests.policies.worlds import CLUSTER, ccnp, cnp, ingress, judge, policies, verdict


def test_an_empty_rule_selects_nothing_and_turns_default_deny_on() -> None:
    found = cnp("egress: [{}]")
    assert verdict(found, "db") == "deny"
    assert verdict(found, "192.0.2.1") == "deny"
    assert ingress(found, "db") == "allow"


@pytest.mark.parametrize("ports", ["", ', toPorts: [{ports: [{port: "80"}]}]'])
def test_an_empty_list_of_peers_selects_nothing(ports: str) -> None:
    assert ingress(cnp(f"ingress: [{{fromEndpoints: []{ports}}}]"), "db") == "deny"


def test_an_empty_list_of_ports_allows_nothing() -> None:
    assert ingress(cnp("ingress: [{toPorts: [{ports: []}]}]"), "db") == "deny"


def test_one_empty_selector_is_the_whole_namespace() -> None:
    found = cnp("ingress: [{fromEndpoints: [{}]}]")
    assert ingress(found, "db") == "allow"
    assert ingress(found, "other") == "deny"
    assert ingress(found, "entity:world") == "deny"
    assert ingress(found, "entity:host") == "deny"


def test_deny_beats_allow_whatever_is_more_specific() -> None:
    found = cnp("""
        egress: [{toEndpoints: [{matchLabels: {app: db}}], toPorts: [{ports: [{port: "80"}]}]}]
        egressDeny: [{toEntities: [all]}]
    """)
    assert verdict(found, "db") == "deny"


def test_a_redirect_beats_an_l3_allow_at_its_port() -> None:
    found = cnp("""
        egress:
        - toEndpoints: [{matchLabels: {app: db}}]
        - toEndpoints: [{matchLabels: {app: db}}]
          toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /a}]}}]
    """)
    assert verdict(found, "db") == "redirect"
    assert verdict(found, "db", "81/TCP") == "allow"
    assert judge(found, "db").l7.allowed[0][0].path == "/a"  # type: ignore[union-attr]


def test_a_plain_permission_of_the_same_port_voids_the_dns_rules() -> None:
    rule = 'toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchName: a.io}]}}]'
    plain = 'toPorts: [{ports: [{port: "53", protocol: UDP}]}]'
    restricted = cnp(f"egress: [{{{rule}}}]")
    both = cnp(f"egress: [{{{rule}}}, {{{plain}}}]")
    assert verdict(restricted, "dns", "53/UDP", dns_query="b.io") == "deny"
    assert verdict(restricted, "dns", "53/UDP", dns_query="A.io.") == "redirect"
    assert verdict(both, "dns", "53/UDP", dns_query="b.io") == "redirect"


def test_dns_rules_of_several_policies_add_up_for_one_server() -> None:
    to_dns = "toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system}}]"
    rule = "toPorts: [{ports: [{port: '53', protocol: UDP}], rules: {dns: [{matchName: %s}]}}]"
    found = cnp(f"egress: [{{{to_dns}, {rule % 'a.io'}}}]") + cnp(
        f"egress: [{{{rule % 'b.io'}}}]", "q"
    )
    assert verdict(found, "dns", "53/UDP", dns_query="a.io") == "redirect"
    assert verdict(found, "dns", "53/UDP", dns_query="b.io") == "redirect"
    assert verdict(found, "192.0.2.53", "53/UDP", dns_query="a.io") == "deny"
    assert verdict(found, "192.0.2.53", "53/UDP", dns_query="b.io") == "redirect"
    assert str(judge(found, "dns", "53/UDP", dns_query="b.io").rule).startswith(
        "CiliumNetworkPolicy default/q spec.egress[0]"
    )


def test_default_deny_true_without_rules_has_no_effect() -> None:
    found = cnp("enableDefaultDeny: {egress: true, ingress: true}\ningress: [{}]")
    assert verdict(found, "db") == "allow"
    assert ingress(found, "db") == "deny"


def test_default_deny_false_still_redirects_and_denies_and_allows_the_rest() -> None:
    found = cnp("""
        enableDefaultDeny: {egress: false}
        egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]}]
        egressDeny: [{toCIDR: [192.0.2.9/32]}]
    """)
    assert verdict(found, "db") == "redirect"
    assert verdict(found, "db", "81/TCP") == "allow"
    assert verdict(found, "192.0.2.9", "81/TCP") == "deny"


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "10.244.0.2/32"])
def test_cidrs_never_match_pods_or_reserved_entities(cidr: str) -> None:
    found = cnp(f"egress: [{{toCIDR: [{cidr}]}}]")
    assert verdict(found, "db") == "deny"
    assert verdict(found, "10.244.0.2") == "deny"
    assert verdict(found, "entity:host") == "deny"


def test_the_whole_world_as_a_cidr() -> None:
    found = cnp("egress: [{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]}]")
    assert verdict(found, "192.0.2.1") == "allow"
    assert verdict(found, "10.2.3.4") == "deny"
    assert verdict(found, "2001:db8::1") == "deny"
    assert verdict(found, "entity:world-ipv4") == "allow"


def test_a_cidr_deny_applies_to_learned_addresses() -> None:
    found = cnp("""
        egress: [{toFQDNs: [{matchPattern: "*.io"}]}]
        egressDeny: [{toCIDR: [10.2.0.0/16]}]
    """)
    assert verdict(found, "192.0.2.2") == "allow"
    assert verdict(found, "10.2.0.9") == "deny"


def test_except_applies_to_learned_addresses_of_the_cidr_rule_only() -> None:
    found = cnp("""
        egress:
        - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.2.0.0/16]}]
    """)
    assert verdict(found, "10.2.0.9") == "deny"
    assert verdict(found, "10.3.0.9") == "allow"


def test_a_learned_address_is_still_world() -> None:
    assert verdict(cnp("egress: [{toEntities: [world]}]"), "10.2.0.9") == "allow"
    assert verdict(cnp("egressDeny: [{toEntities: [world]}]"), "10.2.0.9") == "deny"


@pytest.mark.parametrize(
    "entity",
    ["host", "remote-node", "health", "ingress", "init", "unmanaged", "kube-apiserver"],
)
def test_the_cluster_entity_includes(entity: str) -> None:
    assert ingress(cnp("ingress: [{fromEntities: [cluster]}]"), f"entity:{entity}") == "allow"


def test_the_cluster_entity_is_all_pods_and_not_the_world() -> None:
    found = cnp("ingress: [{fromEntities: [cluster]}]")
    assert ingress(found, "other") == "allow"
    assert ingress(found, "entity:world") == "deny"
    assert ingress(found, "192.0.2.1") == "deny"


def test_kube_apiserver_is_a_remote_node_too() -> None:
    assert verdict(cnp("egress: [{toEntities: [remote-node]}]"), "entity:kube-apiserver") == "allow"
    assert verdict(cnp("egress: [{toEntities: [kube-apiserver]}]"), "entity:remote-node") == "deny"


@pytest.mark.parametrize(
    "selector", ["{}", "{matchExpressions: [{key: app, operator: NotIn, values: [nothing]}]}"]
)
def test_a_clusterwide_empty_peer_means_pods_only(selector: str) -> None:
    found = ccnp(f"endpointSelector: {{}}\ningress: [{{fromEndpoints: [{selector}]}}]")
    assert ingress(found, "other") == "allow"
    assert ingress(found, "entity:world") == "deny"
    assert ingress(found, "entity:host") == "deny"


def test_a_namespace_label_lifts_the_limit_to_the_own_namespace() -> None:
    key = "k8s:io.cilium.k8s.namespace.labels.team"
    found = cnp(f"ingress: [{{fromEndpoints: [{{matchLabels: {{'{key}': red}}}}]}}]")
    assert ingress(found, "other") == "allow"
    assert ingress(found, "db") == "deny"


@pytest.mark.parametrize("key", ["k8s:io.kubernetes.pod.namespace", "io.kubernetes.pod.namespace"])
def test_a_namespace_key_in_a_peer_lifts_the_limit(key: str) -> None:
    found = cnp(f"ingress: [{{fromEndpoints: [{{matchLabels: {{'{key}': other}}}}]}}]")
    assert ingress(found, "other") == "allow"
    assert ingress(found, "db") == "deny"


def test_a_subjects_foreign_namespace_is_replaced_by_the_policys() -> None:
    key = "k8s:io.kubernetes.pod.namespace"
    found = cnp(f"endpointSelector: {{matchLabels: {{'{key}': other}}}}\ningress: [{{}}]")
    assert ingress(found, "db") == "deny"
    assert ingress(found, "db", subject="other") == "allow"


def test_the_same_key_without_a_source_selects_nothing() -> None:
    key = "io.kubernetes.pod.namespace"
    found = cnp(f"endpointSelector: {{matchLabels: {{'{key}': other}}}}\ningress: [{{}}]")
    assert ingress(found, "db") == "allow"
    assert ingress(found, "db", subject="other") == "allow"


@pytest.mark.parametrize("protocol", ["", ", protocol: ANY"])
def test_any_protocol_means_tcp_udp_sctp_and_never_icmp(protocol: str) -> None:
    found = cnp(f'egress: [{{toPorts: [{{ports: [{{port: "8"{protocol}}}]}}]}}]')
    for name in ("TCP", "UDP", "SCTP"):
        assert verdict(found, "db", f"8/{name}") == "allow"
    assert verdict(found, "db", "8/ICMP") == "deny"


def test_port_zero_means_every_port_of_the_protocols_with_ports() -> None:
    found = cnp('egress: [{toPorts: [{ports: [{port: "0", protocol: TCP}]}]}]')
    assert verdict(found, "db", "65535/TCP") == "allow"
    assert verdict(found, "db", "1/UDP") == "deny"


def test_icmp_type_zero_means_type_zero() -> None:
    found = cnp("egress: [{icmps: [{fields: [{type: 0}]}]}]")
    assert verdict(found, "db", "0/ICMP") == "allow"
    assert verdict(found, "db", "8/ICMP") == "deny"
    assert verdict(found, "db", "0/ICMPV6") == "deny"


def test_icmp_types_by_name() -> None:
    found = cnp("egress: [{icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]}]")
    assert verdict(found, "db", "128/ICMPV6") == "allow"
    assert verdict(found, "db", "8/ICMP") == "deny"


def test_no_fqdn_selects_nothing_even_with_ports() -> None:
    found = cnp('egress: [{toFQDNs: [], toPorts: [{ports: [{port: "80"}]}]}]')
    assert verdict(found, "192.0.2.1") == "deny"


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ('{port: "80", endPort: 70}', "below"),
        ('{port: "0", endPort: 70}', "port 0"),
        ('{port: "http", endPort: 70}', "name"),
    ],
)
def test_odd_port_ranges_are_errors(ports: str, words: str) -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\n"
        f"spec: {{endpointSelector: {{}}, egress: [{{toPorts: [{{ports: [{ports}]}}]}}]}}\n"
    )
    errors = parse_policies(text, "t").errors
    assert len(errors) == 1
    assert words in errors[0].message
    assert errors[0].path == "spec.egress[0].toPorts[0].ports[0].endPort"


def test_learned_names_open_their_addresses_at_the_rules_ports() -> None:
    found = cnp("""
        egress:
        - toFQDNs: [{matchPattern: "*.cilium.io"}]
          toPorts: [{ports: [{port: "443", protocol: TCP}]}]
    """)
    assert verdict(found, "192.0.2.1", "443/TCP") == "allow"
    assert verdict(found, "192.0.2.1", "80/TCP") == "deny"
    assert verdict(found, "192.0.2.2", "443/TCP") == "deny"
    assert verdict(found, "name:docs.cilium.io", "443/TCP") == "allow"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(Enforcement.ALWAYS, "deny"), (Enforcement.DEFAULT, "allow"), (Enforcement.NEVER, "allow")],
)
def test_enforcement_modes_without_a_policy(mode: Enforcement, expected: str) -> None:
    assert verdict((), "db", options=Options(enforcement=mode)) == expected


def test_enforcement_never_ignores_policies() -> None:
    assert verdict(cnp("egress: [{}]"), "db", options=Options(Enforcement.NEVER)) == "allow"


def test_clusterwide_policies_reach_every_namespace_and_carry_no_namespace() -> None:
    found = ccnp("endpointSelector: {matchLabels: {app: web}}\negress: [{}]")
    assert verdict(found, "db") == "deny"
    assert verdict(found, "db", subject="other") == "deny"
    assert verdict(found, "web", subject="db") == "allow"


NODES = Cluster(
    {**CLUSTER.endpoints},
    {"n1": Node("n1", (("zone", "a"),)), "n2": Node("n2", (("zone", "b"),))},
)


def test_policies_on_nodes_select_nodes_and_others_do_not() -> None:
    found = ccnp("nodeSelector: {matchLabels: {zone: a}}\ningress: [{fromEntities: [cluster]}]")
    assert ingress(found, "entity:world", subject="n1", cluster=NODES) == "deny"
    assert ingress(found, "web", subject="n1", cluster=NODES) == "allow"
    assert ingress(found, "entity:world", subject="n2", cluster=NODES) == "allow"
    assert ingress(found, "entity:world", subject="web", cluster=NODES) == "allow"
    pods = ccnp("endpointSelector: {}\ningress: [{}]")
    assert ingress(pods, "web", subject="n1", cluster=NODES) == "allow"
    assert ingress(pods, "web", subject="db", cluster=NODES) == "deny"


def test_nodes_as_peers_by_their_labels() -> None:
    found = cnp("egress: [{toNodes: [{matchLabels: {zone: a}}]}]")
    assert verdict(found, "node:n1", cluster=NODES) == "allow"
    assert verdict(found, "node:n2", cluster=NODES) == "deny"
    assert verdict(found, "db", cluster=NODES) == "deny"


def test_other_clusters_are_reached_only_where_named() -> None:
    far = Endpoint("far", (("app", "db"),), cluster="far")
    cluster = Cluster({**CLUSTER.endpoints, "far": far})
    local = cnp("egress: [{toEndpoints: [{matchLabels: {app: db}}]}]")
    assert verdict(local, "db", cluster=cluster) == "allow"
    assert verdict(local, "far", cluster=cluster) == "deny"
    key = "k8s:io.cilium.k8s.policy.cluster"
    named = cnp(f"egress: [{{toEndpoints: [{{matchLabels: {{'{key}': far}}}}]}}]")
    assert verdict(named, "far", cluster=cluster) == "allow"
    assert verdict(named, "db", cluster=cluster) == "deny"
    every = Options(default_local_cluster=False)
    assert verdict(local, "far", cluster=cluster, options=every) == "allow"


def test_an_endpoint_without_identity_is_closed_until_a_policy_opens_it() -> None:
    cluster = Cluster({**CLUSTER.endpoints, "new": Endpoint("new", (("reserved:init", ""),))})
    assert verdict((), "db", subject="new", cluster=cluster) == "deny"
    text = "endpointSelector: {matchLabels: {'reserved:init': ''}}\negress: [{toEntities: [all]}]"
    assert verdict(ccnp(text), "db", subject="new", cluster=cluster) == "allow"


def test_the_node_may_reach_its_endpoints_where_that_is_the_option() -> None:
    found = cnp("ingress: [{}]")
    local = Options(allow_localhost=True)
    assert ingress(found, "entity:host") == "deny"
    assert ingress(found, "entity:host", options=local) == "allow"
    assert ingress(found, "db", options=local) == "deny"
    denied = cnp("ingressDeny: [{fromEntities: [host]}]")
    assert ingress(denied, "entity:host", options=local) == "deny"


def test_a_named_port_is_each_peers_own_and_the_world_has_none() -> None:
    ports = (("http", 8080, Protocol.TCP),)
    named = Endpoint("named", (("app", "db"),), named_ports=ports)
    cluster = Cluster({**CLUSTER.endpoints, "named": named}, names=CLUSTER.names)
    found = cnp("egress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}]}]}]")
    assert verdict(found, "named", "8080/TCP", cluster=cluster) == "allow"
    assert verdict(found, "named", "8080/UDP", cluster=cluster) == "deny"
    assert verdict(found, "named", "80/TCP", cluster=cluster) == "deny"
    assert verdict(found, "dns", "8080/TCP", cluster=cluster) == "deny"
    assert verdict(found, "192.0.2.1", "8080/TCP", cluster=cluster) == "deny"
    into = cnp("ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]")
    assert ingress(into, "192.0.2.1", "8080/TCP", subject="named", cluster=cluster) == "allow"
    assert ingress(into, "192.0.2.1", "80/TCP", subject="named", cluster=cluster) == "deny"


def test_several_specs_each_have_their_subject() -> None:
    found = policies("""
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: two}
        specs:
        - endpointSelector: {matchLabels: {app: web}}
          egress: [{toEntities: [world]}]
        - endpointSelector: {matchLabels: {app: db}}
          ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]
    """)
    assert verdict(found, "192.0.2.1") == "allow"
    assert verdict(found, "db") == "deny"
    assert ingress(found, "web", subject="db") == "allow"
    assert ingress(found, "other", subject="db") == "deny"
    rule = judge(found, "web", direction=Direction.INGRESS, subject="db").rule
    assert rule is not None
    assert rule.path == "specs[1].ingress[0]"
