"""--allow and --allow-cidr: the policy that they stand for."""

from __future__ import annotations

import pytest
import yaml

from policies.allow import InvalidAllow, allow_policy
from policies.cluster import Cluster
from tests.policies.worlds import CLUSTER, endpoint, verdict


def _egress(text: str) -> list[dict[str, object]]:
    found = yaml.safe_load(text)["spec"]["egress"]
    assert isinstance(found, list)
    return found


def test_a_name_brings_its_dns_rule_and_its_fqdn_rule() -> None:
    made = allow_policy(["docs.cilium.io:443/TCP"], [])
    assert _egress(made.text) == [
        {
            "toEndpoints": [
                {
                    "matchLabels": {
                        "k8s:io.kubernetes.pod.namespace": "kube-system",
                        "k8s:k8s-app": "kube-dns",
                    }
                }
            ],
            "toPorts": [
                {
                    "ports": [{"port": "53", "protocol": "ANY"}],
                    "rules": {"dns": [{"matchName": "docs.cilium.io"}]},
                }
            ],
        },
        {
            "toFQDNs": [{"matchName": "docs.cilium.io"}],
            "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}],
        },
    ]


def test_what_was_allowed_is_reachable_and_nothing_else() -> None:
    made = (allow_policy(["*.cilium.io:443", "cilium.io"], ["198.51.100.0/24:80-90/tcp"]).policy,)
    assert verdict(made, "name:docs.cilium.io", "443/TCP") == "allow"
    assert verdict(made, "name:docs.cilium.io", "443/UDP") == "allow"
    assert verdict(made, "name:docs.cilium.io", "80/TCP") == "deny"
    assert verdict(made, "name:cilium.io", "80/TCP") == "allow"
    assert verdict(made, "198.51.100.7", "85/TCP") == "allow"
    assert verdict(made, "198.51.100.7", "85/UDP") == "deny"
    assert verdict(made, "192.0.2.99") == "deny"
    assert verdict(made, "dns", "53/UDP", dns_query="docs.cilium.io") == "redirect"
    assert verdict(made, "dns", "53/TCP", dns_query="evil.io") == "deny"


def test_nothing_allowed_is_everything_denied() -> None:
    made = (allow_policy([], []).policy,)
    assert verdict(made, "192.0.2.1") == "deny"
    assert verdict(made, "dns", "53/UDP") == "deny"


def test_no_port_means_every_port_and_protocol() -> None:
    made = (allow_policy([], ["192.0.2.0/24"]).policy,)
    assert verdict(made, "192.0.2.1", "7/UDP") == "allow"
    assert verdict(made, "192.0.2.1", "8/ICMP") == "allow"


def test_labels_and_namespace_are_the_subjects() -> None:
    made = allow_policy(["a.io"], [], {"app": "x"}, "apps")
    cluster = Cluster(
        {
            "x": endpoint("x", "apps", app="x"),
            "y": endpoint("y", "apps", app="y"),
            **CLUSTER.endpoints,
        }
    )
    assert verdict((made.policy,), "192.0.2.1", subject="x", cluster=cluster) == "deny"
    assert verdict((made.policy,), "192.0.2.1", subject="y", cluster=cluster) == "allow"
    assert verdict((made.policy,), "192.0.2.1", subject="web", cluster=cluster) == "allow"


@pytest.mark.parametrize(
    ("argument", "cidr", "port"),
    [
        ("[2001:db8::/32]:443", "2001:db8::/32", {"port": "443"}),
        ("2001:db8::/32", "2001:db8::/32", None),
        ("[2001:db8::1]", "2001:db8::1/128", None),
        ("192.0.2.1", "192.0.2.1/32", None),
        (
            "10.1.2.3/8:80-90/udp",
            "10.0.0.0/8",
            {"port": "80", "endPort": 90, "protocol": "UDP"},
        ),
    ],
)
def test_forms_of_cidr_arguments(argument: str, cidr: str, port: dict[str, object] | None) -> None:
    (rule,) = _egress(allow_policy([], [argument]).text)
    assert rule["toCIDR"] == [cidr]
    assert rule.get("toPorts") == (None if port is None else [{"ports": [port]}])


@pytest.mark.parametrize(
    ("names", "cidrs"),
    [
        (["a..b"], []),
        (["a.io:"], []),
        (["a.io:0"], []),
        (["a.io:65536"], []),
        (["a.io:90-80"], []),
        (["a.io:80/quic"], []),
        (["a.io:http"], []),
        (["10.0.0.0/8"], []),
        (["[::1]:80"], []),
        ([""], []),
        ([], ["10.0.0.0/33"]),
        ([], ["2001:db8::/32:443"]),
        ([], ["[10.0.0.0/8"]),
        ([], ["[10.0.0.0/8]80"]),
        ([], ["example.com"]),
        ([], ["10.0.0.0/8:"]),
    ],
)
def test_an_argument_that_cannot_be_read_is_named(names: list[str], cidrs: list[str]) -> None:
    with pytest.raises(InvalidAllow) as error:
        allow_policy(names, cidrs)
    assert (names + cidrs)[0] in str(error.value)


def test_same_ports_share_a_rule_and_repeats_count_once() -> None:
    made = allow_policy(["a.io:443", "b.io:443", "a.io:443", "a.io"], [])
    dns, https, bare = _egress(made.text)
    assert https["toFQDNs"] == [{"matchName": "a.io"}, {"matchName": "b.io"}]
    assert bare["toFQDNs"] == [{"matchName": "a.io"}]
    assert dns["toPorts"][0]["rules"]["dns"] == [{"matchName": "a.io"}, {"matchName": "b.io"}]  # type: ignore[index]
