"""A whole policy from a few words: what ``--allow`` and ``--allow-cidr`` stand for.

``--allow NAME-OR-PATTERN[:PORT[/PROTO]]`` and ``--allow-cidr CIDR[:PORT[/PROTO]]`` become the text
of a CiliumNetworkPolicy, the DNS rule for exactly the allowed names included. The text is for
people to read and to keep; it is read back by the same parser as any other policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from policies.cidrs import parse_cidr
from policies.model import Policy
from policies.names import InvalidName, name_selector, pattern_selector
from policies.parse import parse_policies


class InvalidAllow(ValueError):
    """An argument that is not of the form it should have; the text names it."""


@dataclass(frozen=True, slots=True)
class AllowPolicy:
    """The policy as text and as read back."""

    text: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Ports:
    first: int
    last: int
    protocol: str

    def spec(self) -> dict[str, object]:
        found: dict[str, object] = {"port": str(self.first)}
        if self.last > self.first:
            found["endPort"] = self.last
        if self.protocol:
            found["protocol"] = self.protocol
        return found


_PORTS = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>\w+))?\Z")
_PROTOCOLS = ("TCP", "UDP", "SCTP", "ANY")


def allow_policy(
    names: Sequence[str],
    cidrs: Sequence[str],
    labels: Mapping[str, str] | None = None,
    namespace: str = "default",
    name: str = "allow",
) -> AllowPolicy:
    """The policy that lets a subject with ``labels`` reach just these names and prefixes.

    Without any argument at all it allows nothing. Raises InvalidAllow for an argument that cannot
    be read, naming it.
    """
    selectors = [_read_name(argument) for argument in names]
    prefixes = [_read_cidr(argument) for argument in cidrs]
    egress: list[dict[str, object]] = []
    if selectors:
        egress.append(_dns_rule([selector for selector, _ in selectors]))
    egress += _grouped("toFQDNs", selectors)
    egress += _grouped("toCIDR", prefixes)
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "endpointSelector": {"matchLabels": dict(labels)} if labels else {},
            # One rule that selects nothing still turns default deny on.
            "egress": egress or [{}],
        },
    }
    text = yaml.safe_dump(document, sort_keys=False, width=100)
    result = parse_policies(text, "--allow")
    if result.errors:
        raise InvalidAllow("; ".join(map(str, result.errors)))
    return AllowPolicy(text, result.policies[0])


def _dns_rule(selectors: Sequence[object]) -> dict[str, object]:
    labels = {"k8s:io.kubernetes.pod.namespace": "kube-system", "k8s:k8s-app": "kube-dns"}
    unique: list[object] = []
    for selector in selectors:
        if selector not in unique:
            unique.append(dict(selector))  # type: ignore[call-overload]
    return {
        "toEndpoints": [{"matchLabels": labels}],
        "toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": unique}}],
    }


def _grouped(field: str, items: Sequence[tuple[object, _Ports | None]]) -> list[dict[str, object]]:
    """One rule for each set of ports, in the order in which they were first given."""
    rules: dict[_Ports | None, list[object]] = {}
    for peer, ports in items:
        peers = rules.setdefault(ports, [])
        if peer not in peers:
            peers.append(peer)
    return [
        {field: peers} if ports is None else {field: peers, "toPorts": [{"ports": [ports.spec()]}]}
        for ports, peers in rules.items()
    ]


def _read_name(argument: str) -> tuple[dict[str, str], _Ports | None]:
    name, colon, rest = argument.partition(":")
    ports = _read_ports(rest, f"--allow {argument}") if colon else None
    try:
        if "*" in name:
            return {"matchPattern": pattern_selector(name).text}, ports
        return {"matchName": name_selector(name).text}, ports
    except InvalidName as error:
        hint = " (addresses are for --allow-cidr)" if "[" in name or "/" in name else ""
        raise InvalidAllow(f"--allow {argument}: {error}{hint}") from error


def _read_cidr(argument: str) -> tuple[str, _Ports | None]:
    where = f"--allow-cidr {argument}"
    if argument.startswith("["):
        cidr, bracket, rest = argument[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidAllow(f"{where}: should be [CIDR] or [CIDR]:PORT")
        port_text = rest.removeprefix(":") if rest else None
    elif argument.count(":") == 1:
        cidr, _, port_text = argument.partition(":")
    else:
        cidr, port_text = argument, None
    try:
        prefix = parse_cidr(cidr, bare_address=True)
    except ValueError as error:
        raise InvalidAllow(f"{where}: {error}") from error
    ports = _read_ports(port_text, where) if port_text is not None else None
    return str(prefix), ports


def _read_ports(text: str, where: str) -> _Ports:
    match = _PORTS.match(text)
    if match is None:
        raise InvalidAllow(f"{where}: {text!r} should be PORT, PORT-PORT or PORT/PROTO")
    first = int(match["first"])
    last = int(match["last"] or first)
    protocol = (match["protocol"] or "").upper()
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise InvalidAllow(f"{where}: ports go from 1 to 65535")
    if last < first:
        raise InvalidAllow(f"{where}: the range {text} ends before it begins")
    if protocol and protocol not in _PROTOCOLS:
        raise InvalidAllow(f"{where}: {match['protocol']!r} should be {', '.join(_PROTOCOLS)}")
    return _Ports(first, last, protocol)
