"""When policy changes, a flow that runs is judged again, whichever way its next packet goes."""

from __future__ import annotations

import pytest

from fqdnwall.datapath.layouts import CtFlag, DropReason, Verdict
from tests.datapath import packets as p
from tests.datapath.bench import CLIENT4, INGRESS, SERVER4, Bench, entry

pytestmark = pytest.mark.kernel

NAME, OTHER_NAME = 0x0100_0001, 0x0100_0002
ALL = entry(0, rule=1)


def out(flags: str = "A", port: int = 40000) -> bytes:
    return p.frame(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, port, 443, flags))


def into(flags: str = "A", port: int = 40000) -> bytes:
    return p.frame(SERVER4, CLIENT4, p.tcp(SERVER4, CLIENT4, 443, port, flags))


def established(bench: Bench) -> None:
    assert bench.send(out("S")).passed
    assert bench.receive(into("SA")).passed
    assert bench.send(out("A")).passed


def test_a_flow_that_policy_no_longer_allows_is_cut_in_both_directions(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy()
    assert bench.send(out()).reason is DropReason.POLICY_DENIED
    assert bench.receive(into()).reason is DropReason.POLICY_DENIED
    assert bench.send(out()).reason is DropReason.POLICY_DENIED


def test_an_answer_is_the_first_to_be_cut_when_it_comes_first(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy(entry(9, Verdict.DENY))
    assert bench.receive(into()).reason is DropReason.POLICY_DENY
    assert CtFlag.DENIED in bench.flow_flags()
    assert bench.send(out()).reason is DropReason.POLICY_DENY


@pytest.mark.parametrize("answer_first", [False, True])
def test_a_flow_resumes_when_policy_allows_it_again(bench: Bench, answer_first: bool) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy()
    assert not bench.receive(into()).passed
    bench.policy(ALL)
    if answer_first:
        assert bench.receive(into()).passed
    assert bench.send(out()).passed
    assert bench.receive(into()).passed
    assert CtFlag.DENIED not in bench.flow_flags()


def test_a_flow_that_is_still_allowed_does_not_notice(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy(entry(9, protocol=6, rule=8))
    assert bench.receive(into()).passed
    _, value = bench.flow()
    assert (value.rule, value.generation) == (8, bench.generation)


def test_a_flow_from_outside_is_judged_as_it_was_opened(bench: Bench) -> None:
    bench.policy(entry(0, direction=INGRESS))
    opened = p.frame(SERVER4, CLIENT4, p.tcp(SERVER4, CLIENT4, 40000, 80, "S"))
    answer = p.frame(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 80, 40000, "SA"))
    assert bench.receive(opened).passed
    assert bench.send(answer).passed
    bench.policy(entry(0))  # egress alone
    assert bench.send(answer).reason is DropReason.POLICY_DENIED
    assert bench.receive(opened).reason is DropReason.POLICY_DENIED


def test_a_flow_to_a_name_survives_the_change_after_its_address_expired(bench: Bench) -> None:
    bench.policy(entry(NAME))
    bench.learn(SERVER4, (NAME, 60))
    established(bench)
    bench.learn(SERVER4, (NAME, -1))
    bench.policy(entry(NAME, protocol=6), entry(OTHER_NAME))
    assert bench.send(out()).passed
    bench.policy(entry(OTHER_NAME))
    assert bench.receive(into()).reason is DropReason.POLICY_DENIED


def test_the_name_is_remembered_through_a_time_in_which_another_rule_decided(
    bench: Bench,
) -> None:
    bench.policy(entry(NAME))
    bench.learn(SERVER4, (NAME, 60))
    established(bench)
    bench.learn(SERVER4, (NAME, -1))
    bench.policy(ALL)
    assert bench.send(out()).passed
    bench.policy(entry(NAME))
    assert bench.send(out()).passed
    bench.policy(entry(OTHER_NAME))
    assert not bench.send(out()).passed


def test_a_flow_that_a_learned_address_keeps_alive_remembers_its_name(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.learn(SERVER4, (NAME, 60))
    bench.policy(entry(NAME))
    assert bench.send(out()).passed
    bench.learn(SERVER4, (NAME, -1))
    bench.policy(entry(NAME), entry(OTHER_NAME))
    assert bench.send(out()).passed


def test_a_cut_flow_resumes_when_its_address_is_learned(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy(entry(NAME))
    assert not bench.send(out()).passed
    bench.learn(SERVER4, (NAME, 60))
    assert bench.send(out()).passed
    assert bench.receive(into()).passed


def test_an_error_about_a_cut_flow_is_not_related_to_it(bench: Bench) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy()
    assert not bench.send(out()).passed
    quoted = p.ipv4(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 40000, 443, "A"))
    error = p.frame(SERVER4, CLIENT4, p.icmp_error(SERVER4, CLIENT4, quoted))
    assert bench.receive(error).reason is DropReason.POLICY_DENIED


def test_an_error_about_a_flow_that_policy_has_just_cut_is_not_related_either(
    bench: Bench,
) -> None:
    bench.policy(ALL)
    established(bench)
    bench.policy()
    quoted = p.ipv4(CLIENT4, SERVER4, p.tcp(CLIENT4, SERVER4, 40000, 443, "A"))
    error = p.frame(SERVER4, CLIENT4, p.icmp_error(SERVER4, CLIENT4, quoted))
    assert bench.receive(error).reason is DropReason.POLICY_DENIED


@pytest.mark.parametrize("asked_locally", [True, False])
def test_echo_is_judged_by_the_request_also_when_the_answer_comes_first(
    bench: Bench, asked_locally: bool
) -> None:
    ends = (CLIENT4, SERVER4) if asked_locally else (SERVER4, CLIENT4)
    request = p.frame(*ends, p.echo(*ends, 5))
    answer = p.frame(*ends[::-1], p.echo(*ends[::-1], 5, reply=True))
    ask, reply = (bench.send, bench.receive) if asked_locally else (bench.receive, bench.send)
    only_requests = entry(0, direction=int(asked_locally), protocol=1, port=8, port_bits=16)
    bench.policy(only_requests)
    assert ask(request).passed
    bench.policy(only_requests, entry(300))
    assert reply(answer).passed
    bench.policy(entry(300))
    assert not reply(answer).passed
