"""What policies mean on the wire: real packets of a guarded client, allowed and dropped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lab import Lab, world
from tests.lab.daemons import REPOSITORY
from tests.lab.guard import FQDNWALL, Outcome, Session

DNS_RULE = """\
    - toEndpoints:
        - matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, "k8s:k8s-app": kube-dns}
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchPattern: "*"}]}
"""
Start = Callable[..., Session]
Egress = Callable[..., Session]


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    """Starts sessions that end with the test."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(Session(lab, options))


@pytest.fixture
def start_both_ways(start: Start, dns_option: tuple[str, ...]) -> Start:
    """The same, with DNS by the kernel and by the proxy."""
    return lambda *options: start(*dns_option, *options)


@pytest.fixture
def egress(start: Start, tmp_path: Path) -> Egress:
    """A session under a policy with these egress rules, DNS for every name among them."""
    return under_egress_rules(start, tmp_path)


@pytest.fixture
def egress_both_ways(start_both_ways: Start, tmp_path: Path) -> Egress:
    """The same, with DNS by the kernel and by the proxy."""
    return under_egress_rules(start_both_ways, tmp_path)


def under_egress_rules(start: Start, directory: Path) -> Egress:
    def begin(rules: str, deny: str = "") -> Session:
        policy = directory / "policy.yaml"
        policy.write_text(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: test}\n"
            f"spec:\n  endpointSelector: {{}}\n  egress:\n{DNS_RULE}{rules}{deny}"
        )
        return start("--policy", str(policy))

    return begin


def http(session: Session, where: str, *options: str) -> int:
    """curl's exit status for a web page: 0 reached, 6 name refused, 28 neither for long."""
    command = ("curl", "-sS", "-o", "/dev/null", "--connect-timeout", "10", *options, where)
    return session.do(command).status


def dropped(session: Session, where: str, *options: str) -> bool:
    """Whether a web page is not to be had, as of one that is dropped."""
    return http(session, where, *options, "--connect-timeout", "0.7") == 28


def test_an_address_expires_with_its_time_to_live(start_both_ways: Start) -> None:
    session = start_both_ways("--allow", "brief.example.com")
    where, pinned = "http://brief.example.com/", ("--resolve", "brief.example.com:80:203.0.113.13")
    assert http(session, where, "-4") == 0
    time.sleep(2.5)
    assert dropped(session, where, *pinned)


def test_a_connection_outlives_the_time_to_live(start_both_ways: Start) -> None:
    session = start_both_ways("--allow", "brief.example.com")
    slow = ("curl", "-4sS", "-m", "3", "-w", "%{size_download}", "-o", "/dev/null")
    outcome = session.do((*slow, "http://brief.example.com/slow"))
    assert outcome.status == 28, "the download is far longer than three seconds"
    assert int(outcome.out) > 180_000, "it went on after the first second"


def test_a_name_refused_is_refused_even_if_its_address_is_open(start_both_ways: Start) -> None:
    session = start_both_ways("--allow", "shared-a.example.com")
    assert http(session, "http://shared-a.example.com/", "-4") == 0
    assert http(session, "http://shared-b.example.org/", "-4") == 6


def test_two_names_of_one_address_keep_their_own_ports(egress_both_ways: Egress) -> None:
    session = egress_both_ways(
        """\
    - toFQDNs: [{matchName: shared-a.example.com}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
    - toFQDNs: [{matchName: shared-b.example.org}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""
    )
    assert http(session, "http://shared-a.example.com/", "-4") == 0
    assert dropped(session, "http://203.0.113.40:8080/"), "only the first was asked for"
    assert http(session, "http://shared-b.example.org:8080/", "-4") == 0
    assert dropped(session, "http://203.0.113.40:443/", "-k")


def test_a_name_that_dns_answers_but_no_rule_allows_stays_closed(
    egress_both_ways: Egress,
) -> None:
    session = egress_both_ways("    - toFQDNs: [{matchName: api.example.com}]\n")
    assert dropped(session, "http://unlisted.example.org/", "-4")
    assert http(session, "http://api.example.com/", "-4") == 0


def test_a_prefix_and_its_exception(egress: Egress) -> None:
    session = egress(
        "    - toCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.90/32]},"
        ' {cidr: "2001:db8:80::/48"}]\n'
    )
    assert http(session, "http://203.0.113.10/") == 0
    assert http(session, "http://[2001:db8:80::90]/") == 0
    assert dropped(session, "http://203.0.113.90/")


def test_deny_goes_before_allow(egress: Egress) -> None:
    session = egress(
        "    - toCIDR: [203.0.113.0/24]\n",
        "  egressDeny:\n    - toCIDR: [203.0.113.10/32]\n"
        '      toPorts: [{ports: [{port: "80"}]}]\n',
    )
    assert dropped(session, "http://203.0.113.10/")
    assert http(session, "http://203.0.113.10:8080/") == 0
    assert http(session, "http://203.0.113.11/") == 0


def test_a_range_of_ports(egress: Egress) -> None:
    session = egress(
        "    - toCIDR: [203.0.113.0/24]\n"
        '      toPorts: [{ports: [{port: "80", endPort: 500, protocol: TCP}]}]\n'
    )
    assert http(session, "http://203.0.113.10/") == 0
    assert http(session, "https://203.0.113.10/", "-k") == 0
    assert dropped(session, "http://203.0.113.10:8080/")


@pytest.mark.parametrize("address", ["203.0.113.10", "2001:db8:80::10"])
@pytest.mark.parametrize("octets", [56, 4000])
def test_echo_requests_need_a_rule_fragmented_or_not(
    egress: Egress, address: str, octets: int
) -> None:
    ping = ("ping", "-c", "1", "-W", "1", "-s", str(octets))
    session = egress(
        "    - toEntities: [world]\n"
        "      icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]\n"
    )
    assert session.do((*ping, address)).status == 0
    assert dropped(session, f"http://{f'[{address}]' if ':' in address else address}/")


def test_without_a_rule_no_echo_goes_out(start: Start) -> None:
    session = start("--allow", "api.example.com")
    assert session.do(("ping", "-c", "1", "-W", "1", "203.0.113.10")).status == 1


def test_udp_is_not_tcp(egress: Egress, lab: Lab) -> None:
    """Another resolver may be reached over UDP alone, without DNS rules."""
    server = str(world.OTHER_RESOLVER_V4)
    session = egress(
        f"    - toCIDR: [{server}/32]\n"
        '      toPorts: [{ports: [{port: "53", protocol: UDP}]}]\n'
    )
    dig = ("dig", "+tries=1", "+time=1", "+short", f"@{server}", "www.example.com")
    assert session.do(dig).out.split()[-1].startswith("203.0.113.")
    assert session.do((*dig, "+tcp")).status == 9


def test_nothing_reaches_the_machine_or_its_neighbours(start: Start) -> None:
    session = start("--allow", "api.example.com")
    for address in (world.HOST_V4, world.ROUTER_V4):
        assert dropped(session, f"http://{address}/")


@contextmanager
def stub_resolver(lab: Lab) -> Iterator[Path]:
    """A resolver on the host's loopback, as systemd-resolved is; yields a resolv.conf for it."""
    configuration = lab.directory / "stub.conf"
    configuration.write_text(
        f"""\
server:
  directory: {lab.directory}
  username: ""
  chroot: ""
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  interface: 127.0.0.53
  module-config: iterator
forward-zone:
  name: .
  forward-addr: {lab.resolvers[0]}
"""
    )
    stub = lab.host.start(["unbound", "-d", "-c", str(configuration)], stderr=-3)
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                lab.query("api.example.com", server="127.0.0.53", timeout_seconds=0.3)
                break
            except OSError:
                time.sleep(0.05)
        resolv_conf = lab.directory / "stub-resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.53\n")
        yield resolv_conf
    finally:
        stub.kill()
        stub.wait()


def test_a_stub_resolver_on_the_hosts_loopback_works(lab: Lab, dns_option: tuple[str, ...]) -> None:
    with stub_resolver(lab) as resolv_conf:
        options = ["--quiet", *dns_option, "--allow", "api.example.com"]
        command = [str(FQDNWALL), "run", *options, "--"]
        for question, status in (("api.example.com", 0), ("unlisted.example.org", 6)):
            curl = ["curl", "-4sS", "--connect-timeout", "2", f"http://{question}/"]
            done = lab.host.run([*command, *curl], resolv_conf=str(resolv_conf))
            assert done.returncode == status, done.stderr


@pytest.mark.slow
def test_no_connection_to_an_address_learned_a_moment_before_fails(
    start_both_ways: Start, lab: Lab
) -> None:
    """Ten thousand, each to another address, from answers that live for one second."""
    session = start_both_ways("--allow", f"*.{world.ROTATING_ZONE}:80")
    program = (sys.executable, str(REPOSITORY / "tests/lab/fresh.py"))
    outcome: Outcome = session.do((*program, "--server", lab.resolvers[0], "--count", "10000"))
    result = json.loads(outcome.out)
    assert result["failed"] == {}
    assert (result["connected"], result["distinct"]) == (10_000, 10_000)


def test_one_socket_may_ask_through_the_proxy_and_past_it(start: Start, lab: Lab) -> None:
    """A star inside a label is the proxy's at first and the kernel's from the second time on."""
    session = start("--allow", f"n*.{world.ROTATING_ZONE}:80")
    fresh = (sys.executable, str(REPOSITORY / "tests/lab/fresh.py"), "--at-once", "1")
    outcome: Outcome = session.do(
        (*fresh, "--server", lab.resolvers[0], "--count", "8", "--names", "4")
    )
    result = json.loads(outcome.out)
    assert result["failed"] == {}
    assert result["connected"] == 8
