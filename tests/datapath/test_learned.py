"""Addresses that names resolved to: open for as long as they are learned, and for whom."""

from __future__ import annotations

import pytest

from fqdnwall.datapath.layouts import (
    CtFlag,
    DropReason,
    EventType,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    Verdict,
    address_bytes,
)
from fqdnwall.datapath.maps import MapFull
from tests.datapath import packets as p
from tests.datapath.bench import (
    CLIENT4,
    CLIENT6,
    ENDPOINT,
    INGRESS,
    SERVER4,
    SERVER6,
    SIZES,
    Bench,
    entry,
)

pytestmark = pytest.mark.kernel

NAME, OTHER_NAME, PREFIX = 0x0100_0001, 0x0100_0002, 0x0100_0003
PAIRS = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)]
both_families = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v4", "v6"])


def syn(client: str, server: str, port: int = 40000, flags: str = "S") -> bytes:
    return p.frame(client, server, p.tcp(client, server, port, 443, flags))


def back(client: str, server: str, port: int = 40000, flags: str = "SA") -> bytes:
    return p.frame(server, client, p.tcp(server, client, 443, port, flags))


@both_families
def test_a_learned_address_is_open_until_its_time_has_run_out(
    bench: Bench, client: str, server: str
) -> None:
    bench.policy(entry(NAME, protocol=6, port=443))
    assert bench.send(syn(client, server, 1)).reason is DropReason.POLICY_DENIED
    bench.learn(server, (NAME, 60))
    assert bench.send(syn(client, server, 2)).passed
    bench.learn(server, (NAME, -0.001))
    assert bench.send(syn(client, server, 3)).reason is DropReason.POLICY_DENIED


@both_families
def test_a_live_connection_outlives_the_expiry(bench: Bench, client: str, server: str) -> None:
    bench.policy(entry(NAME, protocol=6, port=443))
    bench.learn(server, (NAME, 60))
    assert bench.send(syn(client, server)).passed
    bench.learn(server, (NAME, -1))
    assert bench.receive(back(client, server)).passed
    assert bench.send(syn(client, server, flags="A")).passed
    assert bench.send(syn(client, server, 40001)).reason is DropReason.POLICY_DENIED


def test_a_new_connection_from_the_same_port_is_judged_anew_after_the_expiry(
    bench: Bench,
) -> None:
    bench.policy(entry(NAME, protocol=6, port=443))
    bench.learn(SERVER4, (NAME, 60))
    assert bench.send(syn(CLIENT4, SERVER4)).passed
    assert bench.receive(back(CLIENT4, SERVER4)).passed
    assert bench.send(syn(CLIENT4, SERVER4, flags="A")).passed
    bench.learn(SERVER4, (NAME, -1))
    assert bench.send(syn(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENIED
    assert bench.send(syn(CLIENT4, SERVER4, flags="A")).passed, "the live one is not touched"


@pytest.mark.parametrize("slot", range(4))
def test_each_slot_of_an_address_counts(bench: Bench, slot: int) -> None:
    bench.policy(entry(NAME))
    slots = [(OTHER_NAME + number, 60.0) for number in range(4)]
    bench.learn(SERVER4, *slots)
    assert not bench.send(syn(CLIENT4, SERVER4)).passed
    slots[slot] = (NAME, 60.0)
    bench.learn(SERVER4, *slots)
    assert bench.send(syn(CLIENT4, SERVER4)).passed


def test_each_slot_has_its_own_time(bench: Bench) -> None:
    bench.policy(entry(NAME), entry(OTHER_NAME, protocol=17))
    bench.learn(SERVER4, (NAME, -1), (OTHER_NAME, 60))
    assert not bench.send(syn(CLIENT4, SERVER4)).passed
    assert bench.send(p.frame(CLIENT4, SERVER4, p.udp(CLIENT4, SERVER4, 1, 2))).passed


def test_an_empty_slot_is_nobody(bench: Bench) -> None:
    bench.policy(entry(NAME))
    bench.learn(SERVER4, (0, 60))
    assert bench.send(syn(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENIED


def test_what_another_endpoint_learned_opens_nothing(bench: Bench) -> None:
    bench.policy(entry(NAME))
    bench.learn(SERVER4, (NAME, 60), scope=ENDPOINT + 1)
    bench.learn(SERVER4, (NAME, 60), scope=0)
    assert bench.send(syn(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENIED


def test_with_the_node_as_scope_what_any_learned_opens(bench: Bench) -> None:
    bench.scope = 0
    bench.policy(entry(NAME))
    bench.learn(SERVER4, (NAME, 60), scope=0)
    assert bench.send(syn(CLIENT4, SERVER4)).passed


def test_a_learned_address_opens_nothing_from_outside(bench: Bench) -> None:
    bench.policy(entry(NAME), entry(NAME, direction=INGRESS))
    bench.learn(SERVER4, (NAME, 60))
    assert bench.receive(back(CLIENT4, SERVER4, flags="S")).reason is DropReason.POLICY_DENIED


def test_a_denied_prefix_stays_denied_when_it_is_learned(bench: Bench) -> None:
    bench.identify("192.0.2.0/24", PREFIX)
    bench.policy(entry(NAME), entry(PREFIX, Verdict.DENY))
    bench.learn(SERVER4, (NAME, 60))
    sent = bench.send(syn(CLIENT4, SERVER4))
    assert sent.reason is DropReason.POLICY_DENY
    assert sent.event(EventType.DROP).remote_identity == PREFIX


def test_a_denied_name_is_stronger_than_an_allowed_prefix(bench: Bench) -> None:
    bench.identify("192.0.2.0/24", PREFIX)
    bench.policy(entry(PREFIX), entry(NAME, Verdict.DENY))
    bench.learn(SERVER4, (NAME, 60))
    assert bench.send(syn(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENY


def test_the_flow_remembers_the_name_that_let_it_in(bench: Bench) -> None:
    bench.policy(entry(NAME, rule=3))
    bench.learn(SERVER4, (OTHER_NAME, 60), (NAME, 60))
    sent = bench.send(syn(CLIENT4, SERVER4))
    assert sent.event(EventType.POLICY_VERDICT).remote_identity == NAME
    assert bench.flow()[1].identity == NAME
    assert bench.flow()[1].rule == 3
    assert CtFlag.LEARNED in bench.flow_flags()


def test_a_full_map_says_so_and_what_does_not_fit_stays_closed(bench: Bench) -> None:
    bench.policy(entry(NAME))
    value = LearnedValue((LearnedSlot(NAME, 0, 1 << 62),) * 4)
    keys = [
        LearnedKey(ENDPOINT, address_bytes(f"203.0.{n // 256}.{n % 256}"))
        for n in range(SIZES["learned"])
    ]
    bench.maps.learned.put_many((key, value) for key in keys)
    with pytest.raises(MapFull):
        bench.learn(SERVER4, (NAME, 60))
    with pytest.raises(MapFull):
        bench.maps.learned.put_many(
            (LearnedKey(ENDPOINT, address_bytes(f"10.0.0.{n}")), value) for n in range(9)
        )
    assert not bench.send(syn(CLIENT4, SERVER4)).passed
    assert bench.send(syn(CLIENT4, "203.0.1.1")).passed
    assert len(bench.maps.learned) == SIZES["learned"]
    assert sum(1 for _ in bench.maps.learned.items()) == SIZES["learned"]


@pytest.mark.parametrize("inside", [1, 6, 256, 65535], ids=["host", "node", "pod", "last pod"])
def test_no_name_opens_the_host_or_another_endpoint(bench: Bench, inside: int) -> None:
    bench.policy(entry(NAME, protocol=6, port=443))
    bench.learn(SERVER4, (NAME, 60))
    bench.identify(SERVER4, inside)
    assert bench.send(syn(CLIENT4, SERVER4)).reason is DropReason.POLICY_DENIED


def test_a_name_opens_an_address_that_a_prefix_of_policy_holds(bench: Bench) -> None:
    bench.policy(entry(NAME, protocol=6, port=443))
    bench.learn(SERVER4, (NAME, 60))
    bench.identify(SERVER4, OTHER_NAME)
    assert bench.send(syn(CLIENT4, SERVER4)).passed
