"""A short run of the fuzzer, the corpus as it is, and where dnslib reads what nobody should."""

from __future__ import annotations

from pathlib import Path

import pytest
from dnslib import DNSRecord

from fqdnwall.datapath.layouts import DnsPath
from tests.datapath import messages as m
from tests.datapath.dns_fuzz import Answers, Queries
from tests.datapath.dnsbench import DnsBench
from tests.datapath.mutations import CORPUS, answer_seeds
from tests.datapath.test_dns_answer import NAME, ODD_ANSWERS, ONE, RECORD_AT, strict

pytestmark = pytest.mark.kernel

FILES = sorted(CORPUS.glob("*.bin"))


def of_server(path: Path) -> str:
    return path.name.partition("-")[0]


@pytest.mark.parametrize("server", sorted({of_server(path) for path in FILES}))
def test_the_kernel_reads_every_answer_that_a_real_server_wrote(dns: DnsBench, server: str) -> None:
    dns.rules("*")
    for path in (path for path in FILES if of_server(path) == server):
        message = b"\x12\x34" + path.read_bytes()[2:]
        end = message.index(b"\0", 12) + 5
        assert dns.ask(m.header() + message[12:end]).path is DnsPath.ALLOWED, path.name
        done = dns.answer(message)
        assert (done.path, done.message) == (DnsPath.ANSWERED, message), path.name
        assert set(dns.learned()) == set(strict(message)), path.name
        dns.clear("answers")


def test_mutated_queries(dns: DnsBench) -> None:
    fuzz = Queries(dns, 1)
    for number in range(25_000):
        fuzz.one(number)
    assert min(fuzz.counts[f"query {what}"] for what in ("allowed", "refused", "asked")) > 1000


def test_mutated_answers(dns: DnsBench) -> None:
    fuzz = Answers(dns, 2)
    for number in range(25_000):
        fuzz.one(number)
    for what in ("learned", "truncated", "dropped", "without addresses", "empty"):
        assert fuzz.counts[f"answer {what}"] > 1000, what


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 7))
def test_many_more_mutations(dns: DnsBench, seed: int) -> None:
    for kind in (Queries, Answers):
        fuzz = kind(dns, seed)
        for number in range(100_000):
            fuzz.one(number)


def test_mutations_are_the_same_for_the_same_number(dns: DnsBench) -> None:
    one, other = Answers(dns, 5), Answers(dns, 5)
    for _ in range(200):
        assert one._mutator.mutate() == other._mutator.mutate()
    assert len(answer_seeds()) > 100


def lenient(message: bytes) -> list[str]:
    """Every address of the answer section as dnslib has it."""
    return [str(rr.rdata) for rr in DNSRecord.parse(message).rr if rr.rtype in (m.A, m.AAAA)]


BIG = b"\x3f" + b"a" * 63
LENIENT = {
    "octets behind the last record": ODD_ANSWERS["an octet too many"],
    "fewer counted than there are": ODD_ANSWERS["one answer less than there are"],
    "a pointer into the header": m.Message(NAME)
    .raw(m.record(m.QUESTION, m.CNAME, 9, b"\xc0\x04"))
    .address(NAME, ONE)
    .pack(),
    "an owner that nobody asked for": ODD_ANSWERS["another owner"],
    "two OPT records": ODD_ANSWERS["two OPTs"],
    "an OPT record with a name": ODD_ANSWERS["an OPT with a name"],
    "a name over 255 octets": m.Message(NAME)
    .raw(m.record(m.QUESTION, m.CNAME, 9, BIG * 4 + b"\0"))
    .raw(m.address((0xC000 | RECORD_AT + 12).to_bytes(2, "big"), ONE))
    .pack(),
    "an RDLENGTH that a CNAME does not fill": m.Message(NAME)
    .raw(m.QUESTION + b"\0\5\0\1\0\0\0\x09\0\x12\xc0\x10")
    .raw(m.address(b"\xc0\x10", ONE))
    .pack(),
}


@pytest.mark.parametrize("message", LENIENT.values(), ids=LENIENT)
def test_what_dnslib_takes_and_the_strict_reader_does_not_is_not_learned(
    dns: DnsBench, message: bytes
) -> None:
    """See docs/dns-strictness.md."""
    assert lenient(message)
    assert strict(message) == {}
    dns.rules("**.example.com")
    dns.ask(m.query(NAME))
    assert dns.answer(message).path is DnsPath.TRUNCATED
    assert dns.learned() == {}
