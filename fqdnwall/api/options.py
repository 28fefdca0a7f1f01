"""What a person asked for on the command line: parsed and checked once, then trusted.

``fqdnwall.cli`` fills these and calls ``fqdnwall.run.run(RunOptions)``,
``fqdnwall.agent.main(AgentOptions)`` or ``fqdnwall.agent.cleanup(CleanupOptions)``; none of those
imports the CLI.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from fqdnwall.api.sockets import DEFAULT_SOCKET


class OptionError(ValueError):
    """An option's value that is not valid; the message says why, ``hint`` what would be."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``fqdnwall run``."""

    command: tuple[str, ...]
    policies: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()
    """``NAME-OR-PATTERN[:PORT[/PROTO]]``, such as ``policies.allow_policy`` takes and has taken."""
    allow_cidr: tuple[str, ...] = ()
    """``CIDR[:PORT[/PROTO]]``, likewise."""
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
    kernel_dns: bool = True
    """False: every query goes through the proxy."""


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
