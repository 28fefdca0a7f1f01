"""The UDP shell with real packets: who sees which address, and what a stranger can do."""

from __future__ import annotations

import dataclasses
import random
import resource
import socket

import pytest
import trio

from dnsproxy import EngineConfig, ProxyConfig, UpstreamPolicy
from dnsproxy.model import Failure
from tests.dnsproxy.conftest import Agent, running
from tests.dnsproxy.messages import (
    QR,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    TXT,
    address,
    message,
    opt,
    pointer,
    query,
    question,
    record,
    response,
)
from tests.dnsproxy.net import CLIENT_V4, CLIENT_V6, PORT, SERVER_V4, SERVER_V6, Net

pytestmark = pytest.mark.kernel

QNAME = "wWw.eXample.com"
QUERY = query(QNAME, message_id=0x4242)
CONFIG = ProxyConfig(port=PORT, listen_ipv4="0.0.0.0", listen_ipv6="::")
FAMILIES = [
    pytest.param(socket.AF_INET, SERVER_V4, CLIENT_V4, id="ipv4"),
    pytest.param(socket.AF_INET6, SERVER_V6, CLIENT_V6, id="ipv6"),
]


def answer_to(asked: bytes, *records: bytes) -> bytes:
    """The upstream's answer to `asked`, with its id."""
    return asked[:2] + response(QNAME.lower(), *records)[2:]


GOOD = address(pointer(12), "192.0.2.1", 30)


def opened_gate() -> Agent:
    agent = Agent()
    agent.gate.set()
    return agent


@pytest.mark.parametrize(("family", "server_address", "client_address"), FAMILIES)
async def test_client_and_server_see_each_other_and_not_the_proxy(
    inside: Net, family: int, server_address: str, client_address: str
) -> None:
    async with running(inside, agent=opened_gate()) as run:
        client, server = run.client(family), run.server(family)
        with client, server:
            await client.sendto(QUERY, (server_address, PORT))
            asked, upstream = await server.recvfrom(512)
            assert upstream[0] == client_address
            assert upstream[1] != client.getsockname()[1]
            assert asked[2:] == QUERY[2:]
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, source = await client.recvfrom(512)
        assert source[:2] == (server_address, PORT)
        assert got == answer_to(QUERY, GOOD)[:12] + QUERY[12:] + GOOD
        assert [learned.qname for learned in run.agent.learned] == ["www.example.com"]


async def test_reply_waits_for_the_installer(inside: Net) -> None:
    async with running(inside) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            await server.sendto(answer_to(asked, GOOD), upstream)
            with trio.move_on_after(0.1) as waited:
                await client.recvfrom(512)
            assert waited.cancelled_caught
            run.agent.gate.set()
            assert (await client.recvfrom(512))[0][:2] == QUERY[:2]


async def test_one_installation_that_waits_holds_up_no_other(inside: Net) -> None:
    class OneWaits(Agent):
        async def install(self, learned: object) -> None:
            if learned.qname.startswith("slow"):  # type: ignore[attr-defined]
                await self.gate.wait()

    async with running(inside, agent=OneWaits()) as run:
        with run.client() as client, run.server() as server:
            for name in ("slow.example.com", "fast.example.com"):
                await client.sendto(query(name), (SERVER_V4, PORT))
            for _ in range(2):
                asked, upstream = await server.recvfrom(512)
                await server.sendto(
                    asked[:2] + message(0, QR, (asked[12:],), (GOOD,))[2:], upstream
                )
            got, _ = await client.recvfrom(512)
            assert got[12:17] == b"\x04fast"


@pytest.mark.parametrize("how", ["full", "too slow"])
async def test_failed_installation_is_servfail(inside: Net, how: str) -> None:
    agent = Agent(full=True)
    if how == "full":
        agent.gate.set()
    config = dataclasses.replace(CONFIG, engine=EngineConfig(install_timeout_seconds=0.1))
    async with running(inside, config, agent) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, _ = await client.recvfrom(512)
    assert got[3] & 15 == SERVFAIL
    assert run.proxy.metrics.install_timeouts == (how == "too slow")


class InstantAgent(Agent):
    """Installs names that begin with "now" at once; another must wait for the gate."""

    def install_now(self, learned: object) -> bool:
        return learned.qname.startswith("now")  # type: ignore[attr-defined, no-any-return]


async def test_instant_installer_is_asked_first_and_may_decline(inside: Net) -> None:
    async with running(inside, agent=InstantAgent()) as run:
        with run.client() as client, run.server() as server:
            for name in ("later.example.com", "now.example.com"):
                await client.sendto(query(name), (SERVER_V4, PORT))
                asked, upstream = await server.recvfrom(512)
                await server.sendto(
                    asked[:2] + message(0, QR, (asked[12:],), (GOOD,))[2:], upstream
                )
            got, _ = await client.recvfrom(512)
            assert got[12:16] == b"\x03now"
            run.agent.gate.set()
            got, _ = await client.recvfrom(512)
            assert got[12:18] == b"\x05later"


async def test_instant_installer_that_crashes_is_servfail(
    inside: Net, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashing(InstantAgent):
        def install_now(self, learned: object) -> bool:
            raise ZeroDivisionError

    async with running(inside, agent=Crashing()) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, _ = await client.recvfrom(512)
    assert got[3] & 15 == SERVFAIL
    assert "ZeroDivisionError" in caplog.text


async def test_refusal_comes_from_the_server_that_never_hears_of_it(inside: Net) -> None:
    async with running(inside) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(query("evil.test"), (SERVER_V4, PORT))
            got, source = await client.recvfrom(512)
            assert source == (SERVER_V4, PORT)
            assert got[3] & 15 == REFUSED
            with trio.move_on_after(0.05) as waited:
                await server.recvfrom(512)
            assert waited.cancelled_caught


async def test_spoofed_answers_reach_nobody(inside: Net) -> None:
    """Wrong source port or address never passes the connected socket; wrong id or question does."""
    async with running(inside, agent=opened_gate()) as run:
        forged = address(pointer(12), "203.0.113.66")
        other_port = inside.server_socket(socket.AF_INET, socket.SOCK_DGRAM, 5353)
        with run.client() as client, run.server() as server, other_port:
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            other_port.sendto(answer_to(asked, forged), upstream)
            wrong_id = (int.from_bytes(asked[:2], "big") ^ 1).to_bytes(2, "big")
            await server.sendto(wrong_id + answer_to(asked, forged)[2:], upstream)
            other_question = response("www.example.org", forged)
            await server.sendto(asked[:2] + other_question[2:], upstream)
            with trio.move_on_after(0.05) as waited:
                await client.recvfrom(512)
            assert waited.cancelled_caught
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, _ = await client.recvfrom(512)
        assert got.endswith(GOOD)
        assert run.proxy.metrics.unmatched_responses == 2
        assert len(run.agent.learned) == 1


async def test_ports_and_ids_upstream_differ_from_query_to_query(inside: Net) -> None:
    async with running(inside) as run:
        with run.client() as client, run.server() as server:
            seen = set()
            for _ in range(8):
                await client.sendto(QUERY, (SERVER_V4, PORT))
                asked, upstream = await server.recvfrom(512)
                seen.add((upstream[1], asked[:2]))
        assert len({port for port, _ in seen}) == 8
        assert len({message_id for _, message_id in seen}) > 4


@pytest.mark.parametrize(("family", "server_address", "client_address"), FAMILIES)
async def test_refused_upstream_is_servfail_at_once(
    inside: Net, family: int, server_address: str, client_address: str
) -> None:
    async with running(inside) as run:
        with run.client(family) as client:
            await client.sendto(QUERY, (server_address, PORT))  # nobody listens there: ICMP
            got, _ = await client.recvfrom(512)
        assert got[3] & 15 == SERVFAIL
        assert run.proxy.metrics.failures[Failure.UPSTREAM] == 1
        assert run.proxy.metrics.flows == 0


@pytest.mark.parametrize(("family", "server_address", "client_address"), FAMILIES)
async def test_answer_that_does_not_fit_the_link_goes_out_truncated(
    inside: Net, family: int, server_address: str, client_address: str
) -> None:
    text = b"".join(record(pointer(12), TXT, b"\xff" + b"t" * 255) for _ in range(12))
    asked = message(0x4242, RD, (question(QNAME, TXT),), additionals=(opt(size=4096),))
    async with running(inside) as run:
        with run.client(family) as client, run.server(family) as server:
            await client.sendto(asked, (server_address, PORT))
            got, upstream = await server.recvfrom(512)
            long = message(0, QR, (question(QNAME, TXT),), (text,), counts=(1, 12, 0, 0))
            await server.sendto(got[:2] + long[2:], upstream)
            reply, _ = await client.recvfrom(4096)
        assert reply == message(0x4242, QR | TC, (question(QNAME, TXT),))


async def test_answer_as_long_as_the_link_takes_is_whole(inside: Net) -> None:
    async with running(inside) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(query(QNAME, TXT), (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            room = 1500 - 28 - len(asked) - 12
            rdata = b"t" * room
            whole = message(0, QR, (asked[12:],), (record(pointer(12), 0xFF00, rdata),))
            assert len(whole) == 1472
            await server.sendto(asked[:2] + whole[2:], upstream)
            got, _ = await client.recvfrom(4096)
        assert got[2:] == whole[2:]


async def test_query_and_answer_in_fragments(inside: Net) -> None:
    padding = b"\x00\x0c" + (2500).to_bytes(2, "big") + b"\x00" * 2500
    asked = message(0x4242, RD, (question(QNAME),), additionals=(opt(padding, 4096),))
    async with running(inside, agent=opened_gate()) as run:
        with run.client() as client, run.server() as server:
            await client.sendto(asked, (SERVER_V4, PORT))
            got, upstream = await server.recvfrom(8192)
            assert got[2:] == asked[2:]
            long = message(
                0, QR, (question(QNAME),), (GOOD,), (), (record("x", 0xFF00, b"x" * 3000),)
            )
            await server.sendto(got[:2] + long[2:], upstream)
            reply, _ = await client.recvfrom(8192)
        assert reply == message(0x4242, QR | TC, (question(QNAME),))
        assert len(run.agent.learned) == 1


async def test_queries_that_the_queue_cannot_hold_are_counted(inside: Net) -> None:
    async with running(inside) as run:
        with inside.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as burst:
            for _ in range(600):  # the proxy has no turn in between
                burst.sendto(b"x" * 30000, (SERVER_V4, PORT))
        with run.client() as client:
            await client.sendto(query("evil.test"), (SERVER_V4, PORT))  # after what got through
            await trio.sleep(0.05)
            await client.sendto(query("evil.test"), (SERVER_V4, PORT))
            await client.recvfrom(512)
        metrics = run.proxy.metrics
        assert 600 <= metrics.queries + metrics.listener_overflows <= 602
        assert metrics.listener_overflows > 0


async def test_server_with_an_alias_is_asked_there_and_answers_under_its_own_name(
    inside: Net,
) -> None:
    policy = UpstreamPolicy(aliases={"198.51.100.53": (SERVER_V4, 5300)})
    config = dataclasses.replace(CONFIG, upstream=policy)
    async with running(inside, config, opened_gate()) as run:
        real = inside.server_socket(socket.AF_INET, socket.SOCK_DGRAM, 5300)
        real.setblocking(False)
        with run.client() as client, trio.socket.from_stdlib_socket(real) as server:
            await client.sendto(QUERY, ("198.51.100.53", PORT))
            asked, upstream = await server.recvfrom(512)
            assert upstream[0] == "10.77.2.1"  # the host's own address, not the client's
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, source = await client.recvfrom(512)
        assert source == ("198.51.100.53", PORT)
        assert got.endswith(GOOD)
        assert run.agent.learned[0].server == ("198.51.100.53", PORT)


async def test_noise_from_both_sides_does_not_stop_the_proxy(inside: Net) -> None:
    draw = random.Random(1)
    async with running(inside, agent=opened_gate()) as run:
        with run.client() as client, run.server() as server, run.client() as noisy:
            for _ in range(300):
                noise = bytearray(draw.randbytes(draw.randrange(600)))
                if draw.random() < 0.5:
                    noise[: len(QUERY)] = QUERY[: draw.randrange(len(QUERY))]
                await noisy.sendto(noise, (SERVER_V4, PORT))
            await client.sendto(QUERY, (SERVER_V4, PORT))
            while True:
                asked, upstream = await server.recvfrom(4096)
                if asked[2:] == QUERY[2:]:
                    break
            for _ in range(100):
                await server.sendto(asked[:2] + draw.randbytes(draw.randrange(600)), upstream)
            await server.sendto(answer_to(asked, GOOD), upstream)
            got, _ = await client.recvfrom(512)
        assert got.endswith(GOOD)
        assert run.proxy.metrics.failures[Failure.CRASH] == 0


async def test_want_of_descriptors_is_servfail_and_passes(inside: Net) -> None:
    async with running(inside, agent=opened_gate()) as run:
        with run.client() as client, run.server() as server:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                await client.sendto(QUERY, (SERVER_V4, PORT))
                got, _ = await client.recvfrom(512)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert got[3] & 15 == SERVFAIL
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            await server.sendto(answer_to(asked, GOOD), upstream)
            assert (await client.recvfrom(512))[0].endswith(GOOD)


async def test_bug_in_the_endpoint_lookup_costs_its_query_and_no_other(
    inside: Net, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashing(Agent):
        def endpoint_of(self, address: str) -> int | None:
            self.broken = not self.broken
            return 1 // (not self.broken)

    async with running(inside, agent=Crashing()) as run:
        with run.client() as client:
            for _ in range(2):
                await client.sendto(query("evil.test"), (SERVER_V4, PORT))
            got, _ = await client.recvfrom(512)
            assert got[3] & 15 == REFUSED
    assert "ZeroDivisionError" in caplog.text


async def test_bug_in_the_judge_costs_its_query_and_no_other(
    inside: Net, caplog: pytest.LogCaptureFixture
) -> None:
    agent = opened_gate()
    async with running(inside, agent=agent) as run:
        with run.client() as client, run.server() as server:
            agent.broken = True
            await client.sendto(QUERY, (SERVER_V4, PORT))
            await agent.crashed.wait()
            agent.broken = False
            await client.sendto(QUERY, (SERVER_V4, PORT))
            asked, upstream = await server.recvfrom(512)
            await server.sendto(answer_to(asked, GOOD), upstream)
            assert (await client.recvfrom(512))[0].endswith(GOOD)
    assert run.proxy.metrics.failures[Failure.CRASH] == 1
    assert "ZeroDivisionError" in caplog.text
