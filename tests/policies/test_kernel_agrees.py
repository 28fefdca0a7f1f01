"""Specification, resolver and the kernel's own lookup say the same of every new flow drawn.

A drawn cluster is put into the maps as the agent would put it: each subject's entries in a policy
map that is swapped in, prefixes and members of the cluster in ipcache, names' identities among the
learned addresses. Packets then run through the endpoint's programs.

Invariant of the comparison: every packet opens a flow that conntrack has never seen, so that it is
policy that decides.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import (
    DnsLearned,
    DropReason,
    EndpointFlag,
    EventType,
    IpcacheKey,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    PolicyKey,
    PolicyValue,
    address_bytes,
)
from fqdnwall.datapath.layouts import Verdict as KernelVerdict
from fqdnwall.datapath.maps import Policies
from fqdnwall.endpoint.policymap import RuleBook, kernel_entries
from fqdnwall.ipcache.desired import desired
from policies.cluster import Address, AddressRef, EndpointRef, EntityRef, Flow, NodeRef, PeerRef
from policies.clusterfile import CLUSTER_FIELDS, PROTOCOLS, read_cluster
from policies.document import from_value
from policies.entries import NO_RULE, Entry, ProxyKind, Resolved, RuleRef, Verdict, lookup
from policies.explain import explain
from policies.identity import Direction, Identity, Protocol
from policies.labels import CIDR, FQDN, cidr_labels
from policies.model import Action
from policies.parse import parse_policy_objects
from policies.reader import Field, Problems
from policies.world import World
from tests.datapath import packets as p
from tests.datapath.bench import ENDPOINT, IFINDEX, Bench
from tests.datapath.places import put_learned
from tests.policies import specification
from tests.policies.drawing import PASSING, requests

pytestmark = pytest.mark.kernel

Json = dict[str, Any]
FLOWS = 50
SUBJECTS = {"a": 101, "b": 102, "c": 103, "init": 104}
"""Endpoints by the names under which subjects are drawn."""
LOCALS = 200
PORTS = range(1024, 61024)
NEVER = 1 << 63
LONG_AGO = 1
SLOTS = 4
EMPTY = LearnedSlot(0, 0, 0)
VERDICTS = {
    KernelVerdict.ALLOW: Verdict.ALLOW,
    KernelVerdict.DENY: Verdict.DENY,
    KernelVerdict.REDIRECT: Verdict.REDIRECT,
}


class Kernel:
    """The programs, with one endpoint for each subject, in one world after another."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._opened = 0
        self._portless = 0
        self._ipcache: set[IpcacheKey] = set()
        self._learned: set[LearnedKey] = set()
        self._answered: list[bytes] = []
        self.local = {
            4: [f"10.200.0.{n}" for n in range(1, LOCALS + 1)],
            6: [f"fd20::{n:x}" for n in range(1, LOCALS + 1)],
        }
        for endpoint in SUBJECTS.values():
            for address in (*self.local[4], *self.local[6]):
                bench.own(address, endpoint)

    def put_policies(self, tables: dict[str, dict[PolicyKey, PolicyValue]]) -> None:
        """Swap them in, all at once: each swap would wait for a grace period of its own."""
        built = {name: Policies.build(entries.items()) for name, entries in tables.items()}
        try:
            pairs = [(_u32(SUBJECTS[name]), _u32(fd)) for name, fd in built.items()]
            libbpf.update_batch(self.bench.maps.policies.fd, pairs)
        finally:
            for fd in built.values():
                os.close(fd)

    def put_prefixes(self, cidrs: dict[Any, Identity], members: dict[Address, Identity]) -> None:
        wanted = desired(cidrs, {}, members, {})
        for key in self._ipcache - wanted.keys():
            self.bench.maps.ipcache.delete(key)
        self.bench.maps.ipcache.put_many(wanted.items())
        self._ipcache = set(wanted)

    def put_learned(self, learned: dict[Address, tuple[list[Identity], list[Identity]]]) -> None:
        """Identities that hold and those whose time is over; the proxy's and the kernel's own."""
        answers = self.bench.datapath.maps["answers"]
        for key in self._learned:
            self.bench.maps.learned.delete(key)
        for raw_key in self._answered:
            libbpf.delete(answers, raw_key)
        self._learned, self._answered = set(), []
        for address, (live, over) in learned.items():
            key = LearnedKey(self.bench.scope, address_bytes(address))
            self._learned.add(key)
            first = key.address[-1] % 2
            slots, others = (
                [(i, NEVER) for i in half] + [(i, LONG_AGO) for i in over]
                for half in (live[first::2], live[1 - first :: 2])
            )
            padded = [LearnedSlot(i, 0, end) for i, end in slots] + [EMPTY] * SLOTS
            self.bench.maps.learned.put(key, LearnedValue(tuple(padded[:SLOTS])))
            for identity, end in others[:SLOTS]:
                entry = DnsLearned(key.address, identity, ENDPOINT, end)
                self._answered.append(put_learned(answers, key.scope, entry))

    def be(self, subject: str, resolved: Resolved) -> None:
        """Let the interface be the subject's."""
        flags = EndpointFlag(0)
        if resolved.enforcing.ingress:
            flags |= EndpointFlag.ENFORCE_INGRESS
        if resolved.enforcing.egress:
            flags |= EndpointFlag.ENFORCE_EGRESS
        info = replace(self.bench.info(SUBJECTS[subject]), flags=flags)
        self.bench.maps.endpoints.put(IFINDEX, info)

    def judge(self, flow: Flow, address: Address) -> tuple[Verdict, int, int, DropReason | None]:
        """(verdict, the rule's number, the peer's identity, why it was dropped)."""
        local, port = self._fresh(flow, address.version)
        egress = flow.direction is Direction.EGRESS
        ends = (local, str(address)) if egress else (str(address), local)
        frame = p.frame(*ends, _layer4(flow, *ends, port))
        outcome = self.bench.send(frame) if egress else self.bench.receive(frame)
        first, *more = outcome.events
        assert first.direction == flow.direction
        if first.type == EventType.DROP:
            assert (outcome.verdict, more) == ("drop", [])
            reason = DropReason(first.reason)
            return Verdict.DENY, first.rule, first.remote_identity, reason
        assert first.type == EventType.POLICY_VERDICT
        verdict = VERDICTS[KernelVerdict(first.reason)]
        # No proxy listens here: what is sent to one is dropped after the verdict.
        assert outcome.passed is (verdict is Verdict.ALLOW)
        assert len(more) == (verdict is Verdict.REDIRECT)
        return verdict, first.rule, first.remote_identity, None

    def _fresh(self, flow: Flow, version: int) -> tuple[str, int]:
        """Own address and port (or echo's identifier) that no flow known to conntrack has."""
        self._opened += 1
        if self._opened % len(PORTS) == 0:
            self.bench.clear("conntrack")
        at = 0
        if _is_portless(flow):
            self._portless += 1
            at = self._portless % LOCALS
            if at == 0:
                self.bench.clear("conntrack")
        return self.local[version][at], PORTS[self._opened % len(PORTS)]


def _is_portless(flow: Flow) -> bool:
    """Whether conntrack tells two such flows apart by their addresses alone."""
    echo = {Protocol.ICMP: (0, 8), Protocol.ICMPV6: (128, 129)}
    if flow.protocol in echo:
        return flow.port not in echo[flow.protocol]
    return flow.protocol not in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


def _layer4(flow: Flow, source: str, destination: str, fresh: int) -> p.L4:
    if flow.protocol is Protocol.TCP:
        return p.tcp(source, destination, fresh, flow.port)
    if flow.protocol is Protocol.UDP:
        return p.udp(source, destination, fresh, flow.port)
    if flow.protocol is Protocol.SCTP:
        return p.sctp(fresh, flow.port)
    if flow.protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return p.icmp(source, destination, flow.port, rest=struct.pack("!HH", fresh, 1))
    return int(flow.protocol), bytes(8)


class Comparison:
    """One request, in the three readings."""

    def __init__(self, kernel: Kernel, request: Json) -> None:
        self.kernel = kernel
        self.request = request
        parsed = parse_policy_objects(request["policies"], "policies")
        node = from_value({key: request[key] for key in CLUSTER_FIELDS})
        members = Field(node, "", Problems("drawn")).fields(CLUSTER_FIELDS)
        self.world = World(read_cluster(members), parsed.policies)
        self.rules = RuleBook()
        self._strangers: dict[tuple[PeerRef, int], Address] = {}

    def run(self) -> None:
        flows = sorted(self._flows(), key=lambda drawn: str(drawn["subject"]))
        meant = [(drawn, _flow(drawn)) for drawn in flows]
        peers = [self._address(flow, number) for number, (_, flow) in enumerate(meant)]
        self._fill({drawn["subject"] for drawn in flows})
        subject = ""
        for (drawn, flow), address in zip(meant, peers, strict=True):
            if flow.subject != subject:
                subject = flow.subject
                self.kernel.be(subject, self.world.resolved(subject))
            try:
                self._compare(drawn, flow, address)
            except AssertionError as error:
                shown = {"flow": drawn, "address": str(address)}
                policies = json.dumps(self.request["policies"], indent=1)
                raise AssertionError(f"{shown}: {error}\n{policies}") from error

    def _flows(self) -> Iterator[Json]:
        """Those drawn, as layer 4 sees them, and some of a protocol without ports.

        What is asked of a resolver is for the proxy to judge; the packet goes there or not.
        """
        for number, flow in enumerate(self.request["flows"]):
            yield {key: value for key, value in flow.items() if key != "dns_query"}
            if number % 8 == 0:
                bare = {key: flow[key] for key in ("direction", "subject", "peer")}
                yield {**bare, "protocol": "VRRP"}

    def _compare(self, drawn: Json, flow: Flow, address: Address) -> None:
        specified, deciders = specification.judge(self.request, drawn)
        resolved = self.world.resolved(flow.subject)
        judgement = self.world.judge(flow)
        assert judgement.verdict.value == specified
        verdict, number, identity, reason = self.kernel.judge(flow, address)
        assert verdict is judgement.verdict, (verdict, judgement, reason)

        best = self._best(resolved, flow)
        rules = [resolved.rule_of(entry) for entry in best]
        rule = self.rules.rule(number)
        assert rule in rules if rules else rule is None
        place = "" if rule is None or rule == NO_RULE else f"{rule.source}.{rule.path}"
        if verdict is Verdict.ALLOW and "" in {place, *deciders}:
            # All is allowed that nobody denies. Of the permissions beside that, minimal entries
            # keep what shadows something else.
            assert not place or rule in self._permissions(flow), (place, deciders)
        else:
            assert place in deciders, (place, deciders)
        own = self.world.candidates(flow.peer)[0]
        assert identity in ({entry.identity or own for entry in best} or {own})
        if verdict is Verdict.DENY:
            assert reason is (DropReason.POLICY_DENY if best else DropReason.POLICY_DENIED)

    def _permissions(self, flow: Flow) -> list[RuleRef]:
        """The rules that permit the flow, whether or not that is what decides."""
        considered = explain(self.world, flow).considered
        return [each.rule for each in considered if each.matches and each.action is Action.ALLOW]

    def _best(self, resolved: Resolved, flow: Flow) -> list[Entry]:
        """The entries that decide: several where an address's names are let in alike.

        The verdict is then the same, and the kernel names the rule of any of them. What comes in
        is never asked for the names of its address: no rule for names is about ingress.
        """
        found = []
        candidates = self.world.candidates(flow.peer)
        for candidate in candidates[: None if flow.direction is Direction.EGRESS else 1]:
            what = lookup(resolved.entries, [candidate], flow.direction, flow.protocol, flow.port)
            if what.entry is not None:
                found.append((what.entry.precedence, what.entry.l4.length, what.entry))
        named = [(*rank, bool(entry.identity)) for *rank, entry in found]
        top = max(named, default=())
        return [entry for (*_, entry), rank in zip(found, named, strict=True) if rank == top]

    # ---- the world in the kernel's maps

    def _fill(self, subjects: set[str]) -> None:
        resolved = {name: self.world.resolved(name) for name in subjects}
        self.kernel.put_policies({name: self._table(each) for name, each in resolved.items()})
        members = dict(self._members())
        self.kernel.put_prefixes(self._cidrs(), members)
        self.kernel.put_learned(self._learned(members))

    def _table(self, resolved: Resolved) -> dict[PolicyKey, PolicyValue]:
        """HTTP is refused at the door by the agent; for the packet it is a redirect like DNS."""
        plain = [
            entry
            if entry.proxy is ProxyKind.DNS
            else replace(entry, proxy=ProxyKind.NONE, l7_index=0)
            for entry in resolved.entries
        ]
        return kernel_entries(
            replace(resolved, entries=tuple(plain)), self.rules, lambda index: index + 1
        )

    def _cidrs(self) -> dict[Any, Identity]:
        prefixes = {
            ip_network(label.key): labels
            for labels in self.world.identities.values()
            for label in labels
            if label.source == CIDR
        }
        numbers = {labels: number for number, labels in self.world.identities.items()}
        return {prefix: numbers[cidr_labels(prefix)] for prefix in prefixes}

    def _members(self) -> Iterator[tuple[Address, Identity]]:
        """Addresses with an identity of their own."""
        cluster = self.world.cluster
        inside = [endpoint.ips for endpoint in cluster.endpoints.values()]
        inside += [node.ips for node in cluster.nodes.values()]
        addresses = [address for ips in inside for address in ips]
        if self.world.one_identity:
            addresses += [address for found in cluster.names.values() for address in found]
        for address in addresses:
            yield address, self.world.candidates(AddressRef(address))[0]
        for (peer, _), address in self._strangers.items():
            yield address, self.world.candidates(peer)[0]

    def _learned(
        self, members: dict[Address, Identity]
    ) -> dict[Address, tuple[list[Identity], list[Identity]]]:
        """What was learned for each address, and what was learned of other names long ago.

        For addresses of the cluster every name there is was learned just now: names never open
        the inside (`is_outside` in policy.h), and candidates() has none for them.
        """
        names = [
            number
            for number, labels in self.world.identities.items()
            if any(label.source == FQDN for label in labels)
        ]
        addresses: dict[Address, Sequence[Identity]] = {
            address: self.world.candidates(AddressRef(address))
            for found in self.world.cluster.names.values()
            for address in found
        }
        for (peer, _), address in self._strangers.items():
            addresses[address] = self.world.candidates(peer)
        found = {}
        for address, (own, *learned) in addresses.items():
            rest = [name for name in names if name not in learned]
            inside = address in members and not self._is_outside(own)
            found[address] = (names[: 2 * SLOTS], []) if inside else (learned, rest)
        return found

    def _is_outside(self, identity: Identity) -> bool:
        return any(
            str(label).startswith("reserved:world") for label in self.world.identities[identity]
        )

    def _address(self, flow: Flow, number: int) -> Address:
        """The peer's, of the family that the flow needs; a stranger's where it has none."""
        peer, cluster = flow.peer, self.world.cluster
        own: Sequence[Address] = ()
        if isinstance(peer, AddressRef):
            own = (peer.address,)
        elif isinstance(peer, EndpointRef):
            own = cluster.endpoints[peer.name].ips
        elif isinstance(peer, NodeRef):
            own = cluster.nodes[peer.name].ips
        versions = {Protocol.ICMP: (4,), Protocol.ICMPV6: (6,)}.get(flow.protocol, (4, 6))
        for address in own:
            if address.version in versions:
                return address
        version = versions[number % len(versions)]
        stranger = len(self._strangers) + 1
        text = f"100.64.0.{stranger}" if version == 4 else f"fd64::{stranger:x}"
        return self._strangers.setdefault((peer, version), ip_address(text))


def _flow(drawn: Json) -> Flow:
    ((kind, name),) = drawn["peer"].items()
    peers: dict[str, PeerRef] = {
        "endpoint": EndpointRef(name),
        "node": NodeRef(name),
        "entity": EntityRef(name),
    }
    peer = AddressRef(ip_address(name)) if kind == "ip" else peers[kind]
    protocol = Protocol.VRRP if drawn["protocol"] == "VRRP" else PROTOCOLS[drawn["protocol"]]
    port = drawn["icmp_type"] if "icmp_type" in drawn else drawn.get("port") or 0
    return Flow(Direction[drawn["direction"].upper()], drawn["subject"], peer, protocol, port)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    bench = Bench(f"test-agree-{os.getpid()}")
    try:
        yield Kernel(bench)
    finally:
        bench.close()


def compare(kernel: Kernel, examples: int, flavour: list[Any] | None = None) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests(FLOWS, flavour=flavour))
    def same(request: Json) -> None:
        Comparison(kernel, request).run()

    same()


def test_two_thousand_flows_are_judged_by_the_kernel_as_specified(kernel: Kernel) -> None:
    compare(kernel, 40)


@pytest.mark.slow
def test_a_hundred_thousand_flows_are_judged_by_the_kernel_as_specified(kernel: Kernel) -> None:
    compare(kernel, 2000)


@pytest.mark.slow
def test_networks_that_are_passed_on_are_judged_by_the_kernel_as_specified(kernel: Kernel) -> None:
    compare(kernel, 500, PASSING)
