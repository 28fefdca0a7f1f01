"""What crosses the proxy's edge: the query, the question, the verdict, what was learned.

Everything here is plain and immutable. The agent gives the proxy a `Judge`, an `Installer`, an
`EndpointLookup` and, if it wants to watch, an `Observer`; the proxy knows nothing else of it.

Names are text in lower case without the closing dot ("www.example.com"; the root is "."). An octet
that a policy can never name (anything but letters, digits, hyphen and underscore) appears as
``\\DDD``, so that a dot inside a label is never taken for a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, runtime_checkable

Address = IPv4Address | IPv6Address
SocketAddress = tuple[str, int]  # address text, port in host order


class DnsProxyError(Exception):
    """Root of what this package raises on purpose."""


class InstallError(DnsProxyError):
    """The kernel did not take the learned addresses: the client gets SERVFAIL."""


class Transport(Enum):
    UDP = "udp"
    TCP = "tcp"

    # Members are singletons: hashing by identity spares a Python call for every table look-up.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Query:
    """One DNS message from a client, as it came off the wire.

    `server` is the address that the client asked, before any interception. `connection` numbers
    the client's TCP connection; 0 for a datagram. `endpoint` is None when nobody owns the source.
    """

    endpoint: int | None
    client: SocketAddress
    server: SocketAddress
    transport: Transport
    payload: bytes
    connection: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What policy judges. `qtype` is the IANA number."""

    endpoint: int
    server: SocketAddress
    transport: Transport
    qname: str
    qtype: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and the text of the rule that gave it (None: no rule did)."""

    allowed: bool
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """Addresses that an answer gave for the name that was asked.

    TTLs are seconds: the least along the CNAME chain, raised to the configured minimum.
    `cname_chain` holds the targets in order, the asked name left out. `latency_seconds` is the time
    from the query to the upstream's answer.
    """

    endpoint: int
    qname: str
    qtype: int
    addresses: tuple[tuple[Address, int], ...]
    cname_chain: tuple[str, ...]
    server: SocketAddress
    latency_seconds: float


class Failure(Enum):
    """Why an exchange ended without the upstream's answer, or a packet was not used."""

    MALFORMED_QUERY = "malformed query"
    UNKNOWN_CLIENT = "no endpoint has this source address"
    IN_FLIGHT = "too many queries in flight"
    IN_FLIGHT_ENDPOINT = "too many queries in flight for the endpoint"
    IN_FLIGHT_QUESTION = "too many copies of one question in flight"
    PENDING_BYTES = "too many bytes pending"
    FLOWS = "too many upstream sockets"
    UPSTREAM = "upstream failed"
    SILENCE = "upstream silent"
    MALFORMED_ANSWER = "malformed answer"
    TOO_MANY_ADDRESSES = "more addresses than the bound"
    INSTALL = "addresses not installed"
    CRASH = "bug in the proxy"


@dataclass(frozen=True, slots=True)
class Judged:
    """Recorded for each query that policy judged, before anything else happens to it."""

    question: Question
    client: SocketAddress
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Answered:
    """Recorded when the upstream's answer is released to the client."""

    question: Question
    client: SocketAddress
    rule: str | None
    rcode: int
    learned: Learned | None
    latency_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Recorded when an exchange ends in any other way; `question` is None if it was unreadable."""

    failure: Failure
    endpoint: int | None
    client: SocketAddress
    server: SocketAddress
    transport: Transport
    question: Question | None
    detail: str = ""


Record = Judged | Answered | Failed


class Judge(Protocol):
    """Policy. Called once for each well-formed query; must not block."""

    def judge(self, query: Question) -> Judgement: ...


class Installer(Protocol):
    """The way into the kernel's maps."""

    async def install(self, learned: Learned) -> None:
        """Return once the kernel holds the addresses; raise `InstallError` if it will not."""


@runtime_checkable
class InstantInstaller(Installer, Protocol):
    """An installer that can do without waiting, most of the time.

    Worth it: handing an answer to another task and back costs as much as all the rest.
    """

    def install_now(self, learned: Learned) -> bool:
        """Like `install`, but at once; False (and nothing done) if that would have to wait."""


class EndpointLookup(Protocol):
    """Whose source address it is. The datapath has verified that it is not forged."""

    def endpoint_of(self, address: str) -> int | None: ...


class Observer(Protocol):
    """A watcher of queries and outcomes. Must not block; what it raises is the agent's bug."""

    def record(self, event: Record) -> None: ...
