"""How long policy takes: from cold, for one more identity, for one changed policy; and its memory.

    python -m benchmarks.policy_resolve [--policies N] [--identities N] [--endpoints N]
                                        [--shape spread|dense|prefixes|list] [--json]

*spread*: a policy selects the pods of one app of its namespace, as most do. *dense*: a third of
them select by a label that runs across the namespace, or the whole namespace, so that every
endpoint has many policies, and almost every one a set of its own. *prefixes*: as many policies, and
all that each says is ten prefixes, one of them with an exception; each prefix is an identity too.
*list*: one policy with the ten prefixes of each of these. "All maps" is every table of every set;
the entries that a kernel would hold are counted, and the time to write them all out is given apart.

One core, no kernel, nothing cached before the first policy. Times are of the processor, so that
what else runs does not count. After the start what exists is taken out of the garbage collector's
sight (`gc.freeze`), as a long-running agent should do too: a full collection takes longer than a
change.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from policies import (
    Identity,
    Labels,
    Options,
    Policy,
    Subject,
    cidr_labels,
    fqdn_labels,
    parse_policies,
    pod_labels,
)
from policies.incremental import Resolver

NAMESPACES = 20
APPS = 40
TIERS = 5
SELECTORS = 200
SHAPES = ("spread", "dense", "prefixes", "list")


@dataclass(slots=True)
class Figures:
    """Seconds, unless the name says otherwise."""

    shape: str
    policies: int
    identities: int
    endpoints: int
    sets: int = 0
    policies_per_endpoint: float = 0.0
    map_entries: int = 0
    parse: float = 0.0
    cold: float = 0.0
    write_out: float = 0.0
    identity_median: float = 0.0
    identity_worst: float = 0.0
    prefix_median: float = 0.0
    prefix_worst: float = 0.0
    removal_median: float = 0.0
    removal_worst: float = 0.0
    policy_median: float = 0.0
    policy_worst: float = 0.0
    sets_of_a_policy_most: int = 0
    memory_megabytes: float = 0.0
    samples: int = field(default=50)


class Scenery:
    """Draws a cluster and its policies, the same for the same seed."""

    def __init__(self, shape: str, policies: int, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._dense = shape == "dense"
        self.policies = policies

    def pod(self, number: int) -> tuple[Labels, str]:
        home = self._random.randrange(NAMESPACES)
        namespace = f"ns{home}"
        labels = {
            "app": f"app{self._random.randrange(APPS)}",
            "tier": f"tier{self._random.randrange(TIERS)}",
            "pod-template-hash": f"h{number}",
        }
        return pod_labels(labels, namespace, {"team": f"team{home % 4}"}), namespace

    def identities(self, count: int) -> dict[Identity, Labels]:
        """Nine in ten are pods, the others prefixes and sets of names."""
        found: dict[Identity, Labels] = {}
        for number in range(count):
            kind = number % 20
            if kind == 0:
                labels = cidr_labels(ip_network((0xC6000000 + number * 256, 24)))
            elif kind == 1:
                labels = fqdn_labels([f"*.svc{number % SELECTORS}.example.com"])
            else:
                labels = self.pod(number)[0]
            found[Identity(1000 + number)] = labels
        return found

    def policy(self, number: int) -> str:
        """Ten rules: six on egress, three on ingress, one denial."""
        pick = self._random.randrange
        subject = f"matchLabels: {{app: app{pick(APPS)}}}"
        if self._dense and number % 3 == 0:
            subject = f"matchLabels: {{tier: tier{pick(TIERS)}}}" if number % 6 else ""
        egress = [
            f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)}}}}}], {self._ports(443)}",
            f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)}, tier: tier{pick(TIERS)}}}}}]",
            f"toEndpoints: [{{matchLabels: {{app: app{pick(APPS)},"
            f" 'k8s:io.kubernetes.pod.namespace': ns{pick(NAMESPACES)}}}}}], {self._ports(80)}",
            f"toCIDR: [198.{pick(4)}.{pick(256)}.0/24], {self._ports(5432)}",
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
        lines = [
            "apiVersion: cilium.io/v2",
            "kind: CiliumNetworkPolicy",
            f"metadata: {{name: p{number}, namespace: ns{pick(NAMESPACES)}}}",
            "spec:",
            f"  endpointSelector: {{{subject}}}",
            "  egress:",
            *(f"  - {{{rule}}}" for rule in egress),
            "  ingress:",
            *(f"  - {{{rule}}}" for rule in ingress),
            "  egressDeny:",
            f"  - {{{denial}}}",
        ]
        return "\n".join(lines) + "\n"

    def _pattern(self) -> str:
        return f"*.svc{self._random.randrange(SELECTORS)}.example.com"

    def _ports(self, port: int) -> str:
        first = port + self._random.randrange(8)
        return f"toPorts: [{{ports: [{{port: '{first}', protocol: TCP}}]}}]"


class PrefixScenery(Scenery):
    """Policies about prefixes: nine in ten single addresses, the others nets that hold many."""

    def __init__(self, shape: str, policies: int, seed: int = 1) -> None:
        super().__init__(shape, policies, seed)
        self.policies = 1 if shape == "list" else policies
        self._rules = policies if shape == "list" else 1
        self._spoken_of: dict[str, None] = {}

    def identities(self, count: int) -> dict[Identity, Labels]:
        """Pods, and the prefixes that the policies drawn so far speak of."""
        found = {Identity(1000 + number): self.pod(number)[0] for number in range(count)}
        first = Identity(0x0100_0000)
        for number, text in enumerate(self._spoken_of):
            found[Identity(first + number)] = cidr_labels(ip_network(text))
        return found

    def policy(self, number: int) -> str:
        pick = self._random.randrange
        subject = "" if self._rules > 1 else f"matchLabels: {{app: app{pick(APPS)}}}"
        lines = [
            "apiVersion: cilium.io/v2",
            "kind: CiliumNetworkPolicy",
            f"metadata: {{name: p{number}, namespace: ns{pick(NAMESPACES)}}}",
            "spec:",
            f"  endpointSelector: {{{subject}}}",
            "  egress:",
        ]
        for _ in range(self._rules):
            plain = ", ".join(self._prefix() for _ in range(9))
            lines.append(f"  - {{toCIDR: [{plain}], {self._ports(443)}}}")
            net = f"198.{pick(64)}.{pick(256)}.0/24"
            hole = net.replace(".0/24", f".{pick(256)}/32")
            self._spoken_of |= {net: None, hole: None}
            lines.append(f"  - {{toCIDRSet: [{{cidr: {net}, except: [{hole}]}}]}}")
        return "\n".join(lines) + "\n"

    def _prefix(self) -> str:
        pick = self._random.randrange
        text = f"198.{pick(64)}.{pick(256)}.{pick(256)}/32"
        if pick(10) == 0:
            text = f"198.{pick(64)}.0.0/16" if pick(10) == 0 else f"2001:db8:{pick(65536):x}::/48"
        self._spoken_of[text] = None
        return text


def measure(
    shape: str,
    policies: int,
    identities: int,
    endpoints: int,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """All figures of one shape."""
    kind = Scenery if shape in ("spread", "dense") else PrefixScenery
    scenery = kind(shape, policies)
    figures = Figures(shape, scenery.policies, identities, endpoints)
    text = "---\n".join(scenery.policy(number) for number in range(scenery.policies))
    say("parse")
    started = time.process_time()
    result = parse_policies(text, "benchmark")
    figures.parse = time.process_time() - started
    if result.errors:
        raise RuntimeError(f"{result.errors[0]}")
    known = scenery.identities(identities)
    figures.identities = len(known)
    subjects = [Subject(*scenery.pod(number)) for number in range(endpoints)]
    gc.collect()
    before = _resident_megabytes()
    say("cold")
    started = time.process_time()
    resolver = Resolver(known, Options())
    resolver.update(result.policies)
    for number, subject in enumerate(subjects):
        resolver.set_subject(f"endpoint{number}", subject)
    figures.cold = time.process_time() - started
    gc.collect()
    gc.freeze()
    figures.memory_megabytes = _resident_megabytes() - before
    sets = resolver.policy_sets()
    figures.sets = len(sets)
    chosen = [len(resolver.policy_set(f"endpoint{n}").chosen) for n in range(endpoints)]
    figures.policies_per_endpoint = statistics.mean(chosen)
    figures.map_entries = sum(
        len(table)
        for policy_set in sets
        for tables in policy_set.tables.values()
        for table in tables.tables.values()
    )
    say("one more identity")
    times = [
        _timed(partial(resolver.add_identity, Identity(9_000_000 + n), scenery.pod(n)[0]))
        for n in range(figures.samples)
    ]
    figures.identity_median, figures.identity_worst = statistics.median(times), max(times)
    say("one more prefix")
    times = []
    for n in range(figures.samples):
        labels = cidr_labels(ip_network((0xC6000000 + n * 4001, 32)))
        times.append(_timed(partial(resolver.add_identity, Identity(8_000_000 + n), labels)))
    figures.prefix_median, figures.prefix_worst = statistics.median(times), max(times)
    say("one identity less")
    times = [
        _timed(partial(resolver.remove_identity, Identity(8_000_000 + n)))
        for n in range(figures.samples)
    ]
    figures.removal_median, figures.removal_worst = statistics.median(times), max(times)
    say("one changed policy")
    times = []
    for sample in range(figures.samples):
        number = sample * 3 % scenery.policies
        changed = _renamed(scenery.policy(number), result.policies[number])
        # How many sets a policy reaches is what its change costs.
        reached = sum(
            any(policy.name == changed.name for policy, _ in policy_set.chosen)
            for policy_set in resolver.policy_sets()
        )
        figures.sets_of_a_policy_most = max(figures.sets_of_a_policy_most, reached)
        times.append(_timed(lambda changed=changed: resolver.update([changed])))  # type: ignore[misc]
    figures.policy_median, figures.policy_worst = statistics.median(times), max(times)
    say("all entries")
    started = time.process_time()
    for policy_set in resolver.policy_sets():
        policy_set.resolved()
    figures.write_out = time.process_time() - started
    gc.unfreeze()
    return figures


def _renamed(text: str, old: Policy) -> Policy:
    """A newly drawn policy in the place of an old one: same subject, other rules."""
    (new,) = parse_policies(text, "benchmark").policies
    spec = replace(new.specs[0], subject=old.specs[0].subject)
    return replace(new, name=old.name, namespace=old.namespace, specs=(spec,))


def _timed(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def _resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.policy_resolve", description=__doc__)
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--identities", type=int, default=5000)
    parser.add_argument("--endpoints", type=int, default=250)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    for shape in chosen.shape or SHAPES:
        found = measure(
            shape,
            chosen.policies,
            chosen.identities,
            chosen.endpoints,
            lambda what: print(f"… {what}", file=sys.stderr),
        )
        values = {name: getattr(found, name) for name in Figures.__dataclass_fields__}
        if chosen.json:
            print(json.dumps(values))
            continue
        for name, value in values.items():
            print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
