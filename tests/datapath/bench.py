"""One endpoint on a bench: its maps, and packets through its two programs.

A `Bench` owns a datapath instance of its own. Time is the kernel's boot clock, so a test makes an
entry old by writing an expiry that has passed instead of waiting. Nothing is attached to an
interface: packets go in by BPF_PROG_TEST_RUN, whose interface is the namespace's loopback unless a
test names another.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass, replace

from fqdnwall.datapath import libbpf, loader
from fqdnwall.datapath.layouts import (
    CtFlag,
    CtKey,
    CtValue,
    DropReason,
    EndpointAddress,
    EndpointFlag,
    EndpointInfo,
    Event,
    EventType,
    IpcacheKey,
    IpcacheValue,
    LearnedKey,
    LearnedSlot,
    LearnedValue,
    NodeConfig,
    PolicyKey,
    PolicyValue,
    Verdict,
    address_bytes,
)
from fqdnwall.datapath.maps import Maps, Policies

ENDPOINT = 7
IFINDEX = 1
CLIENT4, CLIENT6 = "10.9.0.2", "fd09::2"
SERVER4, SERVER6 = "192.0.2.80", "2001:db8::80"
OTHER4, OTHER6 = "198.51.100.9", "2001:db8:ffff::9"
ENFORCE = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
INGRESS, EGRESS = 0, 1
SIZES = {"conntrack": 8192, "learned": 1024, "ipcache": 4096, "events": 1 << 20, "endpoints": 64}
_VERDICTS = {0xFFFFFFFF: "pass", 2: "drop", 7: "redirect"}


def entry(
    identity: int,
    verdict: Verdict = Verdict.ALLOW,
    *,
    direction: int = EGRESS,
    protocol: int = 0,
    port: int = 0,
    port_bits: int | None = None,
    priority: int = 0,
    rule: int = 1,
    ruleset: int = 0,
) -> tuple[PolicyKey, PolicyValue]:
    """A policy entry as user space writes it; precedence as Cilium counts it."""
    bits = (16 if port else 0) if port_bits is None else port_bits
    l4_prefix = 8 + bits if protocol else 0
    low = {Verdict.DENY: 255, Verdict.REDIRECT: 134, Verdict.ALLOW: 1}[verdict]
    precedence = (0xFFFFFF - priority) << 8 | low
    return (
        PolicyKey(40 + l4_prefix, identity, direction, protocol, port),
        replace(
            PolicyValue.unpack(bytes(PolicyValue.size())),
            precedence=precedence,
            rule=rule,
            ruleset=ruleset,
            verdict=verdict,
            l4_prefix=l4_prefix,
        ),
    )


def context(mark: int = 0, ifindex: int = IFINDEX, gso_size: int = 0) -> bytes:
    """The ``struct __sk_buff`` of a test run."""
    out = bytearray(180)
    struct.pack_into("=I", out, 8, mark)
    struct.pack_into("=I", out, 40, ifindex)
    struct.pack_into("=I", out, 176, gso_size)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet: ``pass``, ``drop`` or ``redirect``, and what was said of it."""

    verdict: str
    events: tuple[Event, ...]
    mark: int

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    @property
    def reason(self) -> DropReason | None:
        """Of the drop; None when the packet passed or the drop went unreported."""
        if self.verdict != "drop":
            return None
        drops = [e for e in self.events if e.type == EventType.DROP and not e.audited]
        return DropReason(drops[-1].reason) if drops else None

    def event(self, kind: EventType) -> Event:
        """The one event of this kind."""
        (found,) = [event for event in self.events if event.type == kind]
        return found


class Bench:
    """The datapath with one endpoint that nothing is allowed to."""

    def __init__(self, instance: str, sizes: dict[str, int] | None = None) -> None:
        self.instance = instance
        self.datapath = loader.load(instance, SIZES if sizes is None else sizes)
        self.maps = Maps(self.datapath.maps)
        self._ring = libbpf.Ring(self.datapath.maps["events"])
        self._policy = Policies.build([])
        self._swapped = True
        try:
            self.reset()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._ring.close()
        os.close(self._policy)
        self.datapath.close()
        loader.unload(self.instance)

    def reset(self) -> None:
        """Default deny both ways, its own two addresses, and no other state."""
        for name in ("conntrack", "fragments", "learned", "ipcache", "endpoint_ips"):
            self.clear(name)
        for name in ("endpoints", "budgets", "rule_stats"):
            self.clear(name)
        if self._swapped:
            self.clear("policies")
            self.maps.policies.set(ENDPOINT, self._policy)
            self._swapped = False
        self.ifindex = IFINDEX
        self.generation = 1
        self.flags = ENFORCE
        self.scope = ENDPOINT
        self.configure()
        self.endpoint()
        for address in (CLIENT4, CLIENT6):
            self.own(address)
        self.policy()
        self.events()

    def clear(self, name: str) -> None:
        fd = self.datapath.maps[name]
        for key in list(libbpf.keys(fd, libbpf.map_info(fd).key_size)):
            libbpf.delete(fd, key)

    def configure(self, dns_port: int = 0, *, events_per_second: int = 1 << 30) -> None:
        off = NodeConfig.unpack(bytes(NodeConfig.size()))
        self.maps.set_config(
            replace(
                off,
                dns_udp4=dns_port,
                dns_udp6=dns_port,
                dns_tcp4=dns_port,
                dns_tcp6=dns_port,
                events_per_second=events_per_second,
                trace_interval_seconds=1000,
            )
        )

    def endpoint(self, ifindex: int = 0, *, bridge: int = 0) -> None:
        """Write the endpoint's record with the flags, scope and generation that hold now."""
        self.ifindex = ifindex or self.ifindex
        self.maps.endpoints.put(self.ifindex, replace(self.info(ENDPOINT), bridge=bridge))

    def info(self, endpoint: int) -> EndpointInfo:
        nobody = EndpointInfo.unpack(bytes(EndpointInfo.size()))
        return replace(
            nobody,
            id=endpoint,
            identity=1234,
            scope=self.scope,
            generation=self.generation,
            flags=self.flags,
        )

    def own(self, address: str, endpoint: int = ENDPOINT) -> None:
        self.maps.own(EndpointAddress(endpoint, address_bytes(address)))

    def policy(self, *entries: tuple[PolicyKey, PolicyValue]) -> None:
        """Another policy, under another generation.

        Its entries change in place: swapping the map, as the agent does, waits for a grace period
        of some ten milliseconds, which is `swap`.
        """
        for key in list(libbpf.keys(self._policy, PolicyKey.size())):
            libbpf.delete(self._policy, key)
        libbpf.update_batch(self._policy, [(key.pack(), value.pack()) for key, value in entries])
        self.generation += 1
        self.endpoint()

    def swap(self, *entries: tuple[PolicyKey, PolicyValue]) -> None:
        """Another policy in a map of its own."""
        self._swapped = True
        fd = Policies.build(entries)
        try:
            self.maps.policies.set(ENDPOINT, fd)
        finally:
            os.close(fd)
        self.generation += 1
        self.endpoint()

    def drop_policies(self) -> None:
        """No endpoint has a policy."""
        self._swapped = True
        self.clear("policies")

    def enforce(self, flags: EndpointFlag) -> None:
        self.flags = flags
        self.endpoint()

    def identify(self, prefix: str, identity: int) -> None:
        """An ipcache entry."""
        address, _, bits = prefix.partition("/")
        family = 32 if "." in address else 128
        length = (int(bits) if bits else family) + (96 if family == 32 else 0)
        key = IpcacheKey(length, address_bytes(address))
        self.maps.ipcache.put(key, IpcacheValue(identity, 0, bytes(16)))

    def learn(self, address: str, *slots: tuple[int, float], scope: int | None = None) -> None:
        """``slots``: FQDN identity, and seconds from now until it expires."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        value = [LearnedSlot(identity, 0, now + int(left * 1e9)) for identity, left in slots]
        value += [LearnedSlot(0, 0, 0)] * (4 - len(value))
        key = LearnedKey(self.scope if scope is None else scope, address_bytes(address))
        self.maps.learned.put(key, LearnedValue(tuple(value)))

    def send(self, frame: bytes, **fields: int) -> Outcome:
        """The endpoint sends the frame."""
        return self._run("from_endpoint", frame, context(**fields))

    def receive(self, frame: bytes, **fields: int) -> Outcome:
        """The frame is on its way to the endpoint."""
        return self._run("to_endpoint", frame, context(**fields))

    def _run(self, program: str, frame: bytes, skb: bytes) -> Outcome:
        run = libbpf.program_run(self.datapath.programs[program], frame, skb)
        (mark,) = struct.unpack_from("=I", run.context, 8)
        return Outcome(_VERDICTS[run.verdict], tuple(self.events()), mark)

    def verdict(self, program: str, frame: bytes, **fields: int) -> str:
        """As `send` and `receive`, for many packets: the events are left in the ring."""
        run = libbpf.program_run(self.datapath.programs[program], frame, context(**fields))
        return _VERDICTS[run.verdict]

    def events(self) -> list[Event]:
        return [Event.unpack(record) for record in self._ring.consume()]

    def flows(self) -> list[tuple[CtKey, CtValue]]:
        return list(self.maps.conntrack.items())

    def flow(self) -> tuple[CtKey, CtValue]:
        """The only flow that conntrack knows."""
        (found,) = self.flows()
        return found

    def age(self, **changes: int) -> None:
        """Rewrite the only flow's entry; by default it has expired."""
        key, value = self.flow()
        self.maps.conntrack.put(key, replace(value, **(changes or {"expires": 1})))

    def flow_flags(self) -> CtFlag:
        return CtFlag(self.flow()[1].flags)

    def seconds_left(self) -> float:
        """Until the only flow expires."""
        return (self.flow()[1].expires - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
