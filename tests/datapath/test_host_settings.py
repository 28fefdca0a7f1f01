"""What the host's own settings and firewall do to the proxy's packets: known, not guessed.

Each case is a host with some settings, and which of the proxy's two paths work on it. What says
"no" here is what set-up has to see to, or to tell the person about.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from fqdnwall.datapath.layouts import Mark, Verdict
from fqdnwall.netlink.masquerade import add_masquerade
from tests.datapath.bench import CLIENT4, CLIENT6, SERVER4, SERVER6, Bench, entry
from tests.datapath.wire import Wire, hears, open_socket, wired

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

STREAM = socket.SOCK_STREAM
PAIRS = [(CLIENT4, SERVER4, "127.0.0.1"), (CLIENT6, SERVER6, "::1")]
PROXY_PORT = 5353
SHORT_SECONDS = 0.3


def no_early_demux(wire: Wire) -> None:
    wire.set("ipv4/ip_early_demux", "0")


def masquerade(wire: Wire) -> None:
    with wire.host.entered():
        add_masquerade("guard", (ip_address(CLIENT4), ip_address(CLIENT6)), "endpoint")


def strict_reverse_path(wire: Wire) -> None:
    wire.set("ipv4/conf/all/rp_filter", "1")


def invalid_is_dropped(wire: Wire) -> None:
    wire.nft(
        "add table {family} strict; "
        "add chain {family} strict input { type filter hook input priority filter; }; "
        "add rule {family} strict input ct state invalid drop"
    )


def not_tracked(wire: Wire) -> None:
    wire.nft(
        "add table {family} guard-raw; "
        "add chain {family} guard-raw in { type filter hook prerouting priority raw; }; "
        f"add rule {{family}} guard-raw in meta mark and {Mark.MASK:#x} == {Mark.TO_PROXY:#x} "
        "notrack"
    )


def closed_input(wire: Wire) -> None:
    wire.nft(
        "add table {family} closed; add chain {family} closed input "
        "{ type filter hook input priority filter; policy drop; }; "
        "add rule {family} closed input ct state established,related accept; "
        "add rule {family} closed input meta l4proto ipv6-icmp accept"
    )


def mark_is_let_in(wire: Wire) -> None:
    wire.nft(
        f"insert rule {{family}} closed input meta mark and {Mark.MASK:#x} == "
        f"{Mark.TO_PROXY:#x} accept"
    )


SOCKETS = Wire.deliver_to_transparent_sockets
Host = list[Callable[[Wire], None]]
YES, NO = (True, True), (False, False)
CASES: list[tuple[Host, tuple[bool, bool], tuple[bool, bool]]] = [
    # settings, queries reach the proxy (v4, v6), upstream's answers reach the proxy (v4, v6)
    ([], YES, NO),
    ([no_early_demux], YES, YES),
    ([no_early_demux, masquerade], YES, YES),
    ([no_early_demux, masquerade, invalid_is_dropped], YES, NO),
    ([no_early_demux, masquerade, invalid_is_dropped, not_tracked], YES, YES),
    ([no_early_demux, strict_reverse_path], YES, (False, True)),
    ([SOCKETS], YES, YES),
    ([SOCKETS, masquerade, invalid_is_dropped, strict_reverse_path], YES, YES),
    ([SOCKETS, masquerade, closed_input], NO, YES),
    ([SOCKETS, masquerade, closed_input, mark_is_let_in], YES, YES),
]


def reaches_proxy(wire: Wire, client: str, server: str, loopback: str) -> bool:
    with (
        open_socket(
            wire.host, STREAM, (loopback, PROXY_PORT), transparent=True, mark=Mark.FROM_PROXY
        ) as proxy,
        open_socket(wire.client, STREAM, (client, 0)) as near,
    ):
        proxy.listen()
        near.settimeout(SHORT_SECONDS)
        try:
            near.connect((server, 53))
        except TimeoutError:
            return False
        accepted, _ = proxy.accept()
        with accepted:
            accepted.sendall(b"answer")
            return hears(near) == b"answer"


def reaches_upstream_socket(wire: Wire, client: str, server: str) -> bool:
    with (
        open_socket(wire.server, STREAM, (server, 53)) as far,
        open_socket(
            wire.host, STREAM, (client, 0), transparent=True, mark=Mark.FROM_PROXY
        ) as asking,
    ):
        far.listen()
        asking.settimeout(SHORT_SECONDS)
        try:
            asking.connect((server, 53))
        except TimeoutError:
            return False
        accepted, _ = far.accept()
        with accepted:
            accepted.sendall(b"answer")
            return hears(asking) == b"answer"


@pytest.mark.parametrize(
    ("host", "queries", "answers"),
    CASES,
    ids=[",".join(step.__name__ for step in case[0]) or "as it is" for case in CASES],
)
def test_which_hosts_let_the_proxy_work(
    bench: Bench, host: Host, queries: tuple[bool, bool], answers: tuple[bool, bool]
) -> None:
    with wired() as wire:
        wire.deliver_locally()
        for prepare in host:
            prepare(wire)
        bench.endpoint(wire.ifindex)
        bench.configure(dns_port=PROXY_PORT)
        bench.policy(entry(0, Verdict.REDIRECT, protocol=6, port=53))
        wire.attach(bench)
        try:
            assert tuple(reaches_proxy(wire, *ends) for ends in PAIRS) == queries
            assert tuple(reaches_upstream_socket(wire, *ends[:2]) for ends in PAIRS) == answers
        finally:
            wire.detach(bench)
