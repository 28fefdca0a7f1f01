"""Judging flows in a cluster on paper, exactly as the kernel would.

A World gives every distinct set of labels an identity, prefixes and learned names included,
resolves each subject once, and answers with the reference lookup. `policy test`, `explain` and
`policy verdict` are thin layers over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_network
from typing import Final

from policies.applied import DirectionRules, applied_rules
from policies.cluster import (
    Address,
    Cluster,
    Endpoint,
    EndpointRef,
    EntityRef,
    Flow,
    NameRef,
    Node,
    NodeRef,
    PeerRef,
    UnknownPeer,
)
from policies.entries import (
    DnsRuleSet,
    Entry,
    HttpRuleSet,
    Lookup,
    ProxyRuleSet,
    Resolved,
    RuleRef,
    Verdict,
    lookup,
)
from policies.expand import expand_peer
from policies.identity import (
    HEALTH,
    HOST,
    INGRESS,
    INIT,
    KUBE_APISERVER,
    REMOTE_NODE,
    UNMANAGED,
    WORLD,
    WORLD_IPV4,
    WORLD_IPV6,
    Identity,
    Protocol,
)
from policies.labels import (
    FQDN,
    K8S,
    NODE,
    RESERVED_LABELS,
    Label,
    Labels,
    Network,
    cidr_labels,
    fqdn_labels,
    ip_block_labels,
    pod_labels,
    reserved_labels,
)
from policies.model import CidrPeer, FqdnPeer, Policy
from policies.names import NameSelector
from policies.options import NamedPorts, Options, Subject
from policies.passes import names_behind_passes
from policies.prefixes import PrefixMap
from policies.resolve import resolve

ENTITY_IDENTITY: Final[Mapping[str, Identity]] = {
    "host": HOST,
    "world": WORLD,
    "unmanaged": UNMANAGED,
    "health": HEALTH,
    "init": INIT,
    "remote-node": REMOTE_NODE,
    "kube-apiserver": KUBE_APISERVER,
    "ingress": INGRESS,
    "world-ipv4": WORLD_IPV4,
    "world-ipv6": WORLD_IPV6,
}

_FIRST_ENDPOINT = 256
_FIRST_LOCAL = 0x01000000
_FIRST_NODE = 0x02000000


class Reason(Enum):
    """Why a flow was judged as it was."""

    NOT_ENFORCED = "not-enforced"
    RULE = "rule"
    DEFAULT_ALLOW = "default-allow"
    DEFAULT_DENY = "default-deny"
    NAME_ALLOWED = "dns-name-allowed"
    NAME_REFUSED = "dns-name-refused"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A flow's verdict, and the rule that decided (None when none did)."""

    verdict: Verdict
    reason: Reason
    rule: RuleRef | None = None
    entry: Entry | None = None
    l7: DnsRuleSet | HttpRuleSet | ProxyRuleSet | None = None


class World:
    """A cluster with its policies in force."""

    def __init__(
        self, cluster: Cluster, policies: Iterable[Policy], options: Options | None = None
    ) -> None:
        self.cluster = cluster
        self.policies = tuple(policies)
        self.identities: dict[Identity, Labels] = dict(RESERVED_LABELS)
        self._numbers = {labels: number for number, labels in RESERVED_LABELS.items()}
        base = options or Options()
        self.options = replace(
            base,
            services=(*base.services, *cluster.services),
            cidr_groups=(*base.cidr_groups, *cluster.cidr_groups),
        )
        self._of_endpoint = {
            name: self._allocate(self._labels_of(endpoint), _FIRST_ENDPOINT)
            for name, endpoint in cluster.endpoints.items()
        }
        self._of_node = {
            name: self._allocate(_node_labels(node), _FIRST_NODE)
            for name, node in cluster.nodes.items()
        }
        self._selectors, cidrs, blocks = self._mentioned()
        self._cidrs: PrefixMap[Identity] = PrefixMap()
        for prefix in cidrs:
            self._cidrs.put(prefix, self._allocate(cidr_labels(prefix), _FIRST_LOCAL))
        self._blocks: PrefixMap[Labels] = PrefixMap()
        for prefix in blocks:
            self._blocks.put(prefix, ip_block_labels(prefix))
        # What the kernel's several identities of an address cannot give, one can.
        self.one_identity = bool(names_behind_passes(self.policies))
        self._by_address = self._addresses()
        for addresses in (self._by_address, *cluster.names.values()):
            for address in addresses:
                self._at(address)
        for name in cluster.names:
            self._of_name(name)
        self.options = replace(self.options, named_ports=self._named_ports())
        self._resolved: dict[str, Resolved] = {}

    def subject(self, name: str) -> Subject:
        """An endpoint (or, for policies on nodes, a node) as resolve() wants it."""
        if name in self.cluster.endpoints:
            endpoint = self.cluster.endpoints[name]
            return Subject(self._labels_of(endpoint), endpoint.namespace, endpoint.named_ports)
        if name in self.cluster.nodes:
            own = {Label(K8S, key, value) for key, value in self.cluster.nodes[name].labels}
            return Subject(reserved_labels("host") | own, "")
        raise UnknownPeer(f"there is no endpoint {name!r}")

    def resolved(self, name: str) -> Resolved:
        """The policy map of a subject; resolved once."""
        if name not in self._resolved:
            subject = self.subject(name)
            self._resolved[name] = resolve(self.policies, subject, self.identities, self.options)
        return self._resolved[name]

    def rules(self, name: str) -> tuple[DirectionRules, DirectionRules]:
        """The rules (ingress, egress) that apply to a subject."""
        subject = self.subject(name)
        return applied_rules(self.policies, subject, self.options)

    def candidates(self, peer: PeerRef) -> tuple[Identity, ...]:
        """The identities that the kernel tries for a peer. Raises UnknownPeer."""
        if isinstance(peer, EndpointRef):
            if peer.name not in self._of_endpoint:
                raise UnknownPeer(f"there is no endpoint {peer.name!r}")
            endpoint = self.cluster.endpoints[peer.name]
            return (self._inside(self._of_endpoint[peer.name], endpoint.ips),)
        if isinstance(peer, NodeRef):
            if peer.name not in self._of_node:
                raise UnknownPeer(f"there is no node {peer.name!r}")
            return (self._inside(self._of_node[peer.name], self.cluster.nodes[peer.name].ips),)
        if isinstance(peer, EntityRef):
            if peer.entity not in ENTITY_IDENTITY:
                raise UnknownPeer(f"{peer.entity!r} is no single identity")
            return (ENTITY_IDENTITY[peer.entity],)
        if isinstance(peer, NameRef):
            addresses = self.cluster.names.get(peer.name, ())
            if addresses:
                return self._at(addresses[0])
            own = self._of_name(peer.name)
            return (WORLD,) if own is None else (WORLD, own)
        return self._at(peer.address)

    def look_up(self, flow: Flow) -> Lookup:
        """What the kernel finds for a flow in a direction that is enforced."""
        candidates = self.candidates(flow.peer)
        entries = self.resolved(flow.subject).entries
        return lookup(entries, candidates, flow.direction, flow.protocol, flow.port)

    def judge(self, flow: Flow) -> Judgement:
        """The verdict on a flow, with its reason. Raises UnknownPeer."""
        resolved = self.resolved(flow.subject)
        if not resolved.enforcing.of(flow.direction):
            self.candidates(flow.peer)
            return Judgement(Verdict.ALLOW, Reason.NOT_ENFORCED)
        found = self.look_up(flow)
        if found.entry is None:
            return Judgement(Verdict.DENY, Reason.DEFAULT_DENY)
        rule = resolved.rule_of(found.entry) if found.entry.rule_id else None
        rule_set = resolved.rule_set_of(found.entry)
        if flow.dns_query and isinstance(rule_set, DnsRuleSet):
            allowed = rule_set.decide(flow.dns_query)
            if allowed is None:
                refused = Reason.NAME_REFUSED
                return Judgement(Verdict.DENY, refused, rule, found.entry, rule_set)
            named = Reason.NAME_ALLOWED
            return Judgement(Verdict.REDIRECT, named, allowed, found.entry, rule_set)
        reason = Reason.RULE
        if rule is None:
            denied = found.verdict is Verdict.DENY
            reason = Reason.DEFAULT_DENY if denied else Reason.DEFAULT_ALLOW
        return Judgement(found.verdict, reason, rule, found.entry, rule_set)

    def _labels_of(self, endpoint: Endpoint) -> Labels:
        labels = dict(endpoint.labels)
        if any(key.startswith("reserved:") for key in labels):
            return pod_or_reserved(labels)
        of_namespace = self.cluster.namespaces.get(endpoint.namespace, {})
        return pod_labels(labels, endpoint.namespace, of_namespace, endpoint.cluster)

    def _allocate(self, labels: Labels, first: int) -> Identity:
        if labels not in self._numbers:
            number = Identity(first + len(self._numbers))
            self._numbers[labels] = number
            self.identities[number] = labels
        return self._numbers[labels]

    def _mentioned(self) -> tuple[list[NameSelector], list[Network], list[Network]]:
        """Selectors, prefixes, and prefixes that count inside the cluster, of all policies."""
        peers = [
            base
            for policy in self.policies
            for rule in policy.rules
            for peer in rule.peers or ()
            for base in expand_peer(peer, self.options)
        ]
        selectors = [peer.selector for peer in peers if isinstance(peer, FqdnPeer)]
        cidrs = [peer for peer in peers if isinstance(peer, CidrPeer)]
        prefixes = [p for peer in cidrs for p in (peer.cidr, *peer.excepts)]
        blocks = [p for peer in cidrs if peer.inside for p in (peer.cidr, *peer.excepts)]
        return list(dict.fromkeys(selectors)), _unique(prefixes), _unique(blocks)

    def _texts(self, name: str) -> list[str]:
        return [selector.text for selector in self._selectors if selector.matches(name)]

    def _of_name(self, name: str) -> Identity | None:
        texts = self._texts(name)
        return self._allocate(fqdn_labels(texts), _FIRST_LOCAL) if texts else None

    def _addresses(self) -> dict[Address, Identity]:
        found: dict[Address, Identity] = {}
        for name, endpoint in self.cluster.endpoints.items():
            found.update(dict.fromkeys(endpoint.ips, self._of_endpoint[name]))
        for name, node in self.cluster.nodes.items():
            found.update(dict.fromkeys(node.ips, self._of_node[name]))
        return found

    def _named_ports(self) -> dict[Identity, NamedPorts]:
        found: dict[Identity, dict[tuple[str, Protocol], frozenset[int]]] = {}
        for name, endpoint in self.cluster.endpoints.items():
            own = found.setdefault(self._of_endpoint[name], {})
            for text, port, protocol in endpoint.named_ports:
                key = (text.lower(), protocol)
                own[key] = own.get(key, frozenset()) | {port}
        for name, endpoint in self.cluster.endpoints.items():
            base = self._of_endpoint[name]
            found[self._inside(base, endpoint.ips)] = found[base]
        return {identity: own for identity, own in found.items() if own}

    def _inside(self, identity: Identity, addresses: Iterable[Address]) -> Identity:
        """A pod or node: its labels, and the ipBlock that holds its address, in one identity.

        It is never one of the node-local scope, by which the kernel knows what is outside.
        """
        first = _FIRST_NODE if identity >= _FIRST_NODE else _FIRST_ENDPOINT
        for address in addresses:
            block = next(self._blocks.holding(ip_network(address)), None)
            if block is not None:
                return self._allocate(self.identities[identity] | block, first)
        return identity

    def _at(self, address: Address) -> tuple[Identity, ...]:
        if address in self._by_address:
            return (self._inside(self._by_address[address], (address,)),)
        whole = WORLD_IPV4 if address.version == 4 else WORLD_IPV6
        outer = next(self._cidrs.holding(ip_network(address)), whole)
        names = [name for name, found in self.cluster.names.items() if address in found]
        if self.one_identity:
            texts = [text for name in names for text in self._texts(name)]
            labels = self.identities[outer] | {Label(FQDN, text) for text in texts}
            return (self._allocate(labels, _FIRST_LOCAL),)
        learned = [found for name in names if (found := self._of_name(name)) is not None]
        return tuple(dict.fromkeys([outer, *learned]))


def pod_or_reserved(labels: Mapping[str, str]) -> Labels:
    """Labels of an endpoint that is no pod (yet), such as ``reserved:init``: without namespace."""
    made = pod_labels(labels, "")
    return frozenset(label for label in made if f"{label.source}:{label.key}" in labels)


def _node_labels(node: Node) -> Labels:
    kind = "host" if node.is_host else "remote-node"
    return reserved_labels(kind) | {Label(NODE, key, value) for key, value in node.labels}


def _unique(prefixes: Iterable[Network]) -> list[Network]:
    return list(dict.fromkeys(prefixes))
