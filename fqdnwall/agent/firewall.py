"""The firewall's state and its way into the kernel's maps.

``Firewall`` holds what is wanted (policies, endpoints, resolvers, host addresses, names learned)
and makes the maps say so. Every change runs the same steps, in an order in which no packet ever
meets an address whose identity its policy does not know:

    1. identities for every prefix and selector that the new policy speaks of
    2. these identities are added to the policies that are in force
    3. ipcache learns the new prefixes
    4. each endpoint's new policy is built beside the old one, and swapped in whole
    5. ipcache forgets the old prefixes, and identities that nothing holds are released

All calls are quick and never wait; none is safe to be called from two threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from fqdnwall.agent.learning import Learning
from fqdnwall.agent.rulesets import RuleSets
from fqdnwall.datapath.delta import delta
from fqdnwall.datapath.layouts import (
    EndpointAddress,
    EndpointFlag,
    EndpointInfo,
    EndpointRecord,
    IdentityRecord,
    PolicyKey,
    PolicyValue,
    address_bytes,
    bytes_address,
)
from fqdnwall.datapath.maps import Maps, Policies
from fqdnwall.endpoint.endpoint import Endpoint, Place, Subject, read_record
from fqdnwall.endpoint.policymap import RuleBook, audited_dns, kernel_entries
from fqdnwall.identity.allocator import (
    KUBE_DNS,
    RESERVED_IDENTITIES,
    Allocator,
    Scope,
    label_texts,
)
from fqdnwall.ipcache import desired as ipcache
from policies import (
    Identity,
    Label,
    Labels,
    Options,
    Policy,
    Resolved,
    RuleRef,
    cidr_labels,
    resolve,
    selected_by,
)
from policies import Subject as PolicySubject
from policies.identity import HOST, WORLD_IPV4, WORLD_IPV6

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
PolicyMap = dict[PolicyKey, PolicyValue]

AUDITED_DNS = RuleRef("", "", "audit: DNS is watched whether or not a rule asks for it")


@dataclass(frozen=True, slots=True)
class Settings:
    """``per_endpoint``: what one endpoint looked up opens nothing for another."""

    audit: bool = False
    per_endpoint: bool = True
    options: Options = field(default_factory=lambda: Options(allow_localhost=True))


class Firewall:
    """``clock`` gives seconds of the kernel's boot clock."""

    def __init__(self, maps: Maps, clock: Callable[[], float], settings: Settings) -> None:
        self.maps = maps
        self.settings = settings
        self.rules = RuleBook()
        self.policies: tuple[Policy, ...] = ()
        self.endpoints: dict[int, Endpoint] = {}
        self.revision = 1
        self._hosts: frozenset[Address] = frozenset()
        self._resolvers: dict[Address, Identity] = {}
        self._cidrs: dict[Network, Identity] = {}
        self._recorded: dict[Identity, Labels] = _recorded_identities(maps)
        self.allocator = Allocator({labels: i for i, labels in self._recorded.items()})
        self._installed_ipcache = dict(maps.ipcache.items())
        self._by_address: dict[Address, Endpoint] = {}
        self.endpoint_ids: dict[str, int] = {}
        """By address, as text: asked once for every query."""
        self._batches = 0
        self.rulesets = RuleSets(maps.dns_names, self.rules, self.add_identity)
        self.rulesets.start_after(_last_ruleset(maps))
        self.learning = Learning(self, clock)

    # ---- what is wanted ----

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Several changes that the maps see as one."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
        self._apply()

    def set_policies(self, policies: Sequence[Policy]) -> None:
        """Put these policies in force, all of them at once. Raises MapFull, Unenforceable."""
        self.policies = tuple(policies)
        self.revision += 1
        self._apply()

    def set_hosts(self, addresses: Iterable[Address]) -> None:
        """The host's own addresses."""
        hosts = frozenset(addresses)
        if hosts != self._hosts:
            self._hosts = hosts
            self._apply()

    def set_resolvers(self, addresses: Iterable[Address]) -> None:
        """The resolvers that stand for the cluster's DNS outside a cluster."""
        self._resolvers = {
            address: self.allocator.allocate(_resolver_labels(address), Scope.LOCAL)
            for address in addresses
        }
        self._apply()

    def add(self, subject: Subject, place: Place, endpoint_id: int = 0) -> Endpoint:
        """Guard an endpoint: policy and addresses are in the maps when this returns.

        The caller attaches the programs after that. Raises MapFull, IdentitiesExhausted.
        """
        number = endpoint_id or max(self.endpoints, default=0) + 1
        identity = self.allocator.allocate(subject.identity_labels(), Scope.CLUSTER)
        endpoint = Endpoint(number, subject, place, identity, audit=self.settings.audit)
        known = self.maps.endpoints.get(place.ifindex)
        if known is not None and known.id == number:
            endpoint.generation = known.generation + 1
        self.endpoints[number] = endpoint
        self._by_address |= dict.fromkeys(place.addresses, endpoint)
        self.maps.records.put(number, EndpointRecord(endpoint.record()))
        try:
            self._apply()
        except Exception:
            self.remove(number)
            raise
        return endpoint

    def remove(self, endpoint_id: int) -> None:
        """Forget an endpoint; its programs are detached before."""
        endpoint = self.endpoints.pop(endpoint_id)
        for address in endpoint.place.addresses:
            self._by_address.pop(address, None)
            self.endpoint_ids.pop(str(address), None)
            self.maps.disown(EndpointAddress(endpoint.id, address_bytes(address)))
        self.maps.endpoints.delete(endpoint.place.ifindex)
        self.maps.policies.delete(endpoint.id)
        self.maps.records.delete(endpoint.id)
        self.learning.forget_endpoint(endpoint.id)
        if endpoint.policy_fd >= 0:
            os.close(endpoint.policy_fd)
        self._apply()

    def forget_strangers(self) -> None:
        """Take endpoints off the maps that are none of ours: their interfaces are gone."""
        for ifindex, info in list(self.maps.endpoints.items()):
            if info.id not in self.endpoints:
                self.maps.endpoints.delete(ifindex)
                self.maps.policies.delete(info.id)
                self.maps.records.delete(info.id)
        self.rulesets.forget_strangers()
        for owned in self.maps.owned():
            endpoint = self.endpoints.get(owned.endpoint)
            if endpoint is None or bytes_address(owned.address) not in endpoint.place.addresses:
                self.maps.disown(owned)

    def recorded_endpoints(self) -> dict[int, tuple[Subject, Place]]:
        """Those that an earlier agent guarded, from the maps."""
        found = {}
        for number, record in self.maps.records.items():
            try:
                found[number] = read_record(record.json)
            except (ValueError, KeyError):
                continue
        return found

    # ---- questions ----

    def ruleset_of(self, resolved: Resolved, index: int) -> int:
        """The number of the tree for one of the policy's DNS rule sets."""
        return self.rulesets.number(resolved.dns[index], resolved.fqdn_selectors)

    def endpoint_of(self, address: Address) -> Endpoint | None:
        return self._by_address.get(address)

    def identity_of(self, address: Address) -> Identity:
        """As the kernel finds it in ipcache, learned names apart."""
        value = self.maps.ipcache.get(ipcache.key_of(ip_network(address)))
        if value is not None:
            return Identity(value.identity)
        return WORLD_IPV4 if address.version == 4 else WORLD_IPV6

    def adopted_identities(self) -> list[tuple[Identity, Labels]]:
        """Those that an earlier agent recorded, in use again from now on."""
        adopted = list(self._recorded.items())
        for _, labels in adopted:
            self.allocator.allocate(labels, Scope.LOCAL)
        return adopted

    # ---- making the maps say so ----

    def add_identity(self, labels: Labels) -> Identity:
        """A node-local identity that policies in force know when this returns."""
        known = self.allocator.find(labels)
        if known is not None:
            return known
        identity = self.allocator.allocate(labels, Scope.LOCAL)
        self._extend()
        self._record_identities()
        return identity

    def _apply(self) -> None:
        if self._batches:
            return
        before = set(self.allocator.identities)
        self._allocate()
        if before != set(self.allocator.identities):
            self._extend()
        self._record_identities()
        self._sync_ipcache(forget=False)
        for endpoint in self.endpoints.values():
            self._regenerate(endpoint)
        self._sync_ipcache(forget=True)
        self.learning.policies_changed()
        self.rulesets.keep_only(
            {value.ruleset for e in self.endpoints.values() for value in e.entries.values()}
        )
        self._release()

    def _select(self, endpoint: Endpoint) -> tuple[Policy, ...]:
        labels = endpoint.subject.identity_labels()
        namespace = endpoint.subject.namespace
        return tuple(p for p in self.policies if selected_by(p, labels, namespace))

    def _resolve(self, endpoint: Endpoint, policies: Sequence[Policy]) -> Resolved:
        subject = PolicySubject(endpoint.subject.identity_labels(), endpoint.subject.namespace)
        return resolve(policies, subject, self.allocator.identities, self.settings.options)

    def _allocate(self) -> None:
        """Identities for all that the endpoints' policies speak of."""
        prefixes: set[Network] = set()
        for endpoint in self.endpoints.values():
            resolved = self._resolve(endpoint, self._select(endpoint))
            prefixes.update(resolved.cidrs)
            for labels in self.learning.expected_labels(resolved):
                self.allocator.allocate(labels, Scope.LOCAL)
        self._cidrs = {
            prefix: self.allocator.allocate(cidr_labels(prefix), Scope.LOCAL)
            for prefix in sorted(prefixes, key=lambda p: (p.version, p))
        }

    def _extend(self) -> None:
        """Add what new identities need to the policies in force; nothing else changes."""
        for endpoint in self.endpoints.values():
            if endpoint.policy_fd < 0:
                continue
            resolved = self._resolve(endpoint, endpoint.policies)
            entries = self._entries(endpoint, resolved)
            change = delta(entries, endpoint.entries)
            if not change.only_adds(endpoint.entries):
                self._swap(endpoint, entries)
            elif change:
                Policies.add(endpoint.policy_fd, change.put.items())
            endpoint.resolved = resolved
            endpoint.entries = entries

    def _regenerate(self, endpoint: Endpoint) -> None:
        policies = self._select(endpoint)
        resolved = self._resolve(endpoint, policies)
        entries = self._entries(endpoint, resolved)
        if entries != endpoint.entries or endpoint.policy_fd < 0:
            self._swap(endpoint, entries)
        enforcing = endpoint.resolved is None or endpoint.resolved.enforcing != resolved.enforcing
        endpoint.policies, endpoint.resolved, endpoint.entries = policies, resolved, entries
        endpoint.revision = self.revision
        if enforcing or self.maps.endpoints.get(endpoint.place.ifindex) is None:
            endpoint.generation += 1
        self._write_endpoint(endpoint)

    def _entries(self, endpoint: Endpoint, resolved: Resolved) -> PolicyMap:
        entries = kernel_entries(
            resolved, self.rules, lambda index: self.ruleset_of(resolved, index)
        )
        if endpoint.audit:
            entries = dict(audited_dns(self.rules.number(AUDITED_DNS))) | entries
        return entries

    def _swap(self, endpoint: Endpoint, entries: PolicyMap) -> None:
        """A new policy in place of the old one; flows are judged anew by it."""
        fd = Policies.build(entries.items())
        try:
            self.maps.policies.set(endpoint.id, fd)
        except OSError:
            os.close(fd)
            raise
        if endpoint.policy_fd >= 0:
            os.close(endpoint.policy_fd)
        endpoint.policy_fd = fd
        endpoint.generation += 1

    def _write_endpoint(self, endpoint: Endpoint) -> None:
        resolved = endpoint.resolved
        assert resolved is not None
        flags = EndpointFlag(0)
        if resolved.enforcing.ingress:
            flags |= EndpointFlag.ENFORCE_INGRESS
        if resolved.enforcing.egress:
            flags |= EndpointFlag.ENFORCE_EGRESS
        if endpoint.audit:
            flags |= EndpointFlag.AUDIT
        for address in endpoint.place.addresses:
            self.maps.own(EndpointAddress(endpoint.id, address_bytes(address)))
        self.maps.endpoints.put(
            endpoint.place.ifindex,
            EndpointInfo(
                id=endpoint.id,
                identity=endpoint.identity,
                scope=self.learning.scope(endpoint.id),
                generation=endpoint.generation & 0xFFFFFFFF,
                flags=flags,
            ),
        )

    def _sync_ipcache(self, *, forget: bool) -> None:
        wanted = ipcache.desired(
            self._cidrs,
            self._hosts,
            HOST,
            {address: e.identity for address, e in self._by_address.items()},
            self._resolvers,
        )
        change = delta(wanted, self._installed_ipcache)
        for key, value in change.put.items():
            self.maps.ipcache.put(key, value)
        self._installed_ipcache |= change.put
        if forget:
            for key in change.delete:
                self.maps.ipcache.delete(key)
                del self._installed_ipcache[key]

    def _release(self) -> None:
        """Give back the numbers that nothing refers to."""
        held: set[int] = {*RESERVED_IDENTITIES, *self._cidrs.values(), *self._resolvers.values()}
        held |= {endpoint.identity for endpoint in self.endpoints.values()}
        held |= self.learning.identities_held() | self.rulesets.identities_held()
        for identity in [i for i in self.allocator.identities if i not in held]:
            self.allocator.release(identity)
        self._record_identities()

    def _record_identities(self) -> None:
        """Keep the numbers beside the maps that hold them."""
        wanted = {
            identity: labels
            for identity, labels in self.allocator.identities.items()
            if identity not in RESERVED_IDENTITIES
        }
        change = delta(wanted, self._recorded)
        for identity, labels in change.put.items():
            text = json.dumps(label_texts(labels)).encode()
            if len(text) <= IdentityRecord.size():
                self.maps.identities.put(identity, IdentityRecord(text))
        for identity in change.delete:
            self.maps.identities.delete(identity)
        self._recorded = wanted


def _resolver_labels(address: Address) -> Labels:
    """A resolver is what cluster DNS policies select, and the address that it is."""
    prefix = IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)
    return KUBE_DNS | cidr_labels(prefix)


def _recorded_identities(maps: Maps) -> dict[Identity, Labels]:
    found: dict[Identity, Labels] = {}
    for number, record in maps.identities.items():
        try:
            texts = json.loads(record.json.rstrip(b"\0"))
            found[Identity(number)] = frozenset(_parse(text) for text in texts)
        except ValueError:
            continue
    return found


def _last_ruleset(maps: Maps) -> int:
    """The highest number that an earlier agent's trees have."""
    return max((key.ruleset for key, _ in maps.dns_names.items()), default=0)


def _parse(text: str) -> Label:
    """As ``str(Label)`` wrote it: sources hold no colon, keys of CIDR and FQDN labels do."""
    source, _, rest = text.partition(":")
    if source in ("cidr", "fqdn", "reserved"):
        return Label(source, rest)
    key, _, value = rest.partition("=")
    return Label(source, key, value)
