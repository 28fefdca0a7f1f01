"""Kubernetes' own kinds of policy: the documented examples' outcomes, and every mistake's path."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import dedent

import pytest

from policies.cluster import Cluster, Endpoint, Node
from policies.identity import Protocol
from policies.parse import parse_policies
from tests.policies.worlds import ingress, policies, verdict

KNP = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: k}\n"
CNP2 = (
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    "metadata: {name: c}\n"
)
ANP = (
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n"
)
BANP = (
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n"
    "metadata: {name: default}\n"
)


def _pod(
    name: str, namespace: str = "default", ip: str = "", ports: str = "", **labels: str
) -> Endpoint:
    pairs = [text.split("=") for text in ports.split()]
    named = tuple((text, int(port), Protocol.TCP) for text, port in pairs)
    ips = (ip_address(ip),) if ip else ()
    return Endpoint(name, tuple(labels.items()), namespace, ips, named)


CLUSTER = Cluster(
    {
        pod.name: pod
        for pod in (
            _pod("db", ip="10.0.0.2", ports="redis=6379", role="db"),
            _pod("frontend", ip="10.0.0.3", role="frontend"),
            _pod("other", ip="172.17.5.5", role="other"),
            _pod("project", "myproject", role="client"),
            _pod("project-frontend", "myproject", role="frontend"),
            _pod("stranger", "strange", role="frontend"),
        )
    },
    nodes={"n1": Node("n1", (("zone", "x"),), (ip_address("172.17.9.9"),))},
    namespaces={"myproject": {"project": "myproject"}},
    names={"blog.kubernetes.io": (ip_address("192.0.2.5"),)},
)

TEST_NETWORK_POLICY = """
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: myproject}}
    - podSelector: {matchLabels: {role: frontend}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{protocol: TCP, port: 5978}]
"""


@pytest.mark.parametrize(
    ("peer", "port", "expected"),
    [
        ("frontend", "6379/TCP", "allow"),
        ("frontend", "6380/TCP", "deny"),
        ("frontend", "6379/UDP", "deny"),
        ("project", "6379/TCP", "allow"),
        ("stranger", "6379/TCP", "deny"),
        ("172.17.2.2", "6379/TCP", "allow"),
        ("172.17.1.2", "6379/TCP", "deny"),
        ("other", "6379/TCP", "allow"),  # a pod whose address lies in the block
        ("node:n1", "6379/TCP", "allow"),  # and a node whose address does
        ("entity:host", "6379/TCP", "deny"),
    ],
)
def test_the_documentations_policy_on_ingress(peer: str, port: str, expected: str) -> None:
    found = policies(KNP + TEST_NETWORK_POLICY)
    assert ingress(found, peer, port, subject="db", cluster=CLUSTER) == expected


@pytest.mark.parametrize(
    ("peer", "port", "expected"),
    [
        ("10.0.0.77", "5978/TCP", "allow"),
        ("frontend", "5978/TCP", "allow"),
        ("10.0.1.1", "5978/TCP", "deny"),
        ("10.0.0.77", "5979/TCP", "deny"),
    ],
)
def test_the_documentations_policy_on_egress(peer: str, port: str, expected: str) -> None:
    found = policies(KNP + TEST_NETWORK_POLICY)
    assert verdict(found, peer, port, subject="db", cluster=CLUSTER) == expected


@pytest.mark.parametrize(
    ("spec", "incoming", "outgoing"),
    [
        ("spec: {podSelector: {}}", "deny", "allow"),
        ("spec: {}", "deny", "allow"),
        ("spec: {podSelector: {}, policyTypes: [Ingress]}", "deny", "allow"),
        ("spec: {podSelector: {}, policyTypes: [Egress]}", "allow", "deny"),
        ("spec: {podSelector: {}, policyTypes: [Ingress, Egress]}", "deny", "deny"),
        ("spec: {podSelector: {}, ingress: [{}]}", "allow", "allow"),
        ("spec: {podSelector: {}, egress: [{}], policyTypes: [Egress]}", "allow", "allow"),
        ("spec: {podSelector: {}, egress: [{}]}", "deny", "allow"),
        ("spec: {podSelector: {}, ingress: [{from: []}]}", "allow", "allow"),
        ("spec: {podSelector: {}, ingress: [{ports: []}]}", "allow", "allow"),
        ("spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}", "allow", "allow"),
        (
            "spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
            "allow",
            "allow",
        ),
        # Rules for a direction that the policy is not for do not count.
        ("spec: {podSelector: {}, policyTypes: [Egress], ingress: [{}]}", "allow", "deny"),
        ("spec: {podSelector: {matchLabels: {role: none}}}", "allow", "allow"),
    ],
)
def test_what_is_missing_or_empty(spec: str, incoming: str, outgoing: str) -> None:
    found = policies(KNP + spec)
    assert ingress(found, "frontend", subject="db", cluster=CLUSTER) == incoming
    assert verdict(found, "frontend", subject="db", cluster=CLUSTER) == outgoing


def test_selectors_in_one_item_are_and_in_two_are_or() -> None:
    both = "[{namespaceSelector: {matchLabels: {project: myproject}},"
    both += " podSelector: {matchLabels: {role: frontend}}}]"
    either = both.replace("}}, pod", "}}}, {pod")
    for text, expected in ((both, "deny"), (either, "allow")):
        found = policies(KNP + f"spec: {{ingress: [{{from: {text}}}]}}")
        assert ingress(found, "project", subject="db", cluster=CLUSTER) == expected
        assert ingress(found, "project-frontend", subject="db", cluster=CLUSTER) == "allow"
        assert ingress(found, "frontend", subject="db", cluster=CLUSTER) == expected


def test_named_ports_are_the_destinations() -> None:
    found = policies(KNP + "spec: {ingress: [{ports: [{port: redis}]}]}")
    assert ingress(found, "frontend", "6379/TCP", subject="db", cluster=CLUSTER) == "allow"
    assert ingress(found, "frontend", "6379/TCP", subject="other", cluster=CLUSTER) == "deny"
    found = policies(KNP + "spec: {policyTypes: [Egress], egress: [{ports: [{port: redis}]}]}")
    assert verdict(found, "db", "6379/TCP", subject="frontend", cluster=CLUSTER) == "allow"
    assert verdict(found, "other", "6379/TCP", subject="frontend", cluster=CLUSTER) == "deny"
    assert verdict(found, "192.0.2.5", "6379/TCP", subject="frontend", cluster=CLUSTER) == "deny"


def test_a_port_may_be_a_protocol_alone_and_sctp() -> None:
    found = policies(KNP + "spec: {ingress: [{ports: [{protocol: SCTP}, {}]}]}")
    for l4, expected in (("9/SCTP", "allow"), ("9/TCP", "allow"), ("9/UDP", "deny")):
        assert ingress(found, "frontend", l4, subject="db", cluster=CLUSTER) == expected


SUBJECT = "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}"


def test_kubernetes_policies_never_reach_an_admins_decision() -> None:
    open_ = KNP + "spec: {ingress: [{}]}\n---\n"
    deny = CNP2 + SUBJECT + ", ingress: [{action: Deny, from: [{namespaces: {}}]}]}"
    assert ingress(policies(open_ + deny), "frontend", subject="db", cluster=CLUSTER) == "deny"
    assert ingress(policies(open_ + deny), "192.0.2.1", subject="db", cluster=CLUSTER) == "allow"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Accept", "Deny", "allow"),
        ("Deny", "Accept", "deny"),
        ("Pass", "Accept", "deny"),
        ("Pass", "Deny", "deny"),
    ],
)
def test_rules_are_asked_in_their_order(first: str, second: str, expected: str) -> None:
    closed = KNP + "spec: {podSelector: {}}\n---\n"
    rules = ", ".join(f"{{action: {a}, from: [{{namespaces: {{}}}}]}}" for a in (first, second))
    found = policies(closed + CNP2 + SUBJECT + f", ingress: [{rules}]}}")
    assert ingress(found, "frontend", subject="db", cluster=CLUSTER) == expected


@pytest.mark.parametrize(("low", "high", "expected"), [(5, 6, "allow"), (7, 6, "deny")])
def test_a_lower_priority_is_asked_first(low: int, high: int, expected: str) -> None:
    text = ""
    for priority, action in ((low, "Accept"), (high, "Deny")):
        head = CNP2.replace("name: c}", f"name: c{priority}}}")
        text += head + SUBJECT.replace("priority: 1", f"priority: {priority}")
        text += f", ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}\n---\n"
    assert ingress(policies(text), "frontend", subject="db", cluster=CLUSTER) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("kubernetes.io", "deny"),
        ("blog.kubernetes.io", "allow"),
        ("*.kubernetes.io", "allow"),
        ("www.kubernetes.io", "deny"),
    ],
)
def test_a_domains_star_is_one_or_more_labels(domain: str, expected: str) -> None:
    text = SUBJECT + f", egress: [{{action: Accept, to: [{{domainNames: ['{domain}']}}]}},"
    text += " {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}"
    found = policies(CNP2 + text)
    assert verdict(found, "192.0.2.5", subject="db", cluster=CLUSTER) == expected


def test_networks_match_pods_and_nodes_too() -> None:
    found = policies(
        CNP2 + SUBJECT + ", egress: [{action: Deny, to: [{networks: [172.17.0.0/16]}]}]}"
    )
    assert verdict(found, "other", subject="db", cluster=CLUSTER) == "deny"
    assert verdict(found, "node:n1", subject="db", cluster=CLUSTER) == "deny"
    assert verdict(found, "frontend", subject="db", cluster=CLUSTER) == "allow"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("action: Pass, to: [{namespaces: {}}]", "action: Accept, to: [{networks: [0.0.0.0/0]}]"),
        ("action: Pass, to: [{networks: [0.0.0.0/0]}]", "action: Accept, to: [{namespaces: {}}]"),
    ],
)
def test_a_pass_holds_for_all_that_is_true_of_an_address(first: str, second: str) -> None:
    """A pod is passed on by its labels and accepted by its address, or the other way round."""
    closed = KNP + "spec: {podSelector: {}, policyTypes: [Egress]}\n---\n"
    rules = f", egress: [{{{first}}}, {{{second}}}]}}"
    found = policies(closed + CNP2 + SUBJECT + rules)
    assert verdict(found, "frontend", subject="db", cluster=CLUSTER) == "deny"
    assert verdict(found, "10.0.0.3", subject="db", cluster=CLUSTER) == "deny"


def test_the_forerunners_mean_the_same() -> None:
    admin = ANP + dedent("""
        spec:
          priority: 3
          subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: db}}}}
          ingress:
          - action: Pass
            from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: frontend}}}}]
            ports: [{portRange: {start: 6000, end: 6999}}, {namedPort: redis}]
          - {action: Deny, from: [{namespaces: {}}]}
    """)
    base = BANP + dedent("""
        spec:
          subject: {namespaces: {}}
          ingress:
          - action: Deny
            from: [{namespaces: {}}]
            ports: [{portNumber: {protocol: TCP, port: 6380}}]
    """)
    found = policies(admin + "---\n" + base)
    for peer, l4, expected in (
        ("frontend", "6379/TCP", "allow"),
        ("frontend", "6380/TCP", "deny"),
        ("frontend", "7000/TCP", "deny"),
        ("project", "6379/TCP", "deny"),
    ):
        assert ingress(found, peer, l4, subject="db", cluster=CLUSTER) == expected
    assert ingress(found, "frontend", "6380/TCP", subject="other", cluster=CLUSTER) == "deny"
    assert ingress(found, "frontend", "80/TCP", subject="other", cluster=CLUSTER) == "allow"


MISTAKES = [
    (KNP, "spec: {ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]", "needs podSelector"),
    (
        KNP,
        "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
        "spec.ingress[0].from[0]",
        "beside",
    ),
    (
        KNP,
        "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}",
        "spec.ingress[0].from[0].ipBlock.except[0]",
        "inside",
    ),
    (
        KNP,
        "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
        "spec.ingress[0].from[0].ipBlock.except",
        "all of the block",
    ),
    (KNP, "spec: {policyTypes: [Sideways]}", "spec.policyTypes[0]", "Ingress or Egress"),
    (
        KNP,
        "spec: {ingress: [{ports: [{port: 80, endPort: 70}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "below",
    ),
    (
        KNP,
        "spec: {ingress: [{ports: [{port: http, endPort: 70}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "name",
    ),
    (
        KNP,
        "spec: {ingress: [{ports: [{endPort: 70}]}]}",
        "spec.ingress[0].ports[0].endPort",
        "needs port",
    ),
    (KNP, "spec: {ingress: [{ports: [{port: 0}]}]}", "spec.ingress[0].ports[0].port", "range"),
    (
        KNP,
        "spec: {ingress: [{ports: [{port: 'A b'}]}]}",
        "spec.ingress[0].ports[0].port",
        "name of a port",
    ),
    (
        KNP,
        "spec: {ingress: [{ports: [{port: 1, protocol: ICMP}]}]}",
        "spec.ingress[0].ports[0].protocol",
        "TCP",
    ),
    (KNP, "spec: {ingressDeny: []}", "spec.ingressDeny", "no such field"),
    (CNP2, "spec: {priority: 1, subject: {namespaces: {}}}", "spec", "needs tier"),
    (CNP2, "spec: {tier: Admin, subject: {namespaces: {}}}", "spec", "needs priority"),
    (CNP2, "spec: {tier: Admin, priority: 1}", "spec", "needs subject"),
    (CNP2, "spec: {tier: Top, priority: 1, subject: {namespaces: {}}}", "spec.tier", "Baseline"),
    (
        CNP2,
        "spec: {tier: Admin, priority: 1001, subject: {namespaces: {}}}",
        "spec.priority",
        "1000",
    ),
    (CNP2, "spec: {tier: Admin, priority: 1, subject: {}}", "spec.subject", "needs"),
    (
        CNP2,
        SUBJECT + ", ingress: [{action: Accept}]}",
        "spec.ingress[0]",
        "needs from",
    ),
    (CNP2, SUBJECT + ", ingress: [{from: [{namespaces: {}}]}]}", "spec.ingress[0]", "action"),
    (
        CNP2,
        SUBJECT + ", ingress: [{action: Allow, from: [{namespaces: {}}]}]}",
        "spec.ingress[0].action",
        "Accept",
    ),
    (
        CNP2,
        SUBJECT + ", ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]}",
        "spec.ingress[0].from[0].networks",
        "no such field",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Deny, to: [{domainNames: [a.io]}]}]}",
        "spec.egress[0].to[0].domainNames",
        "accepted",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Accept, to: [{domainNames: ['a*.io']}]}]}",
        "spec.egress[0].to[0].domainNames[0]",
        "first label",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Deny, to: [{networks: [10.0.0.1]}]}]}",
        "spec.egress[0].to[0].networks[0]",
        "missing",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}],"
        " protocols: [{destinationNamedPort: http}]}]}",
        "spec.egress[0]",
        "named port",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Deny, to: [{namespaces: {}}],"
        " protocols: [{tcp: {destinationPort: {range: {start: 5, end: 5}}}}]}]}",
        "spec.egress[0].protocols[0].tcp.destinationPort.range",
        "less than",
    ),
    (
        CNP2,
        SUBJECT + ", egress: [{action: Deny, to: [{namespaces: {}}],"
        " protocols: [{tcp: {destinationPort: {number: 1}}, udp: {}}]}]}",
        "spec.egress[0].protocols[0]",
        "only one",
    ),
    (
        ANP,
        "spec: {priority: 1, subject: {namespaces: {}},"
        " egress: [{action: Accept, to: [{namespaces: {}}]}]}",
        "spec.egress[0].action",
        "Allow",
    ),
    (
        BANP,
        "spec: {subject: {namespaces: {}}, egress: [{action: Pass, to: [{namespaces: {}}]}]}",
        "spec.egress[0].action",
        "Allow or Deny",
    ),
    (BANP.replace("default", "mine"), "spec: {subject: {namespaces: {}}}", "", "default"),
]


@pytest.mark.parametrize(("head", "spec", "path", "words"), MISTAKES)
def test_a_mistake_is_named_by_its_path(head: str, spec: str, path: str, words: str) -> None:
    result = parse_policies(head + spec, "x.yaml")
    assert result.policies == ()
    assert [e.path for e in result.errors[:1]] == [path], [str(e) for e in result.errors]
    assert words in result.errors[0].message
