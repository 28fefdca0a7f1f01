"""Policies change while queries pass, and no query is lost or misjudged.

Ten thousand a second by the kernel, and what the proxy has room for by the proxy.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.chaos.conftest import POLICY
from tests.lab.node import Node

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

LOADS = {"kernel": (10_000, 20), "proxy": (2_000, 10)}
"""Who settles DNS: queries a second, and for how many."""
ALWAYS = ("api", "www", "brief", "v4only")
NEVER = ("unlisted.example.org", "shared-b.example.org")


@pytest.mark.parametrize(
    ("node", "rate", "seconds"), [(by, *load) for by, load in LOADS.items()], indirect=["node"]
)
def test_changing_policies_lose_no_query_and_refuse_no_allowed_name(
    node: Node, rate: int, seconds: int
) -> None:
    names = node.directory / "names"
    names.write_text("".join(f"{name}.example.com A\n" for name in ALWAYS))
    refused = node.directory / "refused"
    refused.write_text("".join(f"{name} A\n" for name in NEVER))
    allowed = perf(node, str(names), rate, seconds)
    denied = perf(node, str(refused), 500, seconds)
    revisions = change_policies(node, time.monotonic() + seconds - 2)
    out, other = allowed.communicate()[0], denied.communicate()[0]
    assert revisions >= seconds // 2, "too few changes came into force"
    assert "Queries lost:         0 " in out, out
    assert "SERVFAIL" not in out, out
    assert "REFUSED" not in out, out
    assert "Queries lost:         0 " in other, other
    assert "NOERROR" not in other, other


def perf(node: Node, names: str, rate: int, seconds: int) -> subprocess.Popen[str]:
    server = node.lab.resolvers[0]
    line = ["dnsperf", "-s", server, "-d", names, "-Q", str(rate), "-l", str(seconds), "-c", "4"]
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
