"""The report of a guarded command: what it asked for, reached, and was refused.

``fqdnwall run`` prints it at the end and on SIGUSR1, ``--report`` writes it as JSON, and
``fqdnwall policy suggest`` reads it. Entries are grouped and counted, so that its size follows the
number of distinct destinations and never the number of packets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fqdnwall.api.models import Direction, Problem

FORMAT = "fqdnwall.report/1"
"""Changes when a reader of the old format would misread the new one."""


class QueryOutcome(StrEnum):
    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"
    """Allowed, and no answer came from upstream."""
    AUDITED = "audited"
    """Would have been refused, and was let through because of audit mode."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom the policy was about."""

    name: str
    namespace: str
    labels: tuple[str, ...]
    """``source:key=value``"""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryCount:
    """DNS queries of one name, type and outcome."""

    name: str
    qtype: str
    outcome: QueryOutcome
    count: int
    rule: str = ""
    """The rule that allowed it; empty when none did."""
    server: str = ""
    """The resolver that was asked, or its labels."""


@dataclass(frozen=True, slots=True)
class LearnedAddress:
    address: str
    ttl: int
    """Seconds, when it was last learned."""
    expires_at: str = ""


@dataclass(frozen=True, slots=True)
class LearnedName:
    name: str
    addresses: tuple[LearnedAddress, ...]
    selectors: tuple[str, ...] = ()
    """The policy's selectors that the name matches."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Flows to (or, ingress, from) one peer, port and protocol that were allowed."""

    address: str
    port: int
    """For ICMP, the type."""
    protocol: str
    connections: int
    packets: int
    bytes: int
    direction: Direction = Direction.EGRESS
    names: tuple[str, ...] = ()
    """Names under which the address was learned."""
    labels: tuple[str, ...] = ()
    """Of the peer's identity."""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Drops:
    """Packets to (or, ingress, from) one peer, port and protocol dropped for one reason."""

    address: str
    port: int
    """For ICMP, the type."""
    protocol: str
    reason: str
    reason_code: int
    packets: int
    direction: Direction = Direction.EGRESS
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    rule: str = ""
    """The deny rule; empty when it is only that no rule allows it."""
    first_at: str = ""
    last_at: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    subject: Subject
    command: tuple[str, ...]
    started_at: str
    ended_at: str
    """The time of the report itself while the command runs."""
    version: str = ""
    format: str = FORMAT
    exit_status: int | None = None
    """``None`` while the command runs."""
    audit: bool = False
    policies: tuple[str, ...] = ()
    queries: tuple[QueryCount, ...] = ()
    names: tuple[LearnedName, ...] = ()
    connections: tuple[Connections, ...] = ()
    drops: tuple[Drops, ...] = ()
    would_drop: tuple[Drops, ...] = ()
    """In audit mode: what passed and would have been dropped."""
    events_lost: int = 0
    """Of what follows from events (connections, drops) so many are missing."""
    omitted: Mapping[str, int] = field(default_factory=dict)
    """Distinct entries beyond the report's bounds, by the name of their list."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time of the start went, by step; ``first_packet`` is the whole of it."""
    problems: tuple[Problem, ...] = ()
