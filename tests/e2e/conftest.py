"""One lab for all end-to-end tests, and a check after each that its guard left nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.nameserver import STRANGER_V4, V4, V6, Nameserver, Victim
from tests.lab import Lab, world
from tests.lab.container import Container
from tests.lab.guard import FQDNWALL
from tests.lab.leftovers import Machine, wait_until_clean
from tests.lab.node import Node

BOTH_WAYS = ("kernel", "proxy")
"""Who settles DNS: tests that take it run under either, and must see the same."""
EGRESS = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: NAME}}
spec:
  endpointSelector: {{matchLabels: {{app: NAME}}}}
  egress:
    - toCIDR: [{V4}/32, "{V6}/128"]
      toPorts:
        - ports: [{{port: "53", protocol: ANY}}]
          rules:
            dns: &names
              - matchPattern: "**.example.com"
              - matchPattern: "st*r.example.net"
              - matchName: {world.ROTATING_ZONE}
    - toFQDNs: *names
    - toCIDR: [{world.OPEN_ADDRESS_V4}/32]
"""
INGRESS = f"""\
  ingress:
    - fromCIDR: [{STRANGER_V4}/32]
      toPorts: [{{ports: [{{port: "7", protocol: UDP}}]}}]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root, the kernel, and more time than the inner loop has."""
    for item in items:
        if "tests/e2e/" in item.nodeid:
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The lab; a test that leaves a process, link, route, rule or setting in it fails."""
    before = Machine.seen_by(shared_lab)
    yield shared_lab
    assert wait_until_clean(before, lambda: Machine.seen_by(shared_lab)) == []


@pytest.fixture(params=BOTH_WAYS)
def dns_by(request: pytest.FixtureRequest) -> str:
    """Who settles DNS, the kernel or the proxy."""
    return str(request.param)


@pytest.fixture
def dns_option(dns_by: str) -> tuple[str, ...]:
    """What to give `fqdnwall run` for it."""
    return (f"--{dns_by}-dns",)


@pytest.fixture(scope="session")
def attacked_lab() -> Iterator[tuple[Lab, Container, Container, Nameserver]]:
    with Lab() as lab:
        server = Nameserver(lab)
        yield lab, lab.add_container("victim"), lab.add_container("neighbour"), server
        server.close()


@pytest.fixture(scope="session", params=BOTH_WAYS)
def victim(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    attacked_lab: tuple[Lab, Container, Container, Nameserver],
) -> Iterator[Victim]:
    """Two guarded containers, with DNS by the kernel and by the proxy."""
    lab, box, neighbour, server = attacked_lab
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "policies").mkdir()
    node = Node(lab, directory, box, kernel_dns=request.param == "kernel")
    node.policy("victim.yaml", EGRESS.replace("NAME", "victim") + INGRESS)
    node.policy("neighbour.yaml", EGRESS.replace("NAME", "neighbour"))
    before = Machine.seen_by(lab)
    node.start()
    try:
        for container in (box, neighbour):
            name, path = container.namespace.role, str(container.namespace.path)
            node.ask("endpoint", "add", "--netns", path, "--label", f"app={name}")
        yield Victim(request.param, node, box, neighbour, server)
        dns = json.loads(node.ask("status", "-o", "json"))["proxy"]["dns"]
        assert (dns["by_kernel"] > 0) is (request.param == "kernel"), dns
    finally:
        done = lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
    assert done.returncode == 0, done.stderr
    assert wait_until_clean(before, lambda: Machine.seen_by(lab)) == []
