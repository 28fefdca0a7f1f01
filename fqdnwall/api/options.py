"""What a person asked for on the command line: parsed and checked once, then trusted.

``fqdnwall.cli`` fills these and calls ``fqdnwall.run.run(RunOptions)``,
``fqdnwall.agent.main(AgentOptions)`` or ``fqdnwall.agent.cleanup(CleanupOptions)``; none of those
imports the CLI.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from fqdnwall.api.sockets import DEFAULT_SOCKET

PROTOCOLS = ("TCP", "UDP", "SCTP", "ANY")

_PORT = re.compile(r":(?P<port>[^:/]*)(?:/(?P<protocol>[^:/]*))?\Z")
_NAME = re.compile(r"[-a-zA-Z0-9_.*]+\Z")


class OptionError(ValueError):
    """An option's value that is not valid; the message says why, ``hint`` what would be."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class PortRule:
    """``port`` 0 is any port; ``protocol`` ``ANY`` is TCP, UDP and SCTP, as in Cilium."""

    port: int = 0
    protocol: str = "ANY"


@dataclass(frozen=True, slots=True)
class AllowName:
    """``--allow NAME-OR-PATTERN[:PORT[/PROTO]]``."""

    text: str
    """A matchName, or a matchPattern when it holds a star. As typed."""
    ports: PortRule = field(default_factory=PortRule)

    @property
    def is_pattern(self) -> bool:
        return "*" in self.text


@dataclass(frozen=True, slots=True)
class AllowCidr:
    """``--allow-cidr CIDR[:PORT[/PROTO]]``."""

    prefix: IPv4Network | IPv6Network
    ports: PortRule = field(default_factory=PortRule)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``fqdnwall run``."""

    command: tuple[str, ...]
    policies: tuple[Path, ...] = ()
    allow: tuple[AllowName, ...] = ()
    allow_cidr: tuple[AllowCidr, ...] = ()
    audit: bool = False
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()
    """Empty: those of the host."""
    quiet: bool = False
    """No report on stderr."""
    report: Path | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """(key, value); the key may carry its source: ``k8s:app``."""
    namespace: str = "default"
    socket: Path | None = None
    """None: ``RUN_DIR/<pid>.sock``."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """``fqdnwall agent``."""

    policy_dir: Path
    config: Path | None = None
    socket: Path = DEFAULT_SOCKET
    audit: bool = False
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class CleanupOptions:
    """``fqdnwall cleanup``, for the agent that serves or served this socket."""

    socket: Path = DEFAULT_SOCKET


def parse_allow(text: str) -> AllowName:
    """``NAME-OR-PATTERN[:PORT[/PROTO]]``. Raises OptionError.

    Only the characters are checked here; whether the name or pattern is valid is for
    ``policies`` to say.
    """
    name, ports = _split_ports(text)
    if not name:
        raise OptionError(f"{text!r} names nothing", "write NAME-OR-PATTERN[:PORT[/PROTO]]")
    if _is_address(name):
        raise OptionError(f"{text!r} is an address", "addresses are allowed by --allow-cidr")
    if not _NAME.match(name):
        raise OptionError(
            f"{name!r} is not a name or pattern",
            "letters, digits, '-', '_', '.' and '*' only, such as 'api.example.com:443/TCP'",
        )
    return AllowName(name, ports)


def parse_allow_cidr(text: str) -> AllowCidr:
    """``CIDR[:PORT[/PROTO]]``; an IPv6 address before a port stands in brackets, or has its prefix
    length: ``[2001:db8::1]:443``, ``2001:db8::/32:443``. Raises OptionError."""
    whole = _prefix_or_none(text)
    if whole is not None:
        return AllowCidr(whole)
    address, ports = _split_ports(text)
    bare = address.replace("[", "", 1).replace("]", "", 1) if address.startswith("[") else address
    prefix = _prefix_or_none(bare)
    if prefix is None:
        raise OptionError(
            f"{text!r} is not a CIDR",
            "write CIDR[:PORT[/PROTO]], such as '10.0.0.0/8:443/TCP' or '[2001:db8::1]:443'",
        )
    return AllowCidr(prefix, ports)


def parse_resolver(text: str) -> IPv4Address | IPv6Address:
    """An IP address. Raises OptionError."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise OptionError(
            f"{text!r} is not an IP address", "resolvers are given by address, such as '9.9.9.9'"
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise OptionError(f"{text!r} is no resolver's address", "give a unicast address")
    return address


def parse_label(text: str) -> tuple[str, str]:
    """``k=v``, or ``k`` with an empty value. Raises OptionError."""
    key, _, value = text.partition("=")
    if not key or any(c.isspace() for c in text):
        raise OptionError(f"{text!r} is not a label", "write KEY=VALUE, such as 'app=web'")
    return key, value


def _split_ports(text: str) -> tuple[str, PortRule]:
    found = _PORT.search(text)
    if found is None:
        return text, PortRule()
    port, protocol = found["port"], found["protocol"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise OptionError(
            f"{port!r} in {text!r} is not a port", "ports are numbers from 1 to 65535"
        )
    if protocol is not None and protocol.upper() not in PROTOCOLS:
        raise OptionError(
            f"{protocol!r} in {text!r} is not a protocol", f"one of {', '.join(PROTOCOLS)}"
        )
    return text[: found.start()], PortRule(int(port), (protocol or "ANY").upper())


def _prefix_or_none(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" not in str(error):
            return None
        network = ipaddress.ip_network(text, strict=False)
        raise OptionError(
            f"{text!r} has bits set beyond its prefix", f"write {str(network)!r}"
        ) from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text.startswith("[")
    return True
