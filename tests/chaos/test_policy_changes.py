"""Policies change while ten thousand queries a second pass, and no query is lost or misjudged."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.chaos.conftest import POLICY
from tests.lab.node import Node

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

QUERIES_A_SECOND = 10_000
SECONDS = 20
ALWAYS = ("api", "www", "brief", "v4only")
NEVER = ("unlisted.example.org", "shared-b.example.org")


def test_changing_policies_lose_no_query_and_refuse_no_allowed_name(node: Node) -> None:
    names = node.directory / "names"
    names.write_text("".join(f"{name}.example.com A\n" for name in ALWAYS))
    refused = node.directory / "refused"
    refused.write_text("".join(f"{name} A\n" for name in NEVER))
    allowed = perf(node, str(names), QUERIES_A_SECOND)
    denied = perf(node, str(refused), 500)
    revisions = change_policies(node, time.monotonic() + SECONDS - 2)
    out, other = allowed.communicate()[0], denied.communicate()[0]
    assert revisions >= 10, "too few changes came into force"
    assert "Queries lost:         0 " in out, out
    assert "SERVFAIL" not in out, out
    assert "REFUSED" not in out, out
    assert "Queries lost:         0 " in other, other
    assert "NOERROR" not in other, other


def perf(node: Node, names: str, rate: int) -> subprocess.Popen[str]:
    server = node.lab.resolvers[0]
    line = ["dnsperf", "-s", server, "-d", names, "-Q", str(rate), "-l", str(SECONDS), "-c", "4"]
    return node.box.namespace.start(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def change_policies(node: Node, end: float) -> int:
    """Rewrites the policy again and again; how many revisions came into force."""
    first = revision(node)
    number = 0
    while time.monotonic() < end:
        number += 1
        more = f'              - matchName: "extra{number}.example.net"\n'
        node.policy("chaos.yaml", POLICY.replace("            dns:\n", "            dns:\n" + more))
        time.sleep(0.6)
    return revision(node) - first


def revision(node: Node) -> int:
    return int(json.loads(node.ask("status", "-o", "json"))["policy_revision"])
