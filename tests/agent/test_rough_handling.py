"""What operators, accidents and attackers do to an agent: it fails closed and says why."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqdnwall.api.sockets import STATE_DIR
from fqdnwall.datapath import libbpf, loader
from fqdnwall.datapath.layouts import EndpointRecord
from tests.lab import Lab
from tests.lab.guard import FQDNWALL
from tests.lab.leftovers import Machine, Pins, wait_until_clean
from tests.lab.node import Node, soon

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress: [{toCIDR: [203.0.113.10/32]}]
"""
OPEN, CLOSED = "http://203.0.113.10/", "http://203.0.113.90/"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Lab() as lab:
        (tmp_path / "policies").mkdir()
        node = Node(lab, tmp_path, lab.add_container("box"))
        node.policy("web.yaml", POLICY)
        before = Machine.seen_by(lab)
        node.start()
        name = instance(node)
        pins = Pins.of(name)
        try:
            yield node
        finally:
            if node.agent is not None and node.agent.poll() is None:
                node.kill()
            done = lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
        assert done.returncode == 0, done.stderr
        left = wait_until_clean(before, lambda: Machine.seen_by(lab))
        assert [what for what in left if not what.startswith("lost ")] == []
        assert not pins.exist
        assert not node.socket.exists()
        assert list(STATE_DIR.glob(f"{name}*")) == []


def instance(node: Node) -> str:
    found: str = json.loads(node.ask("status", "-o", "json"))["instance"]
    return found


def guarded(node: Node) -> None:
    assert (node.fetch(OPEN), node.fetch(CLOSED)) == (0, 28), node.log()


def pinned_map(name: str, map_name: str) -> int:
    return libbpf.pinned(str(loader.ROOT / name / map_name))


def test_a_second_agent_on_the_same_socket_changes_nothing(node: Node) -> None:
    node.guard()
    done = node.lab.host.run(
        [str(FQDNWALL), "agent", "--policy-dir", str(node.directory), "--socket", str(node.socket)]
    )
    assert done.returncode == 1
    assert "another agent" in done.stderr
    assert "Traceback" not in done.stderr
    guarded(node)
    assert node.ask("endpoint", "list")


def test_clean_up_ends_a_living_agent_and_all_that_it_guards(node: Node) -> None:
    node.guard()
    guarded(node)
    done = node.lab.host.run([str(FQDNWALL), "cleanup", "--socket", str(node.socket)])
    assert done.returncode == 0, done.stderr
    assert node.agent is not None
    assert node.agent.wait(10) == 0
    assert node.fetch(CLOSED) == 0


def test_an_agent_in_another_network_namespace_takes_nothing_over(node: Node) -> None:
    node.guard()
    node.kill()
    done = node.box.namespace.run(
        [
            str(FQDNWALL),
            "agent",
            "--policy-dir",
            str(node.directory / "policies"),
            "--socket",
            str(node.socket),
        ]
    )
    assert done.returncode == 1
    assert "another network namespace" in done.stderr
    guarded(node)
    node.start()
    guarded(node)


def test_records_that_are_broken_leave_endpoints_closed_and_the_agent_alive(node: Node) -> None:
    node.guard()
    name = instance(node)
    node.kill()
    records, identities = pinned_map(name, "records"), pinned_map(name, "identities")
    for fd in (records, identities):
        for key in list(libbpf.keys(fd, 4)):
            size = libbpf.map_info(fd).value_size
            libbpf.update(fd, key, random.Random(1).randbytes(size))
        os.close(fd)
    assert EndpointRecord.size() == 4096
    node.start()
    assert json.loads(node.ask("endpoint", "list", "-o", "json")) == []


def test_names_that_are_broken_are_forgotten_and_nothing_else(node: Node) -> None:
    node.guard()
    names = STATE_DIR / f"{instance(node)}.names.json"
    node.kill()
    names.write_text('{"format": 1, "records": [[')
    node.start()
    guarded(node)


def test_an_interface_that_comes_back_under_its_name_is_another_endpoint(node: Node) -> None:
    node.guard()
    (endpoint,) = json.loads(node.ask("endpoint", "list", "-o", "json"))
    interface = endpoint["interface"]
    host = node.lab.host
    assert host.run(["ip", "link", "delete", interface]).returncode == 0
    number = host.run(["cat", f"/sys/class/net/{interface}/ifindex"]).stdout
    assert not number
    soon(lambda: json.loads(node.ask("endpoint", "list", "-o", "json")) == [], node.log)


def test_a_killed_agent_starts_again_whenever_it_was_killed(node: Node) -> None:
    node.guard()
    node.kill()
    clock = random.Random(7)
    for _ in range(6):
        with (node.directory / "agent.log").open("a") as log:
            agent = node.lab.host.start(
                [
                    str(FQDNWALL),
                    "agent",
                    "--policy-dir",
                    str(node.directory / "policies"),
                    "--socket",
                    str(node.socket),
                ],
                stdout=log,
                stderr=log,
            )
        time.sleep(clock.uniform(0.3, 1.6))
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        guarded(node)
    node.start()
    guarded(node)


def test_a_run_that_is_killed_is_cleared_by_the_next(node: Node) -> None:
    clock = random.Random(11)
    command = [str(FQDNWALL), "run", "--quiet", "--allow-cidr", "203.0.113.10/32", "--"]
    for _ in range(5):
        killed = node.lab.host.start([*command, "sleep", "60"], stderr=subprocess.DEVNULL)
        time.sleep(clock.uniform(0.3, 1.5))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    done = node.lab.host.run([*command, "curl", "-4sSo/dev/null", "-m3", OPEN])
    assert done.returncode == 0, done.stderr


def test_policies_that_cannot_be_listed_stay_in_force(node: Node) -> None:
    node.guard()
    shutil.rmtree(node.directory / "policies")
    soon(lambda: "cannot be listed" in node.ask("status"), node.log)
    guarded(node)
    (node.directory / "policies").mkdir()
    node.policy("web.yaml", POLICY)
    soon(lambda: "cannot be listed" not in node.ask("status"), node.log)
    guarded(node)


def test_a_policy_that_changes_is_in_force_at_once(node: Node) -> None:
    node.guard()
    assert node.fetch(CLOSED) == 28
    (endpoint,) = json.loads(node.ask("endpoint", "list", "-o", "json"))
    began = time.monotonic()
    node.policy("web.yaml", POLICY.replace("203.0.113.10/32", "203.0.113.0/24"))
    soon(
        lambda: (
            json.loads(node.ask("endpoint", "list", "-o", "json"))[0]["policy_revision"]
            > endpoint["policy_revision"]
        ),
        node.log,
    )
    assert time.monotonic() - began < 2.5
    assert node.fetch(CLOSED) == 0


def test_the_agent_has_no_compiler_in_its_memory(node: Node) -> None:
    assert node.agent is not None
    maps = Path(f"/proc/{node.agent.pid}/maps").read_text()
    assert "libbpf.so" in maps
    assert "LLVM" not in maps
    assert "libbcc" not in maps
    assert "clang" not in maps
    status = json.loads(node.ask("status", "-o", "json"))
    assert status["memory_rss_bytes"] < 100 << 20


def test_packets_of_an_endpoint_are_counted(node: Node) -> None:
    node.guard()
    guarded(node)
    (endpoint,) = json.loads(node.ask("endpoint", "list", "-o", "json"))
    counters = endpoint["counters"]
    assert counters["egress_forwarded"]["packets"] >= 5
    assert counters["ingress_forwarded"]["bytes"] > 100
    assert counters["egress_dropped"]["packets"] >= 1
    assert endpoint["state"] == "ready"


def test_an_address_is_one_endpoints_only(node: Node) -> None:
    node.guard()
    line = [str(FQDNWALL), "endpoint", "add", "--netns", str(node.box.namespace.path)]
    done = node.lab.host.run([*line, "--socket", str(node.socket)])
    assert done.returncode == 1
    assert "already" in done.stderr


def test_labels_that_no_record_holds_are_refused_and_leave_nothing(node: Node) -> None:
    labels = [part for i in range(80) for part in ("--label", f"k{i}={'x' * 60}")]
    line = [str(FQDNWALL), "endpoint", "add", "--netns", str(node.box.namespace.path)]
    done = node.lab.host.run([*line, "--socket", str(node.socket), *labels])
    assert done.returncode == 1
    assert "fewer or shorter labels" in done.stderr
    assert json.loads(node.ask("endpoint", "list", "-o", "json")) == []
    node.guard()
    guarded(node)
