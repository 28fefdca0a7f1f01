"""``toPorts`` and ``icmps`` of a Cilium rule: ports, ICMP types and what a proxy must check."""

from __future__ import annotations

import re
from typing import Final

from policies.ciliuml7 import read_l7, read_listener, read_tls
from policies.identity import DNS_PROTOCOLS, PORTLESS_PROTOCOLS, Direction, Protocol
from policies.model import DnsRules, PortRule, PortSpec
from policies.reader import Field

MAX_PORTS: Final = 40
MAX_ICMP_FIELDS: Final = 40

_PROTOCOLS: Final = {
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
    "SCTP": Protocol.SCTP,
    "VRRP": Protocol.VRRP,
    "IGMP": Protocol.IGMP,
    "ANY": Protocol.ANY,
}

_SERVICE_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\Z")
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,4})\Z")

_ICMP_TYPES: Final = {
    Protocol.ICMP: {
        "EchoReply": 0,
        "DestinationUnreachable": 3,
        "Redirect": 5,
        "Echo": 8,
        "EchoRequest": 8,
        "RouterAdvertisement": 9,
        "RouterSelection": 10,
        "TimeExceeded": 11,
        "ParameterProblem": 12,
        "Timestamp": 13,
        "TimestampReply": 14,
        "Photuris": 40,
        "ExtendedEcho Request": 42,
        "ExtendedEcho Reply": 43,
    },
    Protocol.ICMPV6: {
        "DestinationUnreachable": 1,
        "PacketTooBig": 2,
        "TimeExceeded": 3,
        "ParameterProblem": 4,
        "EchoRequest": 128,
        "EchoReply": 129,
        "MulticastListenerQuery": 130,
        "MulticastListenerReport": 131,
        "MulticastListenerDone": 132,
        "RouterSolicitation": 133,
        "RouterAdvertisement": 134,
        "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136,
        "RedirectMessage": 137,
        "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139,
        "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141,
        "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144,
        "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147,
        "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160,
        "ExtendedEchoReply": 161,
    },
}


def read_port_rules(at: Field, direction: Direction, deny: bool) -> tuple[PortRule, ...]:
    """``toPorts``. Deny rules have ports only."""
    return tuple(_port_rule(item, direction, deny) for item in at.items())


def _port_rule(at: Field, direction: Direction, deny: bool) -> PortRule:
    layer7 = (
        "rules",
        "serverNames",
        "terminatingTLS",
        "originatingTLS",
        "listener",
    )
    members = at.fields(("ports",) if deny else ("ports", *layer7))
    items = members["ports"].items(at_most=MAX_PORTS) if "ports" in members else []
    l7 = read_l7(members["rules"]) if "rules" in members else None
    ports = tuple(
        port for item in items if (port := _port(item, isinstance(l7, DnsRules))) is not None
    )
    names = _server_names(members["serverNames"]) if "serverNames" in members else ()
    terminating = read_tls(members["terminatingTLS"]) if "terminatingTLS" in members else None
    originating = read_tls(members["originatingTLS"]) if "originatingTLS" in members else None
    listener = read_listener(members["listener"]) if "listener" in members else None
    if isinstance(l7, DnsRules):
        if direction is Direction.INGRESS:
            members["rules"].error("dns rules are for egress only")
        if not items:
            members["rules"].error("dns rules need a port, such as 53")
    if l7 is not None:
        _check_l7_ports(members["rules"], ports, isinstance(l7, DnsRules))
    if names and l7 is not None and terminating is None:
        members["serverNames"].error("cannot stand beside rules without terminatingTLS")
    if listener is not None and direction is Direction.INGRESS:
        members["listener"].error("is for egress only")
    if listener is not None and l7 is not None:
        members["listener"].error("cannot stand beside rules")
    return PortRule(at.path, at.line, ports, l7, names, terminating, originating, listener)


def _check_l7_ports(at: Field, ports: tuple[PortSpec, ...], dns: bool) -> None:
    for port in ports:
        if port.first == 0 and not port.name:
            at.error("cannot be used with port 0; name the port")
        elif dns and port.protocol not in (Protocol.ANY, *DNS_PROTOCOLS):
            at.error(f"dns rules go with UDP and TCP, not {port.protocol.name}")
        elif not dns and port.protocol is not Protocol.TCP:
            at.error(f"can only be used with protocol TCP, not {port.protocol.name}")


def _port(at: Field, dns: bool) -> PortSpec | None:
    members = at.fields(("port", "endPort", "protocol"))
    protocol = Protocol.ANY
    if "protocol" in members:
        text = members["protocol"].one_of(_PROTOCOLS)
        protocol = _PROTOCOLS[text] if text is not None else Protocol.ANY
    last = members["endPort"].integer(0, 65535) if "endPort" in members else None
    if "port" not in members:
        at.error("needs port")
        return None
    text = members["port"].string()
    if text is None:
        return None
    if _SERVICE_NAME.match(text):
        return _named_port(members, text, protocol)
    if not _NUMBER.match(text) or int(text) > 65535:
        members["port"].error(
            f"{text!r} is not a port: it should be a number from 0 to 65535 or a port's name"
        )
        return None
    first = int(text)
    if protocol in PORTLESS_PROTOCOLS and (first or last):
        members["port"].error(f'{protocol.name} has no ports; write "0"')
    return _numbered_port(members, protocol, first, last or 0, dns)


def _named_port(members: dict[str, Field], text: str, protocol: Protocol) -> PortSpec:
    if "endPort" in members:
        members["endPort"].error("cannot follow a port's name")
    if protocol in PORTLESS_PROTOCOLS:
        members["port"].error(f'{protocol.name} has no ports; write "0"')
    return PortSpec(protocol, name=text.lower())


def _numbered_port(
    members: dict[str, Field], protocol: Protocol, first: int, last: int, dns: bool
) -> PortSpec:
    if first == 0:
        if last:
            members["endPort"].error("cannot follow port 0, which means every port")
        return PortSpec(protocol)
    if last and last < first:
        members["endPort"].error(f"{last} is below the port {first}")
    if dns and last > first:
        members["endPort"].error("dns rules do not take port ranges")
    return PortSpec(protocol, first, max(first, last))


def _server_names(at: Field) -> tuple[str, ...]:
    found = []
    for item in at.items():
        text = item.string(at_most=255)
        if text == "":
            item.error("a server name cannot be empty")
        elif text is not None and not _SERVER_NAME.match(text):
            item.error(f"{text!r} is not a server name")
        elif text is not None:
            found.append(text.lower())
    return tuple(found)


_SERVER_NAME = re.compile(r"[-a-zA-Z0-9_*]+(?:\.[-a-zA-Z0-9_*]+)*\.?\Z")


def read_icmps(at: Field) -> tuple[PortRule, ...]:
    """``icmps``: each field one ICMP type, with the type in the place of the port."""
    found = []
    for item in at.items():
        members = item.fields(("fields",))
        fields = members["fields"].items(at_most=MAX_ICMP_FIELDS) if "fields" in members else []
        specs = tuple(spec for field in fields if (spec := _icmp_field(field)) is not None)
        found.append(PortRule(item.path, item.line, specs))
    return tuple(found)


def _icmp_field(at: Field) -> PortSpec | None:
    members = at.fields(("family", "type"))
    family = members["family"].one_of(("IPv4", "IPv6")) if "family" in members else "IPv4"
    protocol = Protocol.ICMPV6 if family == "IPv6" else Protocol.ICMP
    if "type" not in members:
        at.error("needs type")
        return None
    kind = members["type"]
    if kind.is_text:
        number = _ICMP_TYPES[protocol].get(kind.string() or "")
        if number is None:
            kind.error(f"{kind.string()!r} is not the name of an {protocol.name} type")
            return None
    else:
        number = kind.integer(0, 255)
        if number is None:
            return None
    return PortSpec(protocol, number, number)
