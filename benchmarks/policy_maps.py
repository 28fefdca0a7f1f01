"""How long until all maps say so: from cold, for one more identity, for one changed policy.

    python -m benchmarks.policy_maps [--policies N] [--identities N] [--endpoints N] [--json]

The agent's own ``Firewall`` over kernel maps of the agent's sizes, which no program uses: endpoints
are numbers of interfaces that do not exist. Identities are those that the agent makes itself: of
endpoints, of the prefixes in policies and of sets of names. A third of the policies select by a
label that runs across a namespace, or all of it, so that almost every endpoint has a policy of its
own; one selects every endpoint. A change is over when every map holds it; ``swapped`` says how many
endpoints' policies were another one by then.

Times are of the clock on the wall: the kernel's own waits are in them. Where they go is the time
within the resolver and within calls to the kernel; the rest is the agent's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fqdnwall.agent.firewall import Firewall, Settings
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.layouts import MAPS, MapType
from fqdnwall.datapath.loader import create
from fqdnwall.datapath.maps import Maps
from fqdnwall.endpoint.endpoint import Place, Subject
from policies import Policy, parse_policies
from policies.incremental import Resolver

NAMESPACES = 20
APPS = 40
TIERS = 5
SELECTORS = 200
FIRST_INTERFACE = 1 << 20
SAMPLES = 30
TO_ALL_SAMPLES = 10
RESOLVER = ip_address("198.18.0.53")


@dataclass(slots=True)
class Times:
    """Milliseconds, of several changes of one kind."""

    every: list[float] = field(default_factory=list)
    resolver: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Median and most of the whole, and of the change that took longest where it went."""
        worst = self.every.index(max(self.every))
        return {
            "median": statistics.median(self.every),
            "most": self.every[worst],
            "most_in_resolver": self.resolver[worst],
            "most_in_kernel": self.kernel[worst],
            "swapped_median": statistics.median(self.swapped),
            "swapped_most": max(self.swapped),
        }


@dataclass(slots=True)
class Figures:
    """``cold`` in seconds; memory in megabytes."""

    policies: int
    identities: int = 0
    endpoints: int = 0
    map_entries: int = 0
    cold: float = 0.0
    resident: float = 0.0
    kernel_policies: float = 0.0
    kernel_tables: float = 0.0
    endpoint: dict[str, float] = field(default_factory=dict)
    name: dict[str, float] = field(default_factory=dict)
    policy: dict[str, float] = field(default_factory=dict)
    policy_of_all: dict[str, float] = field(default_factory=dict)


class Scenery:
    """Draws endpoints and policies, the same for the same seed."""

    def __init__(self, prefixes_a_policy: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._prefixes = prefixes_a_policy

    def endpoint(self, number: int) -> tuple[Subject, Place]:
        labels = (
            f"app=app{self._random.randrange(APPS)}",
            f"tier=tier{self._random.randrange(TIERS)}",
            f"pod-template-hash=h{number}",
        )
        subject = Subject(f"pod{number}", f"ns{self._random.randrange(NAMESPACES)}", labels)
        address = ip_address((172 << 24 | 16 << 16) + number)
        return subject, Place(FIRST_INTERFACE + number, f"veth{number}", (address,))

    def policy(self, number: int) -> Policy:
        """Ten rules: six on egress, three on ingress, one denial. Number 0 selects everything."""
        pick = self._random.randrange
        subject = f"matchLabels: {{app: app{pick(APPS)}}}"
        if number % 3 == 0:
            subject = f"matchLabels: {{tier: tier{pick(TIERS)}}}" if number % 6 else ""
        prefixes = ", ".join(f"10.{pick(256)}.{pick(256)}.0/24" for _ in range(self._prefixes))
        egress = [
            f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)}}}}}], {self._ports(443)}",
            f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)}, tier: tier{pick(TIERS)}}}}}]",
            f"toCIDR: [10.{4 * pick(64)}.0.0/14], {self._ports(80)}",
            f"toCIDR: [{prefixes}], {self._ports(5432)}",
            f"toFQDNs: [{{matchPattern: '{self._pattern()}'}}], {self._ports(443)}",
            "toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': kube-system,"
            " k8s-app: kube-dns}}], toPorts: [{ports: [{port: '53', protocol: ANY}], rules:"
            f" {{dns: [{{matchPattern: '{self._pattern()}'}}]}}}}]",
        ]
        ingress = [
            f"fromEndpoints: [{{matchLabels: {{app: app{pick(APPS)}}}}}], {self._ports(8080)}",
            f"fromEndpoints: [{{matchLabels: {{tier: tier{pick(TIERS)}}}}}], {self._ports(9090)}",
            "fromEntities: [host, kube-apiserver]",
        ]
        denial = f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)}}}}}], {self._ports(22)}"
        place = f"metadata: {{name: p{number}, namespace: ns{pick(NAMESPACES)}}}"
        lines = [
            "apiVersion: cilium.io/v2",
            f"kind: Cilium{'' if number else 'Clusterwide'}NetworkPolicy",
            place if number else "metadata: {name: all}",
            f"spec:\n  endpointSelector: {{{subject if number else ''}}}\n  egress:",
            *(f"  - {{{rule}}}" for rule in egress),
            "  ingress:",
            *(f"  - {{{rule}}}" for rule in ingress),
            f"  egressDeny:\n  - {{{denial}}}",
        ]
        result = parse_policies("\n".join(lines), "benchmark")
        if result.errors:
            raise RuntimeError(f"{result.errors[0]}")
        return result.policies[0]

    def changed(self, old: Policy) -> Policy:
        """A newly drawn policy in the place of an old one: same subject, other rules."""
        new = self.policy(1)
        spec = replace(new.specs[0], subject=old.specs[0].subject)
        return replace(new, kind=old.kind, name=old.name, namespace=old.namespace, specs=(spec,))

    def _pattern(self) -> str:
        return f"*.svc{self._random.randrange(SELECTORS)}.example.com"

    def _ports(self, port: int) -> str:
        first = port + self._random.randrange(8)
        return f"toPorts: [{{ports: [{{port: '{first}', protocol: TCP}}]}}]"


class Watch:
    """Adds up the time within some functions, as long as it is open."""

    def __init__(self) -> None:
        self.seconds = {"resolver": 0.0, "kernel": 0.0}
        self._within = False

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._within:
                return function(*arguments, **named)
            self._within = True
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[what] += time.perf_counter() - started
                self._within = False

        return call

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within this, calls are timed."""
        of_resolver = ("update", "set_subject", "add_identity", "remove_identity", "set_options")
        of_kernel = ("update", "update_batch", "delete", "lookup", "map_create")
        with ExitStack() as stack:
            for name in of_resolver:
                function = self.timed("resolver", getattr(Resolver, name))
                stack.enter_context(patch.object(Resolver, name, function))
            for name in (name for name in of_kernel if hasattr(libbpf, name)):
                function = self.timed("kernel", getattr(libbpf, name))
                stack.enter_context(patch.object(libbpf, name, function))
            yield


class Bench:
    """One firewall and what is told to it."""

    def __init__(self, maps: Maps, policies: int, identities: int, endpoints: int) -> None:
        self.scenery = Scenery(max(1, (identities - endpoints) // policies))
        self.policies = {number: self.scenery.policy(number) for number in range(policies)}
        self.figures = Figures(policies)
        self.maps = maps
        self.firewall = Firewall(maps, time.monotonic, Settings())
        self._endpoints = endpoints

    def start(self) -> None:
        """From nothing to all maps."""
        gc.collect()
        before, started = _resident_megabytes(), time.perf_counter()
        with self.firewall.batch():
            self.firewall.set_resolvers([RESOLVER])
            self.firewall.set_policies(tuple(self.policies.values()))
            for number in range(self._endpoints):
                self.firewall.add(*self.scenery.endpoint(number))
        self.figures.cold = time.perf_counter() - started
        gc.collect()
        gc.freeze()
        self.figures.resident = _resident_megabytes() - before
        self.figures.endpoints = len(self.firewall.endpoints)
        self.figures.identities = len(self.firewall.allocator.identities)
        self._measure_maps()

    def _measure_maps(self) -> None:
        inner = {}
        for number in self.maps.policies.endpoints():
            fd = self.maps.policies.open(number)
            if fd is not None:
                info = libbpf.map_info(fd)
                if info.id not in inner:
                    inner[info.id] = _kernel_bytes(fd)
                    self.figures.map_entries += libbpf.entries(fd, info.key_size)
                os.close(fd)
        self.figures.kernel_policies = sum(inner.values()) / 1e6
        names = ("ipcache", "dns_names", "identities", "records", "endpoints", "endpoint_ips")
        tables = [_kernel_bytes(self.maps.fds[name]) for name in names]
        self.figures.kernel_tables = sum(tables) / 1e6

    def endpoint_added(self, at: int) -> None:
        self.firewall.add(*self.scenery.endpoint(self._endpoints + at))

    def name_learned(self, at: int) -> None:
        """A name that no selector set stands for yet: one more identity for those that match."""
        endpoints = list(self.firewall.endpoints)
        number = endpoints[at * 7 % len(endpoints)]
        texts = [str(s.text) for s in self.firewall.selectors(number)]
        name = texts[at % len(texts)].replace("*", f"new{at}")
        self.firewall.learning.learn(number, name, [(ip_address(0x5DB80000 + at), 60)])

    def policy_changed(self, at: int) -> None:
        self._change(1 + (at * 3) % (len(self.policies) - 1))

    def policy_of_all_changed(self, _: int) -> None:
        self._change(0)

    def _change(self, number: int) -> None:
        self.policies[number] = self.scenery.changed(self.policies[number])
        self.firewall.set_policies(tuple(self.policies.values()))

    def times(self, change: Callable[[int], None], samples: int) -> dict[str, float]:
        """Of a kind of change, made several times."""
        found = Times()
        for at in range(samples):
            before = _generations(self.firewall)
            watch = Watch()
            with watch.open():
                started = time.perf_counter()
                change(at)
                found.every.append(1e3 * (time.perf_counter() - started))
            found.resolver.append(1e3 * watch.seconds["resolver"])
            found.kernel.append(1e3 * watch.seconds["kernel"])
            after = _generations(self.firewall)
            found.swapped.append(sum(after[n] != generation for n, generation in before.items()))
        return found.summary()


def measure(
    policies: int, identities: int, endpoints: int, say: Callable[[str], None] = lambda _: None
) -> Figures:
    """All figures."""
    with _maps() as maps:
        say("policies are written")
        bench = Bench(maps, policies, identities, endpoints)
        say("from cold")
        bench.start()
        say("one more endpoint")
        bench.figures.endpoint = bench.times(bench.endpoint_added, SAMPLES)
        say("one more name")
        bench.figures.name = bench.times(bench.name_learned, SAMPLES)
        say("one changed policy")
        bench.figures.policy = bench.times(bench.policy_changed, SAMPLES)
        say("one changed policy, of all endpoints")
        bench.figures.policy_of_all = bench.times(bench.policy_of_all_changed, TO_ALL_SAMPLES)
        gc.unfreeze()
        return bench.figures


@contextmanager
def _maps() -> Iterator[Maps]:
    """The agent's maps, of its sizes; they are gone afterwards."""
    fds = {
        spec.name: create(spec, spec.default) for spec in MAPS if spec.kind is not MapType.RINGBUF
    }
    try:
        yield Maps({**fds, "events": -1})
    finally:
        for fd in fds.values():
            os.close(fd)


def _generations(firewall: Firewall) -> dict[int, int]:
    return {number: each.generation for number, each in firewall.endpoints.items()}


def _kernel_bytes(fd: int) -> int:
    """As the kernel counts a map's memory; before Linux 6.4 what it could come to hold."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def _resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="benchmarks.policy_maps", description=__doc__)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--identities", type=int, default=5000)
    parser.add_argument("--endpoints", type=int, default=250)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    found = measure(
        chosen.policies,
        chosen.identities,
        chosen.endpoints,
        lambda what: print(f"… {what}", file=sys.stderr),
    )
    values = {each.name: getattr(found, each.name) for each in fields(found)}
    if chosen.json:
        print(json.dumps(values))
        return 0
    for name, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:.4g}" for key, number in value.items())
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
