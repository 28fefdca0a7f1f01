"""`fqdnwall agent`: containers that exist are guarded, and stay guarded when the agent is dead."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.container import Container
from tests.lab.guard import FQDNWALL
from tests.lab.leftovers import Machine, Pins, wait_until_clean
from tests.lab.node import Node, soon

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
  egress:
    - toEndpoints:
        - matchLabels: {{"k8s:io.kubernetes.pod.namespace": kube-system, "k8s:k8s-app": kube-dns}}
      toPorts:
        - ports: [{{port: "53", protocol: ANY}}]
          rules: {{dns: [{{matchPattern: "**.example.com"}}]}}
    - toFQDNs: [{{matchName: {allowed}}}]
"""
API, API_URL = "203.0.113.10", "http://api.example.com/"
OTHER_URL, CLOSED = "http://www.example.com/", "http://203.0.113.90/"
NAMES_SAVED_WITHIN_SECONDS = 3.0
"""After this an agent that is killed leaves which name an address was learned for, too."""


@pytest.fixture(scope="module")
def lab_with_box() -> Iterator[tuple[Lab, Container]]:
    with Lab() as lab:
        yield lab, lab.add_container("box")


@pytest.fixture
def node(lab_with_box: tuple[Lab, Container], tmp_path: Path) -> Iterator[Node]:
    with running(Node(lab_with_box[0], tmp_path, lab_with_box[1])) as node:
        yield node


@pytest.fixture
def node_both_ways(
    lab_with_box: tuple[Lab, Container], tmp_path: Path, dns_by: str
) -> Iterator[Node]:
    """With DNS by the kernel and by the proxy."""
    lab, box = lab_with_box
    with running(Node(lab, tmp_path, box, kernel_dns=dns_by == "kernel")) as node:
        yield node


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """With an agent, and with nothing of it left afterwards."""
    lab = node.lab
    (node.directory / "policies").mkdir()
    node.policy("web.yaml", POLICY.format(name="web", app="web", allowed="api.example.com"))
    before = Machine.seen_by(lab)
    node.start()
    pins = Pins.of(json.loads(node.ask("status", "-o", "json"))["instance"])
    try:
        yield node
    finally:
        done = lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
    assert done.returncode == 0, done.stderr
    assert wait_until_clean(before, lambda: Machine.seen_by(lab)) == []
    assert not pins.exist


def test_a_container_reaches_what_its_policy_allows_and_nothing_else(node_both_ways: Node) -> None:
    node = node_both_ways
    assert node.fetch(CLOSED) == 0, "not under guard yet"
    node.guard()
    assert node.fetch(f"http://{API}/") == 28
    assert node.fetch(API_URL) == 0
    assert node.fetch(f"http://{API}/") == 0
    assert node.fetch(OTHER_URL) == 28, "DNS answers, but no rule allows the address"
    assert node.fetch("http://unlisted.example.org/") == 6
    assert node.fetch(CLOSED) == 28


def test_an_endpoint_that_is_taken_off_is_free_again(node: Node) -> None:
    node.guard()
    assert node.fetch(CLOSED) == 28
    (endpoint,) = json.loads(node.ask("endpoint", "list", "-o", "json"))
    node.ask("endpoint", "delete", str(endpoint["id"]))
    assert node.fetch(CLOSED) == 0


def test_addresses_and_routes_of_the_container_are_not_touched(node: Node) -> None:
    show = ["sh", "-c", "ip -br address; ip route; ip -6 route; ip neigh show nud permanent"]
    before = node.box.namespace.run(show).stdout
    node.guard()
    assert node.fetch(API_URL) == 0
    assert node.box.namespace.run(show).stdout == before


def test_a_policy_file_that_changes_is_in_force_soon(node_both_ways: Node) -> None:
    node = node_both_ways
    node.guard()
    assert node.fetch(OTHER_URL) == 28
    node.policy("more.yaml", POLICY.format(name="more", app="web", allowed="www.example.com"))
    soon(lambda: node.fetch(OTHER_URL) == 0, node.log)
    (node.directory / "policies/more.yaml").unlink()
    soon(lambda: node.fetch(OTHER_URL) == 28, node.log)
    assert node.fetch(API_URL) == 0


def test_of_a_bad_policy_file_the_last_good_version_stays(node: Node) -> None:
    node.guard()
    node.policy("web.yaml", "kind: CiliumNetworkPolicy\nspec: {endpointSelector: 7}\n")
    soon(lambda: "web.yaml" in node.ask("status"), node.log)
    assert node.fetch(API_URL) == 0
    assert node.fetch(CLOSED) == 28


def test_a_dead_agent_interrupts_nothing_and_opens_nothing(node_both_ways: Node) -> None:
    node = node_both_ways
    node.guard()
    assert node.fetch(API_URL) == 0
    download = node.box.namespace.start(
        ["curl", "-sS", "-m4", "-w%{size_download}", "-o", "/dev/null", f"http://{API}/slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.5)
    node.kill()
    assert node.fetch(f"http://{API}/") == 0, "a new connection to a learned address"
    assert node.fetch(CLOSED) == 28
    assert int(download.communicate(timeout=10)[0]) > 250_000, "the download went on"


def test_a_new_agent_takes_over_and_has_lost_nothing(node_both_ways: Node) -> None:
    node = node_both_ways
    node.guard()
    assert node.fetch(API_URL) == 0
    time.sleep(NAMES_SAVED_WITHIN_SECONDS)
    before = json.loads(node.ask("endpoint", "list", "-o", "json"))
    node.kill()
    node.start()
    assert node.fetch(f"http://{API}/") == 0
    assert node.fetch(CLOSED) == 28
    assert node.fetch("http://www.example.com/") == 28
    after = json.loads(node.ask("endpoint", "list", "-o", "json"))
    for endpoint in (*before, *after):
        for changing in ("counters", "dns", "policy_revision"):
            endpoint.pop(changing)
    assert after == before
    cached = json.loads(node.ask("fqdn", "cache", "list", "-o", "json"))
    assert API in {address for entry in cached for address in entry["ips"]}


def test_a_server_sees_the_containers_own_address_where_that_is_asked_for(
    node_both_ways: Node,
) -> None:
    node = node_both_ways
    assert node.agent is not None
    node.agent.terminate()
    node.agent.wait(10)
    node.transparent = True
    node.start()
    node.guard()
    assert node.fetch(API_URL) == 0


def test_an_agent_that_ends_leaves_its_policy_in_force_until_clean_up(node_both_ways: Node) -> None:
    node = node_both_ways
    node.guard()
    assert node.fetch(API_URL) == 0
    assert node.agent is not None
    node.agent.terminate()
    assert node.agent.wait(10) == 0
    assert node.fetch(f"http://{API}/") == 0
    assert node.fetch(CLOSED) == 28
    done = node.lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
    assert done.returncode == 0, done.stderr
    assert node.fetch(CLOSED) == 0
    assert os.listdir(node.directory / "policies") == ["web.yaml"]
