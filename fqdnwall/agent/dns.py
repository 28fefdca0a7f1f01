"""What the DNS proxy asks of the agent: whose query, may it be asked, install these addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from cachetools import LRUCache

from dnsproxy.model import (
    InstallError,
    Judgement,
    Learned,
    Question,
    SocketAddress,
    Transport,
)
from fqdnwall.agent.firewall import Firewall
from fqdnwall.agent.rulesets import NO_RULESET
from fqdnwall.datapath.maps import MapFull
from fqdnwall.endpoint.endpoint import Endpoint
from fqdnwall.fqdn.cache import Address
from fqdnwall.fqdn.ruleset import judge
from fqdnwall.identity.allocator import IdentitiesExhausted
from policies import Direction, DnsRuleSet, Identity, Protocol, Resolved, Verdict, lookup

_PROTOCOLS = {Transport.UDP: Protocol.UDP, Transport.TCP: Protocol.TCP}
RULE_SETS_KEPT = 4096
NAMES_JUDGED = 4096


@dataclass(frozen=True, slots=True)
class _Found:
    """The rules for one server, the number of their tree in the kernel, and what was judged."""

    dns: DnsRuleSet
    number: int
    judged: LRUCache[str, Judgement] = field(default_factory=lambda: LRUCache(NAMES_JUDGED))


class DnsPolicy:
    """Implements the proxy's ``Judge``, ``Installer`` and ``EndpointLookup``."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._rule_sets: LRUCache[
            tuple[int, SocketAddress, Transport], tuple[Resolved | None, _Found]
        ] = LRUCache(RULE_SETS_KEPT)

    def endpoint_of(self, address: str) -> int | None:
        return self._firewall.endpoint_ids.get(address)

    def judge(self, query: Question) -> Judgement:
        """By the rules of the entry that sent the query to the proxy."""
        endpoint = self._firewall.endpoints.get(query.endpoint)
        if endpoint is None:
            return Judgement(False)
        found = self._rule_set(endpoint, query.server, query.transport)
        known = found.judged.get(query.qname)
        if known is None:
            known = found.judged[query.qname] = self._judge(endpoint, found, query)
        return known

    def install_now(self, learned: Learned) -> bool:
        """The kernel's maps never make one wait. Raises InstallError."""
        try:
            self._firewall.learning.learn(learned.endpoint, learned.qname, learned.addresses)
        except (MapFull, IdentitiesExhausted, KeyError) as error:
            raise InstallError(f"{learned.qname}: {error}") from error
        return True

    async def install(self, learned: Learned) -> None:
        self.install_now(learned)

    def _judge(self, endpoint: Endpoint, found: _Found, query: Question) -> Judgement:
        """By the rules; and the kernel is taught what they say of the name."""
        rule = found.dns.decide(query.qname)
        if query.transport is Transport.UDP and endpoint.resolved and not endpoint.audit:
            answer = judge(found.dns, endpoint.resolved.fqdn_selectors, query.qname)
            self._firewall.rulesets.teach(found.number, query.qname, answer)
        if rule is None:
            return Judgement(endpoint.audit)
        return Judgement(True, str(rule))

    def _rule_set(self, endpoint: Endpoint, server: SocketAddress, transport: Transport) -> _Found:
        key = (endpoint.id, server, transport)
        known = self._rule_sets.get(key)
        if known is None or known[0] is not endpoint.resolved:
            known = (endpoint.resolved, self._find(endpoint, server, transport))
            self._rule_sets[key] = known
        return known[1]

    def _find(self, endpoint: Endpoint, server: SocketAddress, transport: Transport) -> _Found:
        resolved = endpoint.resolved
        if resolved is None:
            return _Found(DnsRuleSet(()), NO_RULESET)
        address, port = ip_address(server[0]), server[1]
        found = lookup(
            resolved.entries,
            self._candidates(endpoint, address),
            Direction.EGRESS,
            _PROTOCOLS[transport],
            port,
        )
        if found.verdict is not Verdict.REDIRECT or found.entry is None or not found.entry.l7_index:
            return _Found(DnsRuleSet(()), NO_RULESET)
        index = found.entry.l7_index - 1
        return _Found(resolved.dns[index], self._firewall.ruleset_of(resolved, index))

    def _candidates(self, endpoint: Endpoint, address: Address) -> list[Identity]:
        firewall = self._firewall
        scope = firewall.learning.scope(endpoint.id)
        slots = firewall.learning.cache.slots((scope, address))
        return [firewall.identity_of(address), *(Identity(i) for i, _ in slots)]
