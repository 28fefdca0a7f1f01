"""What policy looks like in the kernel, and the pure reference of how the kernel reads it.

``precedence`` is Cilium's: ``(0xFFFFFF - priority) << 8 | low``, where ``low`` is 255 for a
denial, 255 minus the proxy's priority for a redirect, 1 for a plain permission. Invariant of a
table of entries: one that is covered by another with a higher precedence is not in it, so that the
kernel finds the verdict with two longest-prefix lookups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from policies.identity import ANY_IDENTITY, Direction, Identity
from policies.l4 import L4
from policies.labels import Network
from policies.model import HttpRule, PortRule
from policies.names import NameSelector

MAX_PRIORITY: Final = 0xFFFFFF
DENY_LOW: Final = 255
ALLOW_LOW: Final = 1
PASS_LOW: Final = 0


class Verdict(Enum):
    """What happens to a packet: REDIRECT hands it to a proxy that decides on its content."""

    ALLOW = "allow"
    DENY = "deny"
    REDIRECT = "redirect"


class ProxyKind(Enum):
    """Which proxy a redirect is for."""

    NONE = "none"
    DNS = "dns"
    HTTP = "http"
    GENERIC = "l7proto"
    TLS = "tls"
    LISTENER = "listener"


PROXY_PRIORITY: Final = {
    ProxyKind.HTTP: 101,
    ProxyKind.GENERIC: 111,
    ProxyKind.TLS: 116,
    ProxyKind.DNS: 121,
    ProxyKind.LISTENER: 126,
}
"""Priorities of redirects, lower first, as the reference engine's parsers have them."""


def precedence(priority: int, low: int) -> int:
    """The kernel's u32: a smaller ``priority`` (0 to 0xFFFFFF) wins, then a larger ``low``."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise ValueError(f"priority {priority} does not fit 24 bits")
    return (MAX_PRIORITY - priority) << 8 | low


@dataclass(frozen=True, slots=True)
class RuleRef:
    """A rule as people find it again. ``text`` is one line that says which it is."""

    policy: str
    path: str
    text: str
    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        return self.text


NO_RULE: Final = RuleRef("", "", "no rule")


@dataclass(frozen=True, slots=True)
class DnsRuleSet:
    """Names that may be asked of one server, with the rule that allows each selector."""

    allowed: tuple[tuple[NameSelector, RuleRef], ...]

    @property
    def selectors(self) -> tuple[NameSelector, ...]:
        return tuple(selector for selector, _ in self.allowed)

    def decide(self, qname: str) -> RuleRef | None:
        """The first rule that allows asking for ``qname``; None when none does."""
        for selector, rule in self.allowed:
            if selector.matches(qname):
                return rule
        return None


@dataclass(frozen=True, slots=True)
class HttpRuleSet:
    """Requests that may be made; an empty HttpRule allows all."""

    allowed: tuple[tuple[HttpRule, RuleRef], ...]


@dataclass(frozen=True, slots=True)
class ProxyRuleSet:
    """Port rules for a proxy of another kind, as they were written."""

    allowed: tuple[tuple[PortRule, RuleRef], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a policy map. ``port`` is the ICMP type where the protocol is ICMP or ICMPv6.

    ``port_prefix``: how many leading bits of ``port`` count, 0 for every port. ``l7_index`` is 1
    more than the index into the rule sets of ``proxy``'s kind in Resolved; 0 without a proxy.
    """

    identity: Identity
    direction: Direction
    protocol: int
    port: int
    port_prefix: int
    verdict: Verdict
    precedence: int
    proxy: ProxyKind = ProxyKind.NONE
    l7_index: int = 0
    rule_id: int = 0

    @property
    def l4(self) -> L4:
        return L4(self.protocol, self.port, self.port_prefix)

    @property
    def key(self) -> tuple[int, int, int, int, int]:
        return self.direction, self.identity, self.protocol, self.port_prefix, self.port


@dataclass(frozen=True, slots=True)
class Enforcing:
    """For which directions packets are judged at all."""

    ingress: bool
    egress: bool

    def of(self, direction: Direction) -> bool:
        return self.egress if direction is Direction.EGRESS else self.ingress


@dataclass(frozen=True, slots=True)
class Resolved:
    """The policy of one subject, in the kernel's form.

    ``rules[entry.rule_id]`` is the rule that decided an entry; ``rules[0]`` stands for none.
    ``ip_blocks``: prefixes for which addresses of pods and nodes need an identity of their own: the
    pod's or node's labels and those of ``ip_block_labels`` for the longest prefix that holds it.
    """

    entries: tuple[Entry, ...]
    enforcing: Enforcing
    fqdn_selectors: tuple[NameSelector, ...] = ()
    dns: tuple[DnsRuleSet, ...] = ()
    http: tuple[HttpRuleSet, ...] = ()
    proxies: tuple[ProxyRuleSet, ...] = ()
    cidrs: tuple[Network, ...] = ()
    ip_blocks: tuple[Network, ...] = ()
    rules: tuple[RuleRef, ...] = (NO_RULE,)

    def rule_of(self, entry: Entry) -> RuleRef:
        return self.rules[entry.rule_id]

    def rule_set_of(self, entry: Entry) -> DnsRuleSet | HttpRuleSet | ProxyRuleSet | None:
        """The layer 7 rules of a REDIRECT entry."""
        if not entry.l7_index:
            return None
        if entry.proxy is ProxyKind.DNS:
            return self.dns[entry.l7_index - 1]
        if entry.proxy is ProxyKind.HTTP:
            return self.http[entry.l7_index - 1]
        return self.proxies[entry.l7_index - 1]


@dataclass(frozen=True, slots=True)
class Lookup:
    """The kernel's answer: the entry that decided; without one the packet is dropped."""

    verdict: Verdict
    entry: Entry | None = None


def lookup(
    entries: Iterable[Entry],
    identity_candidates: Sequence[Identity],
    direction: Direction,
    protocol: int,
    port: int,
) -> Lookup:
    """What the kernel decides for a new flow with these entries.

    ``identity_candidates`` are the identity that the ipcache gives the peer and those that were
    learned for its address. For each the kernel makes two lookups, exact identity and identity 0;
    the highest precedence wins, then the longer port prefix, then the exact identity.
    ``port`` is the destination port, or the ICMP type.
    """
    wanted = {ANY_IDENTITY, *identity_candidates}
    longest: dict[Identity, Entry] = {}
    for entry in entries:
        if entry.direction is not direction or entry.identity not in wanted:
            continue
        l4 = entry.l4
        if l4.has(protocol, port):
            best = longest.get(entry.identity)
            if best is None or l4.length > best.l4.length:
                longest[entry.identity] = entry
    if not longest:
        return Lookup(Verdict.DENY)
    found = max(longest.values(), key=_rank)
    return Lookup(found.verdict, found)


def _rank(entry: Entry) -> tuple[int, int, bool]:
    return entry.precedence, entry.l4.length, entry.identity != ANY_IDENTITY
