from __future__ import annotations

import subprocess
import sys

import pytest

from fqdnwall.netlink import links, sysctl
from tests.sandbox.host import HOST4, HOST6, PORT, SERVER4, SERVER6, Host

pytestmark = pytest.mark.kernel


def ask(address: str) -> list[str]:
    return ["bash", "-c", f"exec 3<>/dev/tcp/{address}/{PORT} && cat <&3"]


@pytest.mark.parametrize(("server", "seen"), [(SERVER4, HOST4), (SERVER6, HOST6)])
def test_traffic_reaches_the_uplink_under_the_hosts_own_address(
    host: Host, server: str, seen: str
) -> None:
    result = host.run(ask(server))
    assert (result.stdout, result.returncode) == (f"{seen}\n", 0), result.stderr
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_strict_reverse_path_filter_on_the_host_is_no_obstacle(host: Host) -> None:
    with host.namespace.entered():
        sysctl.write("ipv4/conf/all/rp_filter", "1")
    assert host.run(ask(SERVER4)).stdout == f"{HOST4}\n"


@pytest.mark.slow
def test_on_a_host_that_forwards_already_nothing_is_changed(host: Host) -> None:
    names = ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding")
    with host.namespace.entered():
        for name in names:
            sysctl.write(name, "1")
    assert host.run(ask(SERVER6)).stdout == f"{HOST6}\n"
    with host.namespace.entered():
        assert [sysctl.read(name) for name in names] == ["1", "1"]


@pytest.mark.slow
def test_without_ipv6_on_the_host_the_sandbox_is_ipv4_only(host: Host) -> None:
    with host.namespace.entered():
        sysctl.write("ipv6/conf/all/disable_ipv6", "1")
    result = host.run(["ip", "-6", "route", "show", "default"])
    assert (result.stdout, result.returncode) == ("", 0), result.stderr
    assert host.run(ask(SERVER4)).stdout == f"{HOST4}\n"
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_slot_whose_addresses_the_host_uses_is_passed_over(host: Host) -> None:
    with host.namespace.netlink() as socket:
        socket.route("add", dst="198.19.0.0/29", gateway=SERVER4)
    result = host.run(ask(SERVER4), "--plan", host.directory / "plan")
    assert result.stdout == f"{HOST4}\n"
    assert host.plan()["slot"] == 1


@pytest.mark.slow
def test_the_command_sees_its_own_network_in_sys(host: Host) -> None:
    result = host.run(["ls", "/sys/class/net"])
    assert result.stdout.split() == ["eth0", "lo"]


@pytest.mark.slow
def test_the_sandbox_takes_the_uplinks_mtu(host: Host) -> None:
    with host.namespace.netlink() as socket:
        socket.link("set", index=socket.link_lookup(ifname="up0")[0], mtu=1380)
    assert host.run(["cat", "/sys/class/net/eth0/mtu"]).stdout == "1380\n"


@pytest.mark.slow
def test_the_host_side_is_there_before_the_command_is_started(host: Host) -> None:
    go = host.directory / "go"
    process = host.start(["echo", "ran"], "--pause", go, "--plan", host.directory / "plan")
    interface = host.plan()["interface"]
    with host.namespace.entered():
        assert interface in [each.name for each in links()]
    go.touch()
    assert process.communicate(timeout=10) == ("ran\n", "")


def test_ping_works_without_privileges(host: Host) -> None:
    argv = [sys.executable, "-c", "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM, 1)"]
    result = host.run(argv, env={"SUDO_UID": "65534", "SUDO_GID": "65534"})
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_eight_at_once_each_have_a_network_of_their_own(host: Host) -> None:
    processes: list[subprocess.Popen[str]] = []
    for number in range(8):
        argv = ["bash", "-c", f"{ask(SERVER4)[2]}; ip -o -4 address show dev eth0; read"]
        processes.append(host.start(argv, "--plan", host.directory / f"plan{number}"))
    plans = [host.plan(f"plan{number}") for number in range(8)]
    assert {plan["slot"] for plan in plans} == set(range(8))
    for process, plan in zip(processes, plans, strict=True):
        out, err = process.communicate("\n", timeout=20)
        assert out.splitlines()[0] == HOST4, err
        assert plan["addresses"][0] in out
        assert process.returncode == 0
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_host_whose_firewall_drops_what_it_forwards_still_serves_the_sandbox(host: Host) -> None:
    rules = (
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
    )
    host.namespace.run(["nft", rules])
    before = host.namespace.run(["nft", "list", "ruleset"]).stdout
    assert "policy drop" in before
    assert host.run(ask(SERVER4)).stdout == f"{HOST4}\n"
    assert host.namespace.run(["nft", "list", "ruleset"]).stdout == before


@pytest.mark.slow
def test_a_neighbour_of_the_host_cannot_reach_into_the_sandbox(host: Host) -> None:
    listen = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); input()"
    process = host.start([sys.executable, "-c", listen])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    connect = "exec 3<>/dev/tcp/198.19.0.1/7000"
    with host.server.netlink() as socket:
        socket.route("add", dst="198.19.0.0/16", gateway=HOST4)
    try:
        assert host.namespace.run(["bash", "-c", connect]).returncode == 0
        assert host.server.run(["timeout", "0.5", "bash", "-c", connect]).returncode == 124
    finally:
        process.communicate("\n", timeout=10)


READ_ONLY = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'


@pytest.mark.slow
def test_where_sysctls_are_read_only_a_host_that_forwards_is_good_enough(host: Host) -> None:
    with host.namespace.entered():
        for name in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            sysctl.write(name, "1")
    argv = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", *host.command(ask(SERVER6))]
    result = host.namespace.run(argv, resolv_conf=host.resolv_conf("nameserver 192.0.2.1\n"))
    assert result.stdout == f"{HOST6}\n", result.stderr


@pytest.mark.slow
def test_where_sysctls_are_read_only_a_host_that_does_not_forward_is_told(host: Host) -> None:
    argv = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", *host.command(["true"])]
    result = host.namespace.run(argv, resolv_conf=host.resolv_conf("nameserver 192.0.2.1\n"))
    assert result.returncode == 125
    assert "net.ipv4.ip_forward" in result.stderr
    assert "Read-only file system" in result.stderr
    assert host.leftovers() == []
