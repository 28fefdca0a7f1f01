"""From a report to the smallest policy that allows what is in it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from policies.suggest import NotAReport, read_report, suggest
from tests.policies.worlds import policies, verdict

REPORT: dict[str, Any] = {
    "format": "fqdnwall.report/1",
    "subject": {
        "name": "run",
        "namespace": "default",
        "labels": [
            "k8s:app=web",
            "k8s:io.kubernetes.pod.namespace=default",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
        ],
    },
    "queries": [
        {"name": "docs.cilium.io.", "qtype": "A", "outcome": "audited", "count": 1},
        {"name": "never.used.io", "qtype": "A", "outcome": "allowed", "count": 1},
        {"name": "refused.io", "qtype": "A", "outcome": "refused", "count": 1},
    ],
    "connections": [
        {
            "address": "10.244.2.1",
            "port": 53,
            "protocol": "udp",
            "labels": ["k8s:k8s-app=kube-dns", "k8s:io.kubernetes.pod.namespace=kube-system"],
        },
        {
            "address": "10.244.0.2",
            "port": 5432,
            "protocol": "tcp",
            "labels": ["k8s:app=db", "k8s:io.kubernetes.pod.namespace=default"],
        },
        {"address": "10.9.9.9", "port": 10250, "protocol": "tcp", "labels": ["reserved:host"]},
        {"address": "198.51.100.8", "port": 8, "protocol": "icmp", "labels": ["reserved:world"]},
    ],
    "would_drop": [
        {
            "address": "192.0.2.1",
            "port": 443,
            "protocol": "tcp",
            "reason": "Policy denied",
            "reason_code": 133,
            "names": ["docs.cilium.io"],
            "labels": ["reserved:world", "fqdn:*.cilium.io"],
        },
        {
            "address": "192.0.2.77",
            "port": 9,
            "protocol": "tcp",
            "reason": "Invalid packet",
            "reason_code": 134,
        },
    ],
    "drops": [{"address": "192.0.2.66", "port": 25, "protocol": "tcp", "reason_code": 133}],
}


def test_what_was_seen_is_allowed_and_nothing_else() -> None:
    found = policies(suggest(read_report(REPORT)))
    assert verdict(found, "name:docs.cilium.io", "443/TCP") == "allow"
    assert verdict(found, "name:docs.cilium.io", "80/TCP") == "deny"
    assert verdict(found, "db", "5432/TCP") == "allow"
    assert verdict(found, "db", "5433/TCP") == "deny"
    assert verdict(found, "entity:host", "10250/TCP") == "allow"
    assert verdict(found, "198.51.100.8", "8/ICMP") == "allow"
    assert verdict(found, "192.0.2.66", "25/TCP") == "deny"
    assert verdict(found, "192.0.2.77", "9/TCP") == "deny"
    assert verdict(found, "dns", "53/UDP", dns_query="docs.cilium.io") == "redirect"
    assert verdict(found, "dns", "53/UDP", dns_query="never.used.io") == "redirect"
    assert verdict(found, "dns", "53/UDP", dns_query="refused.io") == "deny"


def test_the_subject_is_the_endpoint_by_its_own_labels() -> None:
    document = yaml.safe_load(suggest(read_report(REPORT)))
    assert document["spec"]["endpointSelector"] == {"matchLabels": {"k8s:app": "web"}}
    assert document["spec"]["ingress"] == [{}]


def test_what_was_denied_is_allowed_only_where_asked() -> None:
    found = policies(suggest(read_report(REPORT, include_denied=True)))
    assert verdict(found, "192.0.2.66", "25/TCP") == "allow"
    assert verdict(found, "192.0.2.77", "9/TCP") == "deny"


def _names(*names: str) -> dict[str, Any]:
    return {
        **REPORT,
        "queries": [],
        "would_drop": [],
        "connections": [
            {"address": f"192.0.2.{n}", "port": 443, "protocol": "tcp", "names": [name]}
            for n, name in enumerate(names, 1)
        ],
    }


def test_wildcards_are_proposed_only_where_asked() -> None:
    report = _names("a.x.io", "b.x.io", "c.x.io", "d.y.io", "e.com", "f.com", "g.com")
    plain = suggest(read_report(report))
    assert "*" not in plain
    wild = yaml.safe_load(suggest(read_report(report), wildcards=True))["spec"]["egress"]
    fqdns = [item for rule in wild for item in rule.get("toFQDNs", ())]
    assert {"matchPattern": "*.x.io"} in fqdns
    assert {"matchName": "d.y.io"} in fqdns
    assert {"matchName": "e.com"} in fqdns
    assert {"matchName": "a.x.io"} not in fqdns
    assert {"matchPattern": "*.x.io"} in wild[0]["toPorts"][0]["rules"]["dns"]


def test_addresses_that_make_up_a_prefix_are_written_as_one() -> None:
    report = {**_names(), "connections": []}
    report["connections"] = [
        {"address": f"198.51.100.{n}", "port": 80, "protocol": "tcp"} for n in range(4, 8)
    ]
    (rule,) = yaml.safe_load(suggest(read_report(report)))["spec"]["egress"]
    assert rule["toCIDR"] == ["198.51.100.4/30"]


def test_nothing_seen_is_nothing_allowed() -> None:
    report = {"format": "fqdnwall.report/1", "subject": {"labels": ["k8s:app=web"]}}
    found = policies(suggest(read_report(report)))
    assert verdict(found, "db") == "deny"


@pytest.mark.parametrize(
    "report",
    [{}, {"format": "other"}, {"format": "fqdnwall.report/1", "connections": [{"port": 1}]}],
)
def test_what_is_no_report_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(NotAReport):
        read_report(report)
