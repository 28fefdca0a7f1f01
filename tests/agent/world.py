"""A firewall over fake maps with a clock of its own, and policies to try it with."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from fqdnwall.agent.firewall import Firewall, Settings
from fqdnwall.datapath.layouts import bytes_address
from fqdnwall.endpoint.endpoint import Endpoint, Place, Subject
from fqdnwall.ipcache.desired import prefix_of
from policies import CidrGroup, Policy, parse_policies
from tests.agent.fakemaps import FakeMaps

Address = IPv4Address | IPv6Address
HOST = ip_address("192.0.2.1")
RESOLVER = ip_address("203.0.113.53")
ADDRESSES = tuple(
    ip_address(text)
    for text in (
        "10.0.0.1",
        "10.1.0.1",
        "10.1.2.3",
        "192.0.2.1",
        "198.51.100.7",
        "198.51.100.8",
        "203.0.113.53",
        "172.16.0.1",
        "172.16.0.2",
        "2001:db8::1",
        "2001:db8:1::1",
        "fd00::1",
    )
)


def policy(name: str, app: str, body: str) -> Policy:
    """A policy for ``app``; ``body`` is what follows the selector."""
    text = (
        f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\n"
        f"spec:\n  endpointSelector: {{matchLabels: {{app: {app}}}}}\n  {body}\n"
    )
    result = parse_policies(text, name)
    assert not result.errors, result.errors
    return result.policies[0]


def network_policy(name: str, app: str, block: str, *excepted: str) -> Policy:
    """A Kubernetes NetworkPolicy that lets ``app`` reach an ``ipBlock``."""
    without = f", except: [{', '.join(excepted)}]" if excepted else ""
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: default}}\nspec:\n"
        f"  podSelector: {{matchLabels: {{app: {app}}}}}\n  policyTypes: [Egress]\n"
        f"  egress: [{{to: [{{ipBlock: {{cidr: {block}{without}}}}}]}}]\n"
    )
    result = parse_policies(text, name)
    assert not result.errors, result.errors
    return result.policies[0]


DNS = (
    '{toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, '
    '"k8s:k8s-app": kube-dns}}], toPorts: [{ports: [{port: "53", protocol: ANY}], '
    'rules: {dns: [{matchPattern: "**.example.com"}, {matchPattern: "api-*.example.net"}]}}]}'
)
POLICIES = (
    policy("names", "a", f"egress: [{DNS}, {{toFQDNs: [{{matchName: api.example.com}}]}}]"),
    policy("stars", "a", f"egress: [{DNS}, {{toFQDNs: [{{matchPattern: '*.example.com'}}]}}]"),
    policy("inside", "b", f"egress: [{DNS}, {{toFQDNs: [{{matchPattern: 'api-*.example.net'}}]}}]"),
    policy("ten", "a", "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]"),
    policy("deny", "a", "egressDeny: [{toCIDR: [10.1.2.0/24, 2001:db8::/32]}]"),
    policy("world", "a", "egress: [{toEntities: [world, host]}]"),
    policy("six", "b", "egress: [{toCIDR: ['::/0']}]"),
    policy("peers", "b", "egress: [{toEndpoints: [{matchLabels: {app: a}}]}]"),
    policy(
        "no-peers",
        "a",
        "egress: [{toEntities: [all]}]\n  egressDeny: [{toEndpoints: [{matchLabels: {app: b}}]}]",
    ),
    network_policy("block", "b", "172.16.0.0/16", "172.16.0.2/32"),
    network_policy("blocks", "a", "0.0.0.0/0", "198.51.100.0/24"),
    policy("ports", "b", "egress: [{toPorts: [{ports: [{port: '80', endPort: 90}]}]}]"),
)
SUBJECTS = {
    1: (Subject("one", "default", ("app=a",)), ("172.16.0.1", "fd00::1")),
    2: (Subject("two", "default", ("app=b",)), ("172.16.0.2",)),
    3: (Subject("three", "default", ("app=a", "tier=x")), ("198.51.100.8",)),
}


class World:
    """``restart`` leaves the maps and makes the firewall anew, as a new agent does."""

    def __init__(self, *, per_endpoint: bool = True, maps: Any = None) -> None:
        self.maps = maps or FakeMaps()
        self.now = 1000.0
        self.settings = Settings(per_endpoint=per_endpoint)
        self.firewall = self._firewall()
        self.policies: tuple[Policy, ...] = ()
        self.groups: tuple[CidrGroup, ...] = ()
        self.hosts: tuple[Address, ...] = ()
        self.resolvers: tuple[Address, ...] = ()
        self.guarded: dict[int, int] = {}
        """Key of SUBJECTS → endpoint's id."""

    def _firewall(self) -> Firewall:
        return Firewall(self.maps, lambda: self.now, self.settings)

    def set_policies(self, policies: Sequence[Policy]) -> None:
        self.firewall.set_policies(policies)
        self.policies = tuple(policies)

    def set_hosts(self, hosts: Sequence[Address]) -> None:
        self.firewall.set_hosts(hosts)
        self.hosts = tuple(hosts)

    def set_resolvers(self, resolvers: Sequence[Address]) -> None:
        self.firewall.set_resolvers(resolvers)
        self.resolvers = tuple(resolvers)

    def add(self, which: int) -> Endpoint:
        subject, addresses = SUBJECTS[which]
        endpoint = self.firewall.add(subject, place(which, addresses))
        self.guarded[which] = endpoint.id
        return endpoint

    def remove(self, which: int) -> None:
        self.firewall.remove(self.guarded.pop(which))

    def learn(self, which: int, name: str, address: Address, ttl: int) -> None:
        self.firewall.learning.learn(self.guarded[which], name, [(address, ttl)])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self.firewall.learning.collect():
            pass

    def restart(self) -> None:
        """What ``Node.restore`` does, but for interfaces."""
        records = list(self.firewall.learning.cache.records())
        self.firewall = firewall = self._firewall()
        firewall.learning.adopt(records)
        with firewall.batch():
            firewall.set_hosts(self.hosts)
            firewall.set_resolvers(self.resolvers)
            firewall.set_policies(self.policies, self.groups)
            for number, known in firewall.recorded_endpoints().items():
                firewall.add(known.subject, known.place, number)
        firewall.forget_strangers()

    def from_scratch(self) -> World:
        """Another world that was told the same, once, and learned what is alive here."""
        other = World(per_endpoint=self.settings.per_endpoint)
        other.now = self.now
        other.set_hosts(self.hosts)
        other.set_resolvers(self.resolvers)
        other.set_policies(self.policies)
        for which in self.guarded:
            other.add(which)
        back = {number: which for which, number in self.guarded.items()}
        for record in self.firewall.learning.cache.records():
            which = back.get(record.key.endpoint, next(iter(back.values()), 0))
            ttl = record.expires_at - self.now
            if which:
                other.learn(which, record.key.name, record.key.address, ttl)  # type: ignore[arg-type]
        return other

    def says(self) -> dict[str, object]:
        """What the maps hold, by labels and names in the place of numbers."""
        firewall, maps = self.firewall, self.maps
        back = {number: which for which, number in self.guarded.items()}

        def labels(identity: int) -> str:
            found = firewall.allocator.labels_of(identity)
            return (
                " ".join(sorted(map(str, found)))
                if found
                else f"unknown {identity}" * bool(identity)
            )

        def entries(number: int) -> set[object]:
            return {
                (
                    labels(key.identity),
                    key.prefix_length,
                    key.direction,
                    key.protocol,
                    key.port,
                    value.verdict,
                    value.precedence,
                    firewall.rules.text(value.rule),
                    tree(value.ruleset),
                )
                for key, value in maps.policies.entries(number)
            }

        def tree(ruleset: int) -> frozenset[object]:
            return frozenset(
                (
                    key.name[: key.prefix_length // 8 - 4],
                    node.labels,
                    tuple(
                        (p.action, labels(p.identity), firewall.rules.text(p.rule))
                        for p in node.places
                    ),
                )
                for key, node in maps.dns_names.items()
                if key.ruleset == ruleset
            )

        return {
            "ipcache": {prefix_of(k): labels(v.identity) for k, v in maps.ipcache.items()},
            "endpoints": {
                (ifindex, back.get(info.id), labels(info.identity), info.flags, bool(info.scope))
                for ifindex, info in maps.endpoints.items()
            },
            "policies": {back.get(n): entries(n) for n in maps.policies.endpoints()},
            "owners": {(back.get(o.endpoint), o.address) for o in maps.owned()},
            "learned": {
                (back.get(key.scope, 0), bytes_address(key.address)): {
                    (labels(s.identity), s.expires) for s in value.slots if s.identity
                }
                for key, value in maps.learned.items()
            },
        }

    def verdicts(self) -> dict[tuple[int, Address, int, int], str]:
        return {
            (which, address, protocol, port): self.maps.verdict(
                100 + which, address, protocol, port, int(self.now * 1e9)
            )
            for which in SUBJECTS
            for address in ADDRESSES
            for protocol, port in ((6, 443), (6, 85), (17, 53))
        }


def place(which: int, addresses: Sequence[str]) -> Place:
    return Place(100 + which, f"veth{which}", tuple(ip_address(text) for text in addresses))
