"""What people see of an agent, line by line, and what programs get of the same.

The tables are kept in ``golden/``. ``FQDNWALL_GOLDEN=write`` writes them anew: read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fqdnwall.api.codec import decode, encode
from fqdnwall.api.events import EventType, Peer
from fqdnwall.api.models import PolicyVerdict, Status
from fqdnwall.api.report import QueryOutcome
from fqdnwall.cli.lines import event_line
from fqdnwall.cli.order import telling
from fqdnwall.cli.report import ROWS, report_text
from tests.api import samples
from tests.api.fake import FakeBackend, live_agent
from tests.cli.conftest import Command

GOLDEN = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FQDNWALL_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


LISTS: list[tuple[str, Sequence[Any]]] = [
    ("endpoint list", samples.ENDPOINTS),
    ("identity list", samples.IDENTITIES),
    ("policy get", samples.POLICIES),
    ("fqdn cache list", samples.CACHE),
    ("fqdn names", samples.NAMES),
    ("bpf ct list", samples.CT),
    ("bpf policy get 7", samples.POLICY_ENTRIES),
    ("bpf ipcache list", samples.IPCACHE),
    ("bpf learned list", samples.LEARNED),
    ("bpf prog list", samples.PROGS),
    ("bpf map list", samples.MAPS),
]
OTHERS = ["status", "endpoint get 7", "endpoint get 232", "bpf policy get -n", "bpf ct list -d"]


@pytest.mark.parametrize("command", [*(command for command, _ in LISTS), *OTHERS])
def test_table(asks: Command, command: str) -> None:
    outcome = asks(*command.split())
    assert (outcome.status, outcome.err) == (0, "")
    check(command.replace(" ", "-"), outcome.out)


@pytest.mark.parametrize(("command", "sample"), LISTS, ids=[command for command, _ in LISTS])
def test_json_holds_the_same_in_full(asks: Command, command: str, sample: Sequence[Any]) -> None:
    outcome = asks(*command.split(), "-o", "json")
    assert outcome.status == 0

    def in_any_order(items: Any) -> list[str]:
        return sorted(json.dumps(item, sort_keys=True) for item in items)

    assert in_any_order(json.loads(outcome.out)) == in_any_order(encode(tuple(sample)))


def test_json_lists_are_sorted(asks: Command) -> None:
    ids = [e["id"] for e in json.loads(asks("endpoint", "list", "-o", "json").out)]
    assert ids == sorted(ids)
    prefixes = [e["prefix"] for e in json.loads(asks("bpf", "ipcache", "list", "-o", "json").out)]
    assert prefixes == ["0.0.0.0/0", "10.0.0.7/32", "10.9.0.0/16", "::/0"]


def test_status_as_json_is_an_object(asks: Command) -> None:
    answered = json.loads(asks("status", "-o", "json").out)
    assert decode(Status, answered) == samples.STATUS


def test_status_of_all_as_json_is_a_list(asks: Command) -> None:
    answered = json.loads(asks("status", "--all", "-o", "json").out)
    assert [decode(Status, one) for one in answered] == [samples.STATUS]


def test_policy_is_printed_as_yaml(asks: Command) -> None:
    assert asks("policy", "get", "default/allow-external-apis").out == samples.POLICY_YAML
    missing = asks("policy", "get", "nothing")
    assert missing.status == 1
    assert missing.err.splitlines() == [
        "Error: there is no policy nothing in force",
        "Hint: see: fqdnwall policy get",
    ]


def test_empty_lists_are_their_headers_alone(tmp_path: Path, fqdnwall: Command) -> None:
    with live_agent(tmp_path / "s", FakeBackend(held={})) as agent:
        outcome = fqdnwall("endpoint", "list", "--socket", str(agent.path))
    assert outcome.out.startswith("ENDPOINT   POLICY (ingress)")
    assert len(outcome.out.splitlines()) == 2


@pytest.mark.parametrize("event", samples.EVENTS, ids=lambda event: event.type.value)
def test_event_line(event: Any) -> None:
    check(f"monitor-{event.type.value}", event_line(event) + "\n")


@pytest.mark.parametrize(
    ("name", "event"),
    [
        (
            "icmp",
            replace(
                samples.DROP,
                protocol="ICMPv6",
                tcp_flags="",
                icmp_type=128,
                source=Peer("fd00::7"),
                destination=Peer("2001:db8::1"),
            ),
        ),
        ("from-endpoint", replace(samples.TRACE, observation_point="from-endpoint")),
        ("to-endpoint", replace(samples.TRACE, observation_point="to-endpoint")),
        (
            "audited",
            replace(samples.VERDICT, verdict=PolicyVerdict.AUDIT, audited=True, rule=""),
        ),
        (
            "dns-refused",
            replace(
                samples.DNS,
                verdict=PolicyVerdict.DENY,
                rule="",
                dns=replace(samples.DNS.dns, rcode="REFUSED", addresses=(), ttl=None, by="kernel"),
            ),
        ),
        ("lost", replace(samples.AGENT, type=EventType.LOST, message="12 events lost")),
    ],
)
def test_event_line_variant(name: str, event: Any) -> None:
    check(f"monitor-{name}", event_line(event) + "\n")


def test_event_line_with_its_time() -> None:
    assert event_line(samples.AGENT, verbose=True).startswith("2026-11-24T10:00:06Z >> agent:")


def test_report() -> None:
    check("report", report_text(samples.REPORT))


def test_report_of_an_audit_while_it_runs() -> None:
    report = replace(
        samples.REPORT,
        audit=True,
        exit_status=None,
        drops=(),
        would_drop=samples.REPORT.drops,
        queries=(replace(samples.REPORT.queries[0], outcome=QueryOutcome.AUDITED),),
        events_lost=3,
        omitted={"drops": 7},
        problems=samples.STATUS.problems,
    )
    check("report-audit", report_text(report))


def test_report_of_a_command_that_used_no_network() -> None:
    report = replace(samples.REPORT, queries=(), names=(), connections=(), drops=())
    assert report_text(report).splitlines()[1:] == ["It used no network."]


def test_a_long_report_says_that_it_is_cut() -> None:
    drops = tuple(replace(samples.REPORT.drops[0], port=port) for port in range(1, ROWS + 11))
    text = report_text(replace(samples.REPORT, drops=drops))
    assert "... and 10 more: see --report FILE" in text
    assert text.count("198.51.100.5") == ROWS


def test_only_what_policy_dropped_is_said_to_lack_a_rule() -> None:
    drop = replace(samples.REPORT.drops[0], reason="Invalid source ip", reason_code=132)
    assert "no rule allows it" not in report_text(
        replace(samples.REPORT, queries=(), drops=(drop,))
    )


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (
            "cidr:10.0.0.53/32 k8s:k8s-app=kube-dns k8s:io.kubernetes.pod.namespace=kube-system "
            "k8s:io.cilium.k8s.policy.cluster=default reserved:world reserved:world-ipv4",
            ["k8s:k8s-app=kube-dns"],
        ),
        ("fqdn:*.example.com reserved:world", ["fqdn:*.example.com"]),
        ("cidr:192.0.2.0/24 reserved:world-ipv4 reserved:world", ["cidr:192.0.2.0/24"]),
        ("reserved:world-ipv4 reserved:world", ["reserved:world"]),
        ("reserved:remote-node reserved:kube-apiserver", None),
        ("", []),
    ],
)
def test_the_labels_that_tell_most_are_shown(labels: str, shown: list[str] | None) -> None:
    assert telling(labels.split()) == (sorted(labels.split()) if shown is None else shown)
