"""The lab is what it says, and goes without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, clear_leftovers, world
from tests.lab.daemons import REPOSITORY
from tests.lab.leftovers import Machine, wait_until_clean

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def fetch(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-sS", "--max-time", "5", "--cacert", str(lab.authority), *arguments]
    return lab.host.run(command, resolv_conf=str(lab.resolv_conf))


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("name", ["api.example.com", "assets.example.com", "x.fresh.example"])
def test_a_name_serves_https_on_both_families(lab: Lab, family: str, name: str) -> None:
    answer = fetch(lab, family, f"https://{name}/")
    assert answer.stderr == ""
    assert answer.stdout.split()[0] == name


def test_each_answer_of_the_rotating_zone_is_a_new_address(lab: Lab) -> None:
    seen = [lab.addresses_of("same.fresh.example")[0] for _ in range(5)]
    assert len(set(seen)) == 5
    assert lab.query("same.fresh.example").rr[0].ttl == 1


def test_a_content_network_takes_three_steps(lab: Lab) -> None:
    kinds = [record.rtype for record in lab.query("assets.example.com").rr]
    assert kinds[:3] == [5, 5, 5]
    assert set(kinds[3:]) == {1}


def test_an_answer_too_long_for_udp_is_truncated_and_whole_over_tcp(lab: Lab) -> None:
    assert lab.query("many.example.com").header.tc == 1
    assert len(lab.query("many.example.com", tcp=True).rr) == 120


@pytest.mark.parametrize("resolver", [*map(str, (world.OTHER_RESOLVER_V4, world.RESOLVER_V6))])
def test_every_resolver_answers(lab: Lab, resolver: str) -> None:
    assert lab.query("api.example.com", server=resolver).rr


def test_a_container_reaches_the_internet_masqueraded(lab: Lab) -> None:
    container = lab.add_container("box")
    for family in ("-4", "-6"):
        answer = container.namespace.run(
            ["curl", "-sS", family, "--max-time", "5", "http://api.example.com/"],
            resolv_conf=str(lab.resolv_conf),
        )
        assert answer.stdout.startswith("api.example.com"), answer.stderr


@pytest.mark.slow
def test_two_labs_run_side_by_side(lab: Lab) -> None:
    with Lab() as other:
        assert other.addresses_of("api.example.com") == lab.addresses_of("api.example.com")
    assert lab.addresses_of("api.example.com")


@pytest.mark.slow
def test_a_lab_leaves_nothing() -> None:
    before = Machine.seen()
    with Lab() as lab:
        lab.add_container("box")
        lab.internet.start(["sleep", "100"])
    assert wait_until_clean(before) == []


@pytest.mark.slow
def test_a_killed_lab_leaves_no_process_and_the_next_clears_the_rest() -> None:
    code = """if True:
        import time
        from tests.lab import Lab

        with Lab() as lab:
            print(lab.id, flush=True)
            time.sleep(100)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        lab_id = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _processes_of(lab_id) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _processes_of(lab_id) == []
    assert f"/run/fqwlab/{lab_id}" in clear_leftovers()
    assert not Path("/run/fqwlab", lab_id).exists()


def _processes_of(lab_id: str) -> list[str]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if f"FQWLAB={lab_id}".encode() in (directory / "environ").read_bytes():
                found.append(directory.name)
        except OSError:
            continue
    assert str(os.getpid()) not in found
    return found
