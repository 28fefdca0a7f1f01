"""`policy suggest`: the smallest policy that allows what an endpoint was seen to do.

The input is the report that `fqdnwall run --report` writes, best under ``--audit``. A peer becomes,
in this order: the name under which its address was learned, the labels of its identity, a reserved
entity, or its bare address. Names are listed one by one; wildcards are proposed only where asked.
The text is read back by the parser before it is given away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any, Final, TypeAlias

import yaml

from policies.ciliumports import MAX_ICMP_FIELDS, MAX_PORTS
from policies.labels import CIDR, FQDN, IPBLOCK, NAMESPACE_KEY, NODE, RESERVED, parse_label
from policies.names import InvalidName, name_selector
from policies.parse import parse_policies

WILDCARD_SIBLINGS: Final = 3
"""So many names of one parent make a wildcard worth proposing."""

_ENTITIES: Final = ("host", "remote-node", "kube-apiserver", "health", "ingress", "init")
_GENERATED: Final = ("io.cilium.", "io.kubernetes.pod.namespace")
_NOT_OWN: Final = (RESERVED, CIDR, FQDN, IPBLOCK, NODE)
_POLICY_REASONS: Final = (133, 181)
"""Drop reasons that policy gives: not allowed, and denied."""
_ICMP: Final = {"ICMP": "IPv4", "ICMPv6": "IPv6"}
_PROTOCOLS: Final = {word.upper(): word for word in ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6")}


class InvalidSuggestion(ValueError):
    """What was observed cannot be written as a policy."""


class NotAReport(ValueError):
    """The input is not a report of this tool."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One kind of connection that was made or tried. ``port`` is the type for ICMP."""

    egress: bool
    address: str
    port: int
    protocol: str
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One name that was asked for."""

    name: str


@dataclass(frozen=True, slots=True)
class Observations:
    """What is known of one endpoint. ``labels`` are its own, ``source:key=value``."""

    labels: tuple[str, ...]
    namespace: str
    seen: tuple[Seen, ...]
    asked: tuple[Asked, ...] = ()


def read_report(report: Mapping[str, Any], include_denied: bool = False) -> Observations:
    """The observations in a report's JSON. Raises NotAReport.

    What passed counts, and what audit mode let pass; what was denied only with ``include_denied``.
    Packets that were dropped for other reasons than policy never count, nor do the queries to the
    resolver, for which the names stand.
    """
    if not str(report.get("format", "")).startswith("fqdnwall.report/"):
        raise NotAReport("this is not a report of fqdnwall run --report")
    sections = ["connections", "would_drop", *(["drops"] if include_denied else [])]
    try:
        seen = [
            _seen(item)
            for section in sections
            for item in report.get(section) or ()
            if item.get("reason_code") in (None, *_POLICY_REASONS)
        ]
        asked = [
            Asked(str(item["name"]))
            for item in report.get("queries") or ()
            if include_denied or item.get("outcome") != "refused"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise NotAReport(f"the report cannot be read: {error!r}") from error
    subject = report.get("subject") or {}
    return Observations(
        tuple(subject.get("labels") or ()),
        str(subject.get("namespace") or "default"),
        tuple(dict.fromkeys(item for item in seen if not _is_query(item))),
        tuple(dict.fromkeys(asked)),
    )


def _seen(item: Mapping[str, Any]) -> Seen:
    protocol = str(item["protocol"])
    return Seen(
        item.get("direction", "egress") == "egress",
        str(item["address"]),
        int(item["port"]),
        _PROTOCOLS.get(protocol.upper(), protocol),
        tuple(item.get("names") or ()),
        tuple(item.get("labels") or ()),
    )


def _is_query(seen: Seen) -> bool:
    """A plain rule for the resolver's port would void the rule about names."""
    return seen.egress and seen.port == 53 and "k8s:k8s-app=kube-dns" in seen.labels


@dataclass(frozen=True, slots=True)
class _Peer:
    """``field`` is the suffix of the rule's field; ``words`` is what stands in it.

    For FQDNs the word is the name or pattern, for CIDR the prefix, for Entities the entity, for
    Endpoints the labels as ``key=value``.
    """

    field: str
    words: tuple[str, ...]
    comment: str = ""

    def written(self) -> Any:
        if self.field == "FQDNs":
            return _name_item(self.words[0])
        if self.field == "Endpoints":
            return {"matchLabels": dict(word.split("=", 1) for word in self.words)}
        return self.words[0]


_Ports: TypeAlias = frozenset[tuple[str, int]]
"""(protocol, port or ICMP type)"""


def suggest(found: Observations, name: str = "suggested", wildcards: bool = False) -> str:
    """The policy as YAML with comments.

    ``wildcards`` proposes ``*.parent`` where several names of one parent were used alike. Raises
    InvalidSuggestion when the observations make no valid policy, such as a label that is none.
    """
    egress = _rules([seen for seen in found.seen if seen.egress], "to", wildcards)
    ingress = _rules([seen for seen in found.seen if not seen.egress], "from", False)
    names = [_Peer("FQDNs", (text,)) for text in _names_asked(found)]
    if names:
        listed = _wildcards({peer: frozenset() for peer in names}) if wildcards else names
        egress.insert(0, (_dns_rule(listed), "the names that were asked for"))
    labels = dict(word.split("=", 1) for word in _own_labels(found.labels))
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": found.namespace},
        "spec": {"endpointSelector": {"matchLabels": labels} if labels else {}},
    }
    lines = [
        "# Allows what was seen, and nothing else. Read it before you apply it:",
        "# what did not happen while it was watched is not in it.",
        *yaml.safe_dump(document, sort_keys=False, width=100).splitlines(),
        *_section("egress", egress),
        *_section("ingress", ingress),
    ]
    text = "\n".join(lines) + "\n"
    if problems := parse_policies(text, name).errors:
        raise InvalidSuggestion(str(problems[0]))
    return text


def _section(direction: str, rules: Sequence[tuple[dict[str, Any], str]]) -> list[str]:
    lines = [f"  {direction}:"]
    for rule, comment in rules:
        if comment:
            lines.append(f"  # {comment}")
        written = yaml.safe_dump([rule], sort_keys=False, width=100).splitlines()
        lines += ["  " + line for line in written]
    return lines if rules else [*lines, "  - {}  # none was seen, so none is allowed"]


def _names_asked(found: Observations) -> list[str]:
    """The names that connections used, and those asked for and not connected to."""
    used = {name for seen in found.seen if seen.egress for name in seen.names}
    texts = {
        name for text in {*used, *(asked.name for asked in found.asked)} if (name := _valid(text))
    }
    return sorted(texts)


def _rules(seen: Iterable[Seen], prefix: str, wildcards: bool) -> list[tuple[dict[str, Any], str]]:
    """One rule for each kind of peer and set of ports, with a comment."""
    used: dict[_Peer, _Ports] = {}
    for item in seen:
        for peer in _peers(item):
            used[peer] = used.get(peer, frozenset()) | {(item.protocol, item.port)}
    grouped: dict[tuple[str, _Ports], list[_Peer]] = {}
    for peer, ports in (_wildcards(used) if wildcards else used).items():
        grouped.setdefault((peer.field, ports), []).append(peer)
    rules: list[tuple[dict[str, Any], str]] = []
    for (field, what), peers in sorted(grouped.items(), key=lambda g: (g[0][0], sorted(g[0][1]))):
        chosen = sorted(peers, key=lambda peer: peer.words)
        values = _collapsed(chosen) if field == "CIDR" else [peer.written() for peer in chosen]
        comment = "; ".join(dict.fromkeys(peer.comment for peer in chosen if peer.comment))
        rules += [({prefix + field: values, **fields}, comment) for fields in _port_fields(what)]
    return rules


def _wildcards(used: Mapping[_Peer, _Ports]) -> dict[_Peer, _Ports]:
    """The same peers, with one pattern for many names of a parent that were used alike."""
    families: dict[tuple[str, _Ports], list[_Peer]] = {}
    for peer, ports in used.items():
        if peer.field == "FQDNs":
            parent = peer.words[0].partition(".")[2]
            if "." in parent:
                families.setdefault((parent, ports), []).append(peer)
    large = {key: peers for key, peers in families.items() if len(peers) >= WILDCARD_SIBLINGS}
    covered = {peer for peers in large.values() for peer in peers}
    found = {peer: ports for peer, ports in used.items() if peer not in covered}
    for (parent, ports), peers in large.items():
        pattern = _Peer("FQDNs", (f"*.{parent}",), f"*.{parent} stands for {len(peers)} names")
        found[pattern] = found.get(pattern, frozenset()) | ports
    return found


def _collapsed(peers: Sequence[_Peer]) -> list[str]:
    """Prefixes, fewer where several make up exactly a larger one."""
    networks = [ip_network(peer.words[0]) for peer in peers]
    four = collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    six = collapse_addresses(n for n in networks if isinstance(n, IPv6Network))
    return [str(network) for network in (*four, *six)]


def _port_fields(used: _Ports) -> list[dict[str, Any]]:
    """toPorts for ports, icmps for ICMP types; the two cannot stand in one rule."""
    ports = [
        {"port": str(port), "protocol": protocol}
        for protocol, port in sorted(used)
        if protocol in ("TCP", "UDP", "SCTP")
    ]
    icmps = [
        {"family": _ICMP[protocol], "type": kind}
        for protocol, kind in sorted(used)
        if protocol in _ICMP
    ]
    fields: list[dict[str, Any]] = []
    for start in range(0, len(ports), MAX_PORTS):
        fields.append({"toPorts": [{"ports": ports[start : start + MAX_PORTS]}]})
    for start in range(0, len(icmps), MAX_ICMP_FIELDS):
        fields.append({"icmps": [{"fields": icmps[start : start + MAX_ICMP_FIELDS]}]})
    return fields


def _dns_rule(names: Iterable[_Peer]) -> dict[str, Any]:
    labels = {"k8s:io.kubernetes.pod.namespace": "kube-system", "k8s:k8s-app": "kube-dns"}
    ports = [{"port": "53", "protocol": "ANY"}]
    chosen = [_name_item(peer.words[0]) for peer in sorted(names, key=lambda peer: peer.words)]
    return {
        "toEndpoints": [{"matchLabels": labels}],
        "toPorts": [{"ports": ports, "rules": {"dns": chosen}}],
    }


def _peers(seen: Seen) -> list[_Peer]:
    """Whom a connection was with. An address with several names may have been meant by any."""
    if seen.egress:
        names = [name for text in seen.names if (name := _valid(text)) is not None]
        if names:
            comment = f"{seen.address} has the names {', '.join(names)}" if names[1:] else ""
            return [_Peer("FQDNs", (name,), comment) for name in names]
    labels = [parse_label(text) for text in seen.labels]
    reserved = {label.key for label in labels if label.source == RESERVED}
    own = _own_labels(seen.labels)
    if own and not reserved:
        namespaces = [label.value for label in labels if label.key == NAMESPACE_KEY]
        return [_Peer("Endpoints", (*own, *(f"k8s:{NAMESPACE_KEY}={n}" for n in namespaces)))]
    entity = next((name for name in _ENTITIES if name in reserved), None)
    if entity is not None:
        return [_Peer("Entities", (entity,))]
    return [_Peer("CIDR", (str(ip_network(seen.address)),), "addresses that no name was known for")]


def _own_labels(texts: Iterable[str]) -> list[str]:
    """The labels that people gave, as ``source:key=value``."""
    labels = sorted(parse_label(text) for text in texts)
    return [
        f"{label.source}:{label.key}={label.value}"
        for label in labels
        if label.source not in _NOT_OWN and not label.key.startswith(_GENERATED)
    ]


def _valid(name: str) -> str | None:
    try:
        return name_selector(name).text
    except InvalidName:
        return None


def _name_item(text: str) -> dict[str, str]:
    return {"matchPattern" if "*" in text else "matchName": text}
