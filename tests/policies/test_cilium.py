"""Parsing Cilium policies: what is read, and every mistake with its path and line."""

from __future__ import annotations

from textwrap import dedent

import pytest

from policies.describe import selecting_labels
from policies.features import Feature, unsupported
from policies.model import DnsRules, GenericRules, HttpRules, Listener
from policies.parse import parse_policies
from tests.policies.worlds import ccnp, cnp

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\n"
EGRESS = "spec.egress[0]"
INGRESS = "spec.ingress[0]"

MISTAKES = [
    ("endpointSelector: {}\nfoo: 1", "spec.foo", "no such field"),
    ("egress: [{}]", "spec", "endpointSelector"),
    ("endpointSelector: {}\nnodeSelector: {}", "spec", "cannot have both"),
    ("nodeSelector: {}", "spec.nodeSelector", "Clusterwide"),
    ("endpointSelector: {matchLabels: {a: 1}}", "spec.endpointSelector.matchLabels['a']", '"1"'),
    ("endpointSelector: {matchLabels: {'a b': x}}", "spec.endpointSelector.matchLabels['a b']", ""),
    ("endpointSelector: {matchLabels: {a: '-'}}", "spec.endpointSelector.matchLabels['a']", "'-'"),
    (
        "endpointSelector: {matchExpressions: [{key: a, operator: Has}]}",
        "spec.endpointSelector.matchExpressions[0].operator",
        "In, NotIn, Exists or DoesNotExist",
    ),
    (
        "endpointSelector: {matchExpressions: [{key: a, operator: In}]}",
        "spec.endpointSelector.matchExpressions[0]",
        "needs values",
    ),
    (
        "endpointSelector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
        "spec.endpointSelector.matchExpressions[0]",
        "takes no values",
    ),
    ("egress: [{toCIDR: [10.0.0.0/33]}]", f"{EGRESS}.toCIDR[0]", "33"),
    ("egress: [{toCIDR: [10.0.0.0/255.0.0.0]}]", f"{EGRESS}.toCIDR[0]", "prefix length"),
    ("egress: [{toCIDRSet: [{cidr: 10.0.0.1}]}]", f"{EGRESS}.toCIDRSet[0].cidr", "missing"),
    (
        "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]",
        f"{EGRESS}.toCIDRSet[0].except[0]",
        "inside",
    ),
    (
        "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: g}]}]",
        f"{EGRESS}.toCIDRSet[0]",
        "only one",
    ),
    (
        "egress: [{toCIDRSet: [{cidrGroupRef: g, except: [10.0.0.0/8]}]}]",
        f"{EGRESS}.toCIDRSet[0].except",
        "cannot be used",
    ),
    ("egress: [{toEntities: [moon]}]", f"{EGRESS}.toEntities[0]", "world"),
    ("egress: [{toEntities: [world], toCIDR: [10.0.0.0/8]}]", EGRESS, "one rule"),
    ("egress: [{toFQDNs: [{matchName: a.io}], toEndpoints: [{}]}]", EGRESS, "one rule"),
    ("egress: [{toFQDNs: [{}]}]", f"{EGRESS}.toFQDNs[0]", "matchName or matchPattern"),
    ("egress: [{toFQDNs: [{matchPattern: 'a b'}]}]", f"{EGRESS}.toFQDNs[0].matchPattern", "a b"),
    ("egressDeny: [{toFQDNs: []}]", "spec.egressDeny[0].toFQDNs", "no such field"),
    ("ingress: [{fromFQDNs: []}]", f"{INGRESS}.fromFQDNs", "no such field"),
    ("ingress: [{fromRequires: [{}]}]", f"{INGRESS}.fromRequires", "must be empty"),
    ("egress: [{toPorts: [{ports: [{port: 80}]}]}]", f"{EGRESS}.toPorts[0].ports[0].port", '"80"'),
    ("egress: [{toPorts: [{ports: [{}]}]}]", f"{EGRESS}.toPorts[0].ports[0]", "needs port"),
    (
        "egress: [{toPorts: [{ports: [{port: '65536'}]}]}]",
        f"{EGRESS}.toPorts[0].ports[0].port",
        "65535",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '80', protocol: tcp}]}]}]",
        f"{EGRESS}.toPorts[0].ports[0].protocol",
        "TCP",
    ),
    (
        "egress: [{toPorts: [{ports: [" + "{port: '1'}, " * 41 + "]}]}]",
        f"{EGRESS}.toPorts[0].ports",
        "at most 40",
    ),
    (
        "egress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '1'}]}]}]",
        f"{EGRESS}.icmps",
        "beside toPorts",
    ),
    ("egress: [{icmps: [{fields: [{type: 256}]}]}]", f"{EGRESS}.icmps[0].fields[0].type", "255"),
    ("egress: [{icmps: [{fields: [{type: Ping}]}]}]", f"{EGRESS}.icmps[0].fields[0].type", "Ping"),
    (
        "egress: [{icmps: [{fields: [{type: 8, family: v4}]}]}]",
        f"{EGRESS}.icmps[0].fields[0].family",
        "IPv4",
    ),
    (
        "ingress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchName: a}]}}]}]",
        f"{INGRESS}.toPorts[0].rules",
        "egress only",
    ),
    ("egress: [{toPorts: [{rules: {dns: [{matchName: a}]}}]}]", f"{EGRESS}.toPorts[0].rules", "53"),
    (
        "egress: [{toPorts: [{ports: [{port: '53', endPort: 54}],"
        " rules: {dns: [{matchName: a}]}}]}]",
        f"{EGRESS}.toPorts[0].ports[0].endPort",
        "ranges",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: [{}]}}]}]",
        f"{EGRESS}.toPorts[0].rules.dns[0]",
        "needs",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '53'}], rules: {dns: []}}]}]",
        f"{EGRESS}.toPorts[0].rules.dns",
        "empty",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]",
        f"{EGRESS}.toPorts[0].rules",
        "TCP",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}]}]",
        f"{EGRESS}.toPorts[0].rules",
        "port 0",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " rules: {http: [{}], dns: [{matchName: a}]}}]}]",
        f"{EGRESS}.toPorts[0].rules",
        "only one",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " rules: {http: [{path: '('}]}}]}]",
        f"{EGRESS}.toPorts[0].rules.http[0].path",
        "regular expression",
    ),
    (
        "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {kafka: []}}]}]",
        f"{EGRESS}.toPorts[0].rules.kafka",
        "removed",
    ),
    (
        "egressDeny: [{toPorts: [{ports: [{port: '80'}], rules: {}}]}]",
        "spec.egressDeny[0].toPorts[0].rules",
        "no such field",
    ),
    (
        "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " listener: {name: l, envoyConfig: {name: e}}}]}]",
        f"{INGRESS}.toPorts[0].listener",
        "egress only",
    ),
    ("egress: [{authentication: {mode: maybe}}]", f"{EGRESS}.authentication.mode", "required"),
    ("egress: {}", "spec.egress", "a list"),
    ("egress: [1]", EGRESS, "a mapping"),
    ("enableDefaultDeny: {egress: 1}", "spec.enableDefaultDeny.egress", "true or false"),
    (f"log: {{value: {'x' * 33}}}", "spec.log.value", "at most 32"),
    (
        "egress: [{toServices: [{k8sService: {serviceName: s}}],"
        " toPorts: [{ports: [{port: '1'}]}]}]",
        f"{EGRESS}.toServices",
        "beside toPorts",
    ),
    (
        "egress: [{toServices: [{k8sService: {}}]}]",
        f"{EGRESS}.toServices[0].k8sService",
        "serviceName",
    ),
    (
        "egress: [{toServices: [{k8sServiceSelector: {}}]}]",
        f"{EGRESS}.toServices[0].k8sServiceSelector",
        "needs selector",
    ),
    ("egress: [{toGroups: [{}]}]", f"{EGRESS}.toGroups[0]", "needs aws"),
    ("egress: [{authentication: {}}]", f"{EGRESS}.authentication", "needs mode"),
    ("labels: [{value: x}]", "spec.labels[0]", "needs key"),
    ("egress: [{toServices: [{}]}]", f"{EGRESS}.toServices[0]", "k8sService"),
]


@pytest.mark.parametrize(("spec", "path", "words"), MISTAKES)
def test_a_mistake_is_named_by_its_path(spec: str, path: str, words: str) -> None:
    if "Selector" not in spec.split(":")[0] and path != "spec":
        spec = "endpointSelector: {}\n" + spec
    body = "\n".join("  " + line for line in spec.splitlines())
    result = parse_policies(f"{HEAD}spec:\n{body}\n", "x.yaml")
    assert result.policies == ()
    assert [e.path for e in result.errors] == [path], [str(e) for e in result.errors]
    assert words in result.errors[0].message


def test_all_mistakes_are_told_at_once_with_their_lines() -> None:
    result = parse_policies(
        HEAD
        + dedent("""\
        spec:
          endpointSelector: {}
          egress:
          - toCIDR:
            - nonsense
          - toEntities:
            - moon
            toPorts:
            - ports:
              - port: "ht:p"
        ---
        kind: Unknown
        ---
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: good}
        spec: {endpointSelector: {}}
        """),
        "x.yaml",
    )
    assert [(e.line, e.path) for e in result.errors] == [
        (8, "spec.egress[0].toCIDR[0]"),
        (10, "spec.egress[1].toEntities[0]"),
        (13, "spec.egress[1].toPorts[0].ports[0].port"),
        (15, ""),
    ]
    assert str(result.errors[0]).startswith("x.yaml:8: spec.egress[0].toCIDR[0]: ")
    assert [p.name for p in result.policies] == ["good"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec: {endpointSelector: {}}", "api"),
        ("apiVersion: cilium.io/v2\nmetadata: {name: a}", "needs kind"),
        ("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nspec: {}", "needs metadata"),
        (HEAD, "needs spec or specs"),
        (HEAD.replace("x", "X y"), "is not a name"),
        ("apiVersion: v9\nkind: CiliumNetworkPolicy\nmetadata: {name: a}", "cilium.io/v2"),
    ],
)
def test_a_broken_frame_is_an_error(text: str, words: str) -> None:
    result = parse_policies(text, "x")
    assert result.policies == ()
    assert any(words in str(e) for e in result.errors), result.errors


def test_a_list_of_policies_is_read() -> None:
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: cilium.io/v2
  kind: CiliumNetworkPolicy
  metadata: {name: a}
  spec: {endpointSelector: {}, egress: [{toCIDR: [x]}]}
- apiVersion: cilium.io/v2
  kind: CiliumNetworkPolicy
  metadata: {name: b, namespace: n, annotations: {x: "y"}, uid: abc}
  spec: {endpointSelector: {}}
  status: {whatever: 1}
"""
    result = parse_policies(text, "x")
    assert [(p.namespace, p.name) for p in result.policies] == [("n", "b")]
    assert [e.path for e in result.errors] == ["items[0].spec.egress[0].toCIDR[0]"]


LAYER7 = """
egress:
- toPorts:
  - ports: [{port: "53", protocol: ANY}]
    rules: {dns: [{matchName: A.io, matchPattern: "*.B.io."}]}
- toPorts:
  - ports: [{port: "80", protocol: TCP}]
    rules:
      http:
      - {path: "/a/.*", method: GET, host: "x", headers: ["X-A: 1"], headerMatches: [
          {name: X-B, value: "2", mismatch: REPLACE}, {name: X-C, secret: {namespace: n, name: s}}]}
- toPorts:
  - ports: [{port: "9000", protocol: TCP}]
    rules: {l7proto: envoy.x, l7: [{a: b}]}
- toPorts:
  - ports: [{port: "443", protocol: TCP}]
    serverNames: ["*.A.io"]
    originatingTLS: {secret: {namespace: n, name: s}}
    terminatingTLS: {secret: {namespace: n, name: t}, certificate: c}
- toPorts:
  - ports: [{port: "444", protocol: TCP}]
    listener: {envoyConfig: {kind: CiliumEnvoyConfig, name: e}, name: l, priority: 7}
- authentication: {mode: required}
  toServices: [{k8sService: {serviceName: s}}]
- toNodes: [{matchLabels: {a: b}}]
- toGroups: [{aws: {securityGroupsIds: [sg-1]}}]
- toCIDRSet: [{cidrGroupRef: g}]
"""


def test_layer_7_is_parsed_and_carried() -> None:
    (policy,) = cnp(LAYER7)
    ports = [rule.ports[0] if rule.ports else None for rule in policy.rules]
    dns, http, generic, tls, listener = ports[:5]
    assert dns is not None
    assert isinstance(dns.l7, DnsRules)
    assert [s.text for s in dns.l7.selectors] == ["a.io", "*.b.io"]
    assert http is not None
    assert isinstance(http.l7, HttpRules)
    assert http.l7.rules[0].header_matches[1].secret == "n/s"
    assert generic is not None
    assert generic.l7 == GenericRules("envoy.x", ((("a", "b"),),))
    assert tls is not None
    assert tls.server_names == ("*.a.io",)
    assert tls.originating_tls is not None
    assert tls.terminating_tls is not None
    assert listener is not None
    assert listener.listener == Listener("CiliumEnvoyConfig", "e", "l", 7)
    assert policy.rules[5].authentication == "required"


def test_what_is_not_enforced_is_refused_by_name_path_and_line() -> None:
    found = unsupported(cnp(LAYER7))
    assert [(e.path, e.message.split(" is ")[0]) for e in found] == [
        ("spec.egress[1].toPorts[0].rules.http", "rules.http"),
        ("spec.egress[2].toPorts[0].rules.l7proto", "rules.l7proto"),
        ("spec.egress[3].toPorts[0].serverNames", "serverNames"),
        ("spec.egress[3].toPorts[0].terminatingTLS", "terminatingTLS/originatingTLS"),
        ("spec.egress[3].toPorts[0].originatingTLS", "terminatingTLS/originatingTLS"),
        ("spec.egress[4].toPorts[0].listener", "listener"),
        ("spec.egress[5].authentication.mode", "authentication"),
        ("spec.egress[5].toServices", "toServices"),
        ("spec.egress[6].toNodes", "toNodes/fromNodes"),
        ("spec.egress[7].toGroups", "toGroups/fromGroups"),
        ("spec.egress[8].toCIDRSet", "cidrGroupRef/cidrGroupSelector"),
    ]
    assert all(e.line for e in found)
    assert unsupported(cnp(LAYER7), frozenset(Feature)) == ()
    assert unsupported(ccnp("nodeSelector: {}\ningress: [{}]"))[0].path == "spec.nodeSelector"


def test_labels_description_and_log_are_carried() -> None:
    (policy,) = cnp(
        "labels: [{key: a, value: b}, {key: c, source: k8s}]\n"
        "description: why\nlog: {value: tag}\negress: [{authentication: {mode: disabled}}]"
    )
    (spec,) = policy.specs
    assert spec.labels == ("unspec:a=b", "k8s:c")
    assert (spec.description, spec.log) == ("why", "tag")
    assert unsupported((policy,)) == ()


def test_groups_of_prefixes_are_read_and_their_mistakes_named() -> None:
    head = "apiVersion: cilium.io/v2alpha1\nkind: CiliumCIDRGroup\nmetadata: {name: g}\n"
    (group,) = parse_policies(head + "spec: {externalCIDRs: [10.1.2.3/8]}", "x").cidr_groups
    assert list(map(str, group.cidrs)) == ["10.0.0.0/8"]
    (error,) = parse_policies(head + "spec: {externalCIDRs: [x]}", "x").errors
    assert error.path == "spec.externalCIDRs[0]"
    (error,) = parse_policies(head, "x").errors
    assert "needs spec" in error.message


def test_a_policy_for_nodes_has_no_http() -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: x}\n"
        "spec: {nodeSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}],"
        " rules: {http: [{}]}}]}]}"
    )
    (error,) = parse_policies(text, "x").errors
    assert error.path == "spec.ingress[0].toPorts[0]"


def test_a_clusterwide_policy_has_no_namespace() -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n"
        "metadata: {name: x, namespace: n}\nspec: {endpointSelector: {}}"
    )
    (error,) = parse_policies(text, "x").errors
    assert error.path == "metadata.namespace"


def test_labels_that_would_select_are_told() -> None:
    found = cnp(
        "endpointSelector: {matchLabels: {app: web, 'k8s:tier': a}, "
        "matchExpressions: [{key: env, operator: NotIn, values: [dev]}]}",
        "one",
        "apps",
    ) + ccnp("endpointSelector: {}", "two")
    assert selecting_labels(found) == {
        "CiliumNetworkPolicy apps/one": ("app=web, k8s:tier=a, env not in (dev) in namespace apps"),
        "CiliumClusterwideNetworkPolicy two": "any labels",
    }
