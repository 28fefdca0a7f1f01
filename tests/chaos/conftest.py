"""A node under a policy whose every name is decided, in a lab of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, world
from tests.lab.guard import FQDNWALL
from tests.lab.node import Node

POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: chaos}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  egress:
    - toEndpoints:
        - matchLabels: {{"k8s:io.kubernetes.pod.namespace": kube-system, "k8s:k8s-app": kube-dns}}
      toPorts:
        - ports: [{{port: "53", protocol: ANY}}]
          rules:
            dns:
              - matchPattern: "*.{world.ROTATING_ZONE}"
              - matchPattern: "*.example.com"
    - toFQDNs: [{{matchPattern: "*.{world.ROTATING_ZONE}"}}]
      toPorts: [{{ports: [{{port: "80"}}]}}]
"""


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """With DNS by the kernel, unless the test is parametrised with who settles it."""
    by = getattr(request, "param", "kernel")
    with Lab() as lab:
        (tmp_path / "policies").mkdir()
        node = Node(lab, tmp_path, lab.add_container("box"), kernel_dns=by == "kernel")
        node.policy("chaos.yaml", POLICY)
        node.start()
        try:
            node.guard()
            yield node
        finally:
            lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
