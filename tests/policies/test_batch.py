"""The public batch format: JSON lines in, JSON lines out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.batch import judge_line, judge_lines, judge_request


def _cnp(spec: dict[str, Any], name: str = "p") -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"endpointSelector": {}, **spec},
    }


def _request(**more: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "policies": [],
        "endpoints": {
            "a": {"labels": {"app": "a"}, "namespace": "default", "ips": ["10.0.0.1"]},
            "b": {
                "labels": {"app": "b"},
                "namespace": "default",
                "ips": ["10.0.0.2"],
                "named_ports": {"http": {"port": 8080, "protocol": "TCP"}},
            },
        },
        "flows": [],
        **more,
    }


def _flow(**more: Any) -> dict[str, Any]:
    base = {"direction": "egress", "subject": "a", "peer": {"endpoint": "b"}, "protocol": "TCP"}
    return {**base, "port": 80, **more}


def _verdicts(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(v["verdict"], v["reason"]) for v in answer["verdicts"]]


def test_without_policies_everything_is_allowed() -> None:
    answer = judge_request(_request(flows=[_flow()]))
    assert answer == {
        "id": "x",
        "errors": [],
        "verdicts": [{"verdict": "allow", "reason": "not-enforced", "rule": "", "l7": []}],
    }


def test_verdicts_come_in_the_order_of_the_flows_with_reason_and_rule() -> None:
    rule = {
        "toEndpoints": [{"matchLabels": {"app": "b"}}],
        "toPorts": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
    }
    policy = _cnp({"egress": [rule], "egressDeny": [{"toCIDR": ["192.0.2.0/24"]}]})
    answer = judge_request(
        _request(
            policies=[policy],
            flows=[
                _flow(port=8080),
                _flow(port=80),
                _flow(peer={"ip": "192.0.2.1"}),
                _flow(peer={"ip": "10.0.0.2"}, port=8080),
                _flow(direction="ingress"),
            ],
        )
    )
    assert _verdicts(answer) == [
        ("allow", "rule"),
        ("deny", "default-deny"),
        ("deny", "rule"),
        ("allow", "rule"),
        ("allow", "not-enforced"),
    ]
    assert answer["verdicts"][0]["rule"] == "CiliumNetworkPolicy default/p spec.egress[0]"
    assert answer["verdicts"][2]["rule"] == "CiliumNetworkPolicy default/p spec.egressDeny[0]"


def test_dns_and_http_rules_are_told() -> None:
    dns = {
        "toPorts": [
            {
                "ports": [{"port": "53", "protocol": "UDP"}],
                "rules": {"dns": [{"matchPattern": "*.io"}]},
            }
        ]
    }
    http = {
        "toPorts": [
            {
                "ports": [{"port": "80", "protocol": "TCP"}],
                "rules": {"http": [{"method": "GET", "path": "/a"}]},
            }
        ]
    }
    answer = judge_request(
        _request(
            policies=[_cnp({"egress": [dns, http]})],
            flows=[
                _flow(port=53, protocol="UDP", dns_query="x.io"),
                _flow(port=53, protocol="UDP", dns_query="x.com"),
                _flow(port=53, protocol="UDP"),
                _flow(port=80),
            ],
        )
    )
    assert _verdicts(answer) == [
        ("redirect", "dns-name-allowed"),
        ("deny", "dns-name-refused"),
        ("redirect", "rule"),
        ("redirect", "rule"),
    ]
    assert answer["verdicts"][2]["l7"] == [
        {
            "kind": "dns",
            "matchPattern": "*.io",
            "rule": "CiliumNetworkPolicy default/p spec.egress[0]",
        }
    ]
    assert answer["verdicts"][3]["l7"][0]["path"] == "/a"


def test_an_invalid_policy_gives_its_errors_and_is_left_out() -> None:
    bad = _cnp({"egress": [{"toCIDR": ["nonsense"]}]}, "bad")
    good = _cnp({"egress": [{}]})
    answer = judge_request(_request(policies=[bad, good], flows=[_flow()]))
    assert len(answer["errors"]) == 1
    assert answer["errors"][0].startswith("policies[0].spec.egress[0].toCIDR[0]: ")
    assert _verdicts(answer) == [("deny", "default-deny")]


def test_services_nodes_groups_and_names() -> None:
    to_service = {"toServices": [{"k8sService": {"serviceName": "s", "namespace": "default"}}]}
    to_external = {"toServices": [{"k8sService": {"serviceName": "e"}}]}
    to_node = {"toNodes": [{"matchLabels": {"zone": "1"}}]}
    to_group = {"toCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"role": "x"}}}]}
    to_name = {"toFQDNs": [{"matchName": "a.io"}]}
    answer = judge_request(
        _request(
            policies=[_cnp({"egress": [to_service, to_external, to_node, to_group, to_name]})],
            services={
                "default/s": {"labels": {}, "selector": {"app": "b"}, "backends": ["b"]},
                "default/e": {"selector": None, "backends": ["192.0.2.9"], "ports": []},
            },
            nodes={
                "n1": {"labels": {"zone": "1"}, "ips": ["10.1.0.1"]},
                "n2": {"labels": {"zone": "2"}},
            },
            cidr_groups={"g": {"labels": {"role": "x"}, "cidrs": ["198.51.100.0/24"]}},
            fqdns={"a.io": ["203.0.113.1"]},
            flows=[
                _flow(),
                _flow(peer={"ip": "192.0.2.9"}),
                _flow(peer={"node": "n1"}),
                _flow(peer={"ip": "10.1.0.1"}),
                _flow(peer={"node": "n2"}),
                _flow(peer={"ip": "198.51.100.3"}),
                _flow(peer={"ip": "203.0.113.1"}),
                _flow(peer={"ip": "203.0.113.2"}),
                _flow(peer={"entity": "world"}),
            ],
        )
    )
    assert answer["errors"] == []
    assert [v["verdict"] for v in answer["verdicts"]] == (
        ["allow"] * 4 + ["deny"] + ["allow"] * 2 + ["deny"] * 2
    )


def test_icmp_types() -> None:
    icmp = {"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}
    answer = judge_request(
        _request(
            policies=[_cnp({"egress": [icmp]})],
            flows=[
                {**_flow(protocol="ICMP", icmp_type=8), "port": 0},
                {**_flow(protocol="ICMP", icmp_type=0), "port": 0},
                {**_flow(protocol="ICMPv6", icmp_type=8), "port": 0},
            ],
        )
    )
    assert [v["verdict"] for v in answer["verdicts"]] == ["allow", "deny", "deny"]


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ({"peer": {"endpoint": "nobody"}}, "nobody"),
        ({"subject": "nobody"}, "nobody"),
        ({"peer": {"ip": "x"}}, "address"),
        ({"peer": {}}, "endpoint"),
        ({"direction": "up"}, "up"),
        ({"protocol": "QUIC"}, "QUIC"),
        ({"port": 70000}, "70000"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_flow_that_cannot_be_judged_is_an_error_and_the_others_are_judged(
    flow: dict[str, Any], words: str
) -> None:
    answer = judge_request(_request(flows=[_flow(**flow), _flow()]))
    assert len(answer["errors"]) == 1
    assert answer["errors"][0].startswith("flows[0]")
    assert words in answer["errors"][0]
    assert answer["verdicts"][-1]["verdict"] == "allow"
    assert len(answer["verdicts"]) == 2


def test_a_cluster_that_was_misread_is_not_judged() -> None:
    answer = judge_request(_request(nodes={"n": {"ips": ["x"]}}, flows=[_flow()]))
    assert answer["verdicts"] == []
    assert answer["errors"][0].startswith("nodes['n'].ips[0]: ")


def test_lines_that_are_no_json_are_answered_too() -> None:
    lines = list(judge_lines(["{", "", json.dumps(_request()), "[1]"]))
    assert len(lines) == 3
    first, second, third = map(json.loads, lines)
    assert first["id"] is None
    assert "not JSON" in first["errors"][0]
    assert second["id"] == "x"
    assert third["errors"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.sampled_from(["policies", "endpoints", "flows", "nodes", "services", "fqdns"]), _JSON)
def test_nothing_in_a_line_raises(key: str, value: object) -> None:
    answer = judge_line(json.dumps(_request(**{key: value})))
    assert set(answer) == {"id", "errors", "verdicts"}
