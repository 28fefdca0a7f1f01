"""The API as the agent uses it, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network

import pytest
import trio

from fqdnwall.sandbox import (
    NoFreeSlot,
    Places,
    Sandbox,
    SandboxOptions,
    Signals,
    caught_signals,
    command,
    prepare,
)
from tests.sandbox.host import Host, eventually, pids_with

pytestmark = pytest.mark.kernel


@pytest.fixture
def signals(host: Host) -> Iterator[Signals]:
    """Collected in the host's namespace, where the main thread is too."""
    with host.namespace.entered(), caught_signals() as signals:
        yield signals


def options(host: Host) -> SandboxOptions:
    return SandboxOptions(places=Places(host.state, host.state / "pins"))


@pytest.fixture
async def sandbox(host: Host, signals: Signals) -> AsyncIterator[Sandbox]:
    async with await prepare(options(host), signals) as sandbox:
        yield sandbox


async def test_cancelling_the_wait_ends_the_command_before_it_returns(sandbox: Sandbox) -> None:
    await sandbox.start(command(["sleep", "4712"]))
    with trio.move_on_after(0.05):
        await sandbox.wait()
    assert pids_with("4712") == []


async def test_ending_may_be_repeated_and_signals_afterwards_do_nothing(sandbox: Sandbox) -> None:
    await sandbox.start(command(["sleep", "4713"]))
    await sandbox.end()
    await sandbox.end()
    await sandbox.signal(15)
    assert pids_with("4713") == []


async def test_when_everything_inside_is_killed_the_status_says_so(sandbox: Sandbox) -> None:
    await sandbox.start(command(["sleep", "4714"]))
    async with trio.open_nursery() as nursery:

        async def kill() -> None:
            await sandbox.signal(9)

        nursery.start_soon(kill)
        assert await sandbox.wait() == 137


async def test_closing_may_be_repeated_and_needs_no_start(host: Host, signals: Signals) -> None:
    sandbox = await prepare(options(host), signals)
    await sandbox.close()
    await sandbox.close()
    assert host.leftovers() == []


async def test_cancelling_the_preparation_leaves_nothing(host: Host, signals: Signals) -> None:
    with trio.move_on_after(0.01):
        async with await prepare(options(host), signals):
            pass
    assert host.leftovers() == []
    eventually(lambda: not pids_with("child.py"))


async def test_when_all_slots_clash_nothing_is_left_and_it_is_said(
    host: Host, signals: Signals
) -> None:
    tight = SandboxOptions(
        places=Places(host.state, host.state / "pins"),
        prefix4=ip_network("203.0.113.0/28"),  # type: ignore[arg-type]
    )
    with pytest.raises(NoFreeSlot, match="2 clash with the host's networks"):
        await prepare(tight, signals)
    assert host.leftovers() == []


async def test_the_pins_of_the_instance_go_with_it(host: Host, signals: Signals) -> None:
    async with await prepare(options(host), signals) as sandbox:
        sandbox.pins.mkdir(parents=True)
        (sandbox.pins / "maps").mkdir()
        (sandbox.pins / "maps" / "policy").touch()
    assert host.leftovers() == []


async def test_preparing_outside_of_the_main_thread_is_refused(
    host: Host, signals: Signals
) -> None:
    def elsewhere() -> None:
        trio.run(prepare, options(host), signals)

    with pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(elsewhere)
    assert host.leftovers() == []
