"""The firewall's state and its way into the kernel's maps.

``Firewall`` holds what is wanted (policies, endpoints, resolvers, host addresses, names learned)
and makes the maps say so. Every change runs the same steps, in an order in which no packet ever
meets an address whose identity its policy does not know:

    1. identities for every prefix, endpoint and selector that is spoken of now
    2. addresses that get another identity have one meanwhile that policies in force judge as the
       old one, and those that come as the new one (``moves``); names have both
    3. each new policy is built beside the old one, and swapped in whole
    4. addresses have their new identities alone, ipcache forgets the old prefixes, names their
       former identities, and identities that nothing holds are released

Until step 3 the verdict on every packet is the old policy's, after it the new one's. Trees of names
are whole in the kernel before a policy refers to them (``rulesets``).

A change that the maps have no room for leaves the former state in force, and raises MapFull.
All calls are quick and never wait; none is safe to be called from two threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from fqdnwall.agent.inforce import PoliciesInForce, PolicyMap, by_identity
from fqdnwall.agent.learning import Learning
from fqdnwall.agent.moves import Move, Ways, is_outside, moves, own_labels
from fqdnwall.agent.recorded import Recorder
from fqdnwall.agent.rulesets import RuleSets
from fqdnwall.datapath.delta import delta
from fqdnwall.datapath.layouts import (
    EndpointAddress,
    EndpointFlag,
    EndpointInfo,
    IpcacheKey,
    IpcacheValue,
    address_bytes,
    bytes_address,
)
from fqdnwall.datapath.maps import MapFull, Maps
from fqdnwall.endpoint.endpoint import Endpoint, Place, Recorded, Subject
from fqdnwall.endpoint.policymap import RuleBook, Unenforceable, audited_dns, kernel_entries
from fqdnwall.identity.allocator import (
    KUBE_DNS,
    Allocator,
    IdentitiesExhausted,
    Scope,
)
from fqdnwall.ipcache import desired as ipcache
from policies import (
    CidrGroup,
    Identity,
    Labels,
    NameSelector,
    Options,
    Policy,
    Resolved,
    RuleRef,
    cidr_labels,
    fqdn_labels,
)
from policies import Subject as PolicySubject
from policies.cidrs import longest_match
from policies.identity import HOST, WORLD_IPV4, WORLD_IPV6
from policies.incremental import PolicySet, Resolver, policy_key
from policies.labels import RESERVED_LABELS, ip_block_labels

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

AUDITED_DNS = RuleRef("", "", "audit: DNS is watched whether or not a rule asks for it")
REFUSALS = (MapFull, IdentitiesExhausted, Unenforceable)
"""Why a change cannot be made, and the former state stays in force."""
ENFORCE = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
IDENTITIES_AT_ONCE = 64
"""Of more, policies are resolved anew: one by one, each is asked of every rule."""
SPARE_IDENTITIES = 2048
"""Of selector sets that no name stands for now, but a connection or the next name may."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``per_endpoint``: what one endpoint looked up opens nothing for another.

    ``node`` is the network namespace (its inode) whose interfaces are guarded.
    """

    audit: bool = False
    per_endpoint: bool = True
    options: Options = field(default_factory=lambda: Options(allow_localhost=True))
    node: int = 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """All inputs, of which what the maps hold is a function."""

    policies: tuple[Policy, ...] = ()
    groups: tuple[CidrGroup, ...] = ()
    hosts: frozenset[Address] = frozenset()
    resolvers: tuple[Address, ...] = ()
    stubs: frozenset[Address] = frozenset()
    endpoints: Mapping[int, Endpoint] = field(default_factory=dict)


class Firewall:
    """``clock`` gives seconds of the kernel's boot clock."""

    def __init__(self, maps: Maps, clock: Callable[[], float], settings: Settings) -> None:
        self.maps = maps
        self.settings = settings
        self.recorder = Recorder(maps)
        self.rules = RuleBook(self.recorder.last_rule())
        self.revision = 1
        self._wanted = _Wanted()
        self._reached = None if self.recorder.endpoints() else _Wanted()
        self._taken_over: set[int] = set()
        self._batches = 0
        self._applying = False
        self.allocator = Allocator(
            {labels: number for number, labels in self.recorder.identities.items()}
        )
        self._introduced: set[Identity] = set(RESERVED_LABELS)
        self._resolver = Resolver(RESERVED_LABELS, settings.options)
        self._in_force = PoliciesInForce(maps.policies)
        self._compiled: dict[PolicySet, tuple[Resolved, tuple[NameSelector, ...], PolicyMap]] = {}
        self._written: dict[int, EndpointInfo] = {}
        self._recorded: set[int] = set()
        self._ipcache = dict(maps.ipcache.items())
        self._by_address: dict[Address, Endpoint] = {}
        self.endpoint_ids: dict[str, int] = {}
        """By address, as text: asked once for every query."""
        self._all_selectors: tuple[NameSelector, ...] = ()
        self._expected: set[Identity] = set()
        self.rulesets = RuleSets(maps.dns_names, self.rules, self.add_identity)
        self.rulesets.start_after(self.recorder.last_ruleset())
        self.learning = Learning(self, clock)

    # ---- what is wanted ----

    @property
    def endpoints(self) -> Mapping[int, Endpoint]:
        return self._wanted.endpoints

    @property
    def policies(self) -> tuple[Policy, ...]:
        return self._wanted.policies

    @property
    def is_in_force(self) -> bool:
        """Whether the maps say what is wanted; before, what an earlier agent wanted."""
        return self._reached is not None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Several changes that the maps see as one, or not at all."""
        self._batches += 1
        try:
            yield
        except BaseException:
            self._wanted = self._reached or _Wanted()
            raise
        finally:
            self._batches -= 1
        self._apply()

    def set_policies(self, policies: Sequence[Policy], groups: Sequence[CidrGroup] = ()) -> None:
        """Put these policies in force, all of them at once. Raises MapFull, Unenforceable."""
        self._want(replace(self._wanted, policies=tuple(policies), groups=tuple(groups)))

    def set_hosts(self, addresses: Iterable[Address]) -> None:
        """The host's own addresses. Raises MapFull."""
        self._want(replace(self._wanted, hosts=frozenset(addresses)))

    def set_resolvers(self, addresses: Iterable[Address], stubs: Iterable[Address] = ()) -> None:
        """The resolvers that stand for the cluster's DNS outside a cluster. Raises MapFull.

        ``stubs`` are those among them that only the proxy can ask, at another address.
        """
        resolvers = tuple(dict.fromkeys(addresses))
        self._want(replace(self._wanted, resolvers=resolvers, stubs=frozenset(stubs)))

    def add(self, subject: Subject, place: Place, endpoint_id: int = 0) -> Endpoint:
        """Guard an endpoint: policy and addresses are in the maps when this returns.

        The caller attaches the programs after that. With an id, an endpoint that an earlier agent
        guarded is taken over. Raises MapFull, IdentitiesExhausted, RecordTooLong.
        """
        number = endpoint_id or self.recorder.next_endpoint(self.endpoints)
        identity = self.allocator.allocate(subject.identity_labels(), Scope.CLUSTER)
        endpoint = Endpoint(
            number, subject, place, identity, self.settings.node, audit=self.settings.audit
        )
        self.recorder.check(endpoint)
        known = self.maps.endpoints.get(place.ifindex)
        if known is not None and known.id == number:
            endpoint.generation = known.generation + 1
            self._in_force.adopt(number)
            self._taken_over.add(number)
            self._written[number] = known
        else:
            self.maps.clear_endpoint_counters(number)
        self._want(replace(self._wanted, endpoints={**self.endpoints, number: endpoint}))
        return endpoint

    def remove(self, endpoint_id: int) -> None:
        """Forget an endpoint; its programs are detached before."""
        endpoint = self.endpoints[endpoint_id]
        others = {n: e for n, e in self.endpoints.items() if n != endpoint_id}
        self._wanted = replace(self._wanted, endpoints=others)
        self._reached = replace(self._reached or self._wanted, endpoints=others)
        self._erase(endpoint)
        self._apply()

    def forget_strangers(self) -> None:
        """Take off the maps what is about none of our endpoints: their interfaces are gone."""
        for ifindex, info in list(self.maps.endpoints.items()):
            if info.id not in self.endpoints:
                self.maps.endpoints.delete(ifindex)
        for number in self.maps.policies.endpoints():
            if number not in self.endpoints:
                self.maps.policies.delete(number)
        self.recorder.keep_only(self.endpoints)
        self.rulesets.forget_strangers()
        for owned in self.maps.owned():
            endpoint = self.endpoints.get(owned.endpoint)
            if endpoint is None or bytes_address(owned.address) not in endpoint.place.addresses:
                self.maps.disown(owned)
        self.learning.forget_strangers()
        self._release()

    def recorded_endpoints(self) -> dict[int, Recorded]:
        """Those that an earlier agent guarded, from the maps."""
        return self.recorder.endpoints()

    # ---- questions ----

    def selectors(self, endpoint_id: int | None) -> tuple[NameSelector, ...]:
        """The ``toFQDNs`` selectors of an endpoint, or of all of them; each once."""
        if endpoint_id is None:
            return self._all_selectors
        if endpoint_id not in self.endpoints:
            return ()
        return self._resolver.policy_set(str(endpoint_id)).resolved().fqdn_selectors

    def ruleset_of(self, resolved: Resolved, index: int) -> int:
        """The number of the tree for one of the policy's DNS rule sets."""
        return self.rulesets.number(resolved.dns[index], self._tree_selectors(resolved))

    def endpoint_of(self, address: Address) -> Endpoint | None:
        return self._by_address.get(address)

    def identity_of(self, address: Address) -> Identity:
        """As the kernel finds it in ipcache, learned names apart."""
        value = self.maps.ipcache.get(ipcache.key_of(ip_network(address)))
        if value is not None:
            return Identity(value.identity)
        return _world(address.version)

    def adopt_identities(self) -> frozenset[Identity]:
        """Those that an earlier agent recorded, in use again from now on."""
        for labels in self.recorder.identities.values():
            self.allocator.allocate(labels, Scope.LOCAL)
        return frozenset(self.recorder.identities)

    # ---- making the maps say so ----

    def add_identity(self, labels: Labels) -> Identity:
        """A node-local identity that policies in force know when this returns.

        Raises MapFull, IdentitiesExhausted.
        """
        known = self.allocator.find(labels)
        if known is not None and known in self._introduced:
            return known
        identity = self._new_identity(labels)
        try:
            self.recorder.identity(identity, labels)
            self._resolver.add_identity(identity, labels)
            self._introduced.add(identity)
            if not self._applying:
                self._extend(identity)
        except MapFull:
            self._forget_identities({identity})
            raise
        return identity

    def _new_identity(self, labels: Labels) -> Identity:
        try:
            return self.allocator.allocate(labels, Scope.LOCAL)
        except IdentitiesExhausted:
            if self._applying:
                raise
            self._release(spare=0)
            return self.allocator.allocate(labels, Scope.LOCAL)

    def _extend(self, identity: Identity) -> None:
        """Let the policies in force know an identity that no address has yet."""
        for policy_set in self._resolver.policy_sets():
            held = self._compiled.get(policy_set)
            resolved = policy_set.resolved()
            if held is None or held[0] is resolved:
                continue
            users = {int(name) for name in policy_set.subjects}
            entries = self._entries(policy_set)
            new = {key: value for key, value in entries.items() if key.identity == identity}
            if not self._in_force.add(users, entries, new):
                self._put(policy_set, entries)
            for number in users:
                self.endpoints[number].resolved = resolved

    def _want(self, wanted: _Wanted) -> None:
        if wanted != self._wanted:
            self._wanted = wanted
            self._apply()

    def _apply(self) -> None:
        """Make the maps say what is wanted, or else leave them as they were."""
        if self._batches:
            return
        before = self._reached or _Wanted()
        self.revision += self._wanted.policies != before.policies
        try:
            self._install()
        except REFUSALS:
            for number in self._wanted.endpoints.keys() - before.endpoints.keys():
                self._take_back(self._wanted.endpoints[number])
            self._wanted = before
            if self._reached is not None:
                with contextlib.suppress(*REFUSALS):  # where nothing helps, each keeps what it has
                    self._install()
            raise
        self._reached = self._wanted
        self._taken_over.clear()

    def _install(self) -> None:
        self._applying = True
        try:
            self._tell_resolver()
            self._by_address = {
                address: endpoint
                for endpoint in self.endpoints.values()
                for address in endpoint.place.addresses
            }
            self.endpoint_ids = {str(a): endpoint.id for a, endpoint in self._by_address.items()}
            wanted = self._allocate()
            while self._introduce():  # a resolver's identity brings rules, and these their trees
                wanted = self._allocate()
            change = delta(wanted, self._ipcache)
            moving = moves(change.put, change.delete, self.maps.ipcache.get, wanted)
            meanwhile = self._prepare(moving)
            for key in sorted((*change.put, *change.delete), key=_longest_first):
                value = wanted.get(key) or self._ipcache[key]
                self._say(key, replace(value, identity=meanwhile.get(key, value.identity)))
            self.learning.policies_change()
            self._settle()
            self.learning.policies_changed()
            for key, value in change.put.items():
                self._say(key, value)
            for key in sorted(change.delete, key=_longest_first, reverse=True):
                self.maps.ipcache.delete(key)
                del self._ipcache[key]
            self.rulesets.keep_only(
                {value.ruleset for held in self._in_force for value in held.entries.values()}
            )
            self._release()
        finally:
            self._applying = False

    def _tell_resolver(self) -> None:
        """Policies and subjects as they are wanted; ``policies.incremental`` finds what changes."""
        resolver, wanted = self._resolver, self._wanted
        if wanted.groups != resolver.options.cidr_groups:
            resolver.set_options(replace(resolver.options, cidr_groups=wanted.groups))
        now = {policy_key(policy): policy for policy in resolver.policies}
        then = {policy_key(policy): policy for policy in wanted.policies}
        changed = [p for key, p in then.items() if now.get(key) is not p and now.get(key) != p]
        if changed or now.keys() - then.keys():
            resolver.update(changed, now.keys() - then.keys())
        for name in set(self._subjects()) - {str(number) for number in wanted.endpoints}:
            resolver.remove_subject(name)
        known = set(self._subjects())
        for number, endpoint in wanted.endpoints.items():
            if str(number) not in known:
                labels, namespace = endpoint.subject.identity_labels(), endpoint.subject.namespace
                resolver.set_subject(str(number), PolicySubject(labels, namespace))

        found = {s for e in resolver.policy_sets() for s in e.resolved().fqdn_selectors}
        self._all_selectors = tuple(sorted(found, key=lambda s: (s.text, s.kind.value)))

    def _subjects(self) -> list[str]:
        return [name for each in self._resolver.policy_sets() for name in each.subjects]

    def _tree_selectors(self, resolved: Resolved) -> tuple[NameSelector, ...]:
        """What the answers of an endpoint's queries are judged by."""
        return resolved.fqdn_selectors if self.settings.per_endpoint else self.selectors(None)

    def _allocate(self) -> dict[IpcacheKey, IpcacheValue]:
        """Identities for all that is spoken of; the ipcache that is wanted."""
        resolved = [each.resolved() for each in self._resolver.policy_sets()]
        prefixes = {prefix for each in resolved for prefix in each.cidrs}
        blocks = {prefix for each in resolved for prefix in each.ip_blocks}
        expected = {
            labels
            for each in resolved
            for labels in self.rulesets.expected_labels(each.dns, self._tree_selectors(each))
        } | {fqdn_labels([selector.text]) for selector in self._all_selectors}
        self._expected = {
            self.allocator.allocate(labels, Scope.LOCAL) for labels in sorted(expected, key=sorted)
        }
        return ipcache.desired(
            {
                prefix: self.allocator.allocate(cidr_labels(prefix), Scope.LOCAL)
                for prefix in sorted(prefixes, key=lambda p: (p.version, p))
            },
            {address: self._placed(HOST, address, blocks) for address in self._wanted.hosts},
            {
                address: self._placed(endpoint.identity, address, blocks)
                for address, endpoint in self._by_address.items()
            },
            {
                address: self.allocator.allocate(_resolver_labels(address), Scope.LOCAL)
                for address in self._wanted.resolvers
            },
            self._wanted.stubs,
        )

    def _placed(self, identity: Identity, address: Address, blocks: Set[Network]) -> Identity:
        """Whose address it is: with the ``ipBlock`` of some policy that holds it, if one does.

        Never one of the local scope, by which the datapath knows what is outside.
        """
        block = longest_match(blocks, address)
        if block is None:
            return identity
        labels = self.allocator.labels_of(identity) | ip_block_labels(block)
        return self.allocator.allocate(labels, Scope.CLUSTER)

    def _introduce(self) -> bool:
        """Whether identities are new to the policies.

        Numbers are kept beside the maps before anything in these may hold them.
        """
        new = sorted(self.allocator.identities.keys() - self._introduced)
        for identity in new:
            labels = self.allocator.labels_of(identity)
            self.recorder.identity(identity, labels)
            if len(new) <= IDENTITIES_AT_ONCE:
                self._resolver.add_identity(identity, labels)
                self._introduced.add(identity)
        if len(new) > IDENTITIES_AT_ONCE:
            self._resolver = Resolver(self.allocator.identities, self._resolver.options)
            self._introduced = set(self.allocator.identities)
            self._tell_resolver()
        return bool(new)

    def _say(self, key: IpcacheKey, value: IpcacheValue) -> None:
        if self._ipcache.get(key) != value:
            self.maps.ipcache.put(key, value)
            self._ipcache[key] = value

    def _prepare(self, moving: Mapping[IpcacheKey, Move]) -> Mapping[IpcacheKey, int]:
        """What addresses are while policies are swapped, and let the former policies know it."""
        changes = {
            held: (by_identity(held.entries), by_identity(self._entries(policy_set)))
            for policy_set in self._resolver.policy_sets()
            for held in {self._in_force.of(int(name)) for name in policy_set.subjects}
            if held is not None and held.entries != self._entries(policy_set)
        }
        ways = Ways(
            {value.identity for value in self._ipcache.values()},
            lambda one, two: all(old.get(one) == old.get(two) for old, _ in changes.values()),
            lambda one, two: all(new.get(one) == new.get(two) for _, new in changes.values()),
            self._own_identity,
        )
        meanwhile = {key: ways.identity(move) for key, move in moving.items()}
        self._introduce()
        for policy_set in self._resolver.policy_sets():
            entries = self._entries(policy_set)
            for held in {self._in_force.of(int(name)) for name in policy_set.subjects}:
                if held is not None and held.entries != entries:
                    self._in_force.inherit(held, ways.parents)
        return meanwhile

    def _own_identity(self, move: Move) -> Identity:
        both_outside = is_outside(move.former) and is_outside(move.wanted)
        scope = Scope.LOCAL if both_outside else Scope.CLUSTER
        labels = own_labels(move, self.allocator.labels_of(move.wanted))
        return self.allocator.allocate(labels, scope)

    def _settle(self) -> None:
        """Every endpoint's policy as it is wanted."""
        sets = self._resolver.policy_sets()
        for policy_set in sets:
            self._put(policy_set, self._entries(policy_set))
        self._compiled = {each: self._compiled[each] for each in sets}

    def _put(self, policy_set: PolicySet, entries: PolicyMap) -> None:
        resolved = policy_set.resolved()
        users = {int(name): self.endpoints[int(name)] for name in policy_set.subjects}
        flags = self._flags(resolved)
        for endpoint in users.values():
            written = self._written.get(endpoint.id)
            if written is not None and written.flags & ENFORCE & ~flags:
                # A direction without policy is open before its policy, which allows nothing, comes.
                self._write(endpoint, replace(written, flags=written.flags & (flags | ~ENFORCE)))
        moved = self._in_force.put(users.keys(), entries)
        chosen = tuple({id(policy): policy for policy, _ in policy_set.chosen}.values())
        for number, endpoint in users.items():
            former = endpoint.resolved.enforcing if endpoint.resolved else None
            endpoint.resolved, endpoint.policies = resolved, chosen
            endpoint.revision = self.revision
            if number in moved or former != resolved.enforcing:
                endpoint.generation += 1
            self._write(endpoint, self._info(endpoint, flags))

    def _entries(self, policy_set: PolicySet) -> PolicyMap:
        resolved = policy_set.resolved()
        selectors = self._tree_selectors(resolved)
        known = self._compiled.get(policy_set)
        if known is not None and known[0] is resolved and known[1] == selectors:
            return known[2]
        entries = kernel_entries(
            resolved, self.rules, lambda index: self.rulesets.number(resolved.dns[index], selectors)
        )
        if self.settings.audit:
            entries = dict(audited_dns(self.rules.number(AUDITED_DNS))) | entries
        self._compiled[policy_set] = (resolved, selectors, entries)
        return entries

    def _flags(self, resolved: Resolved) -> EndpointFlag:
        flags = EndpointFlag.AUDIT if self.settings.audit else EndpointFlag(0)
        if resolved.enforcing.ingress:
            flags |= EndpointFlag.ENFORCE_INGRESS
        if resolved.enforcing.egress:
            flags |= EndpointFlag.ENFORCE_EGRESS
        return flags

    def _info(self, endpoint: Endpoint, flags: EndpointFlag) -> EndpointInfo:
        return EndpointInfo(
            id=endpoint.id,
            identity=endpoint.identity,
            scope=self.learning.scope(endpoint.id),
            generation=endpoint.generation & 0xFFFFFFFF,
            flags=flags,
            bridge=endpoint.place.bridge,
        )

    def _write(self, endpoint: Endpoint, info: EndpointInfo) -> None:
        if endpoint.id not in self._recorded:
            self.recorder.endpoint(endpoint)
            for address in endpoint.place.addresses:
                self.maps.own(EndpointAddress(endpoint.id, address_bytes(address)))
            self._recorded.add(endpoint.id)
        if self._written.get(endpoint.id) != info:
            self.maps.endpoints.put(endpoint.place.ifindex, info)
            self._written[endpoint.id] = info

    def _take_back(self, endpoint: Endpoint) -> None:
        """An endpoint that could not be added; one that was guarded before stays so."""
        if endpoint.id in self._taken_over:
            self._in_force.release(endpoint.id)
            self._written.pop(endpoint.id, None)
            self._recorded.discard(endpoint.id)
        else:
            self._erase(endpoint)

    def _erase(self, endpoint: Endpoint) -> None:
        for address in endpoint.place.addresses:
            self.maps.disown(EndpointAddress(endpoint.id, address_bytes(address)))
        self.maps.endpoints.delete(endpoint.place.ifindex)
        self._in_force.remove(endpoint.id)
        self.recorder.forget_endpoint(endpoint.id)
        self._recorded.discard(endpoint.id)
        self._written.pop(endpoint.id, None)
        self.learning.forget_endpoint(endpoint.id)

    def _release(self, spare: int = SPARE_IDENTITIES) -> None:
        """Give back the numbers that nothing refers to."""
        held: set[int] = {*RESERVED_LABELS, *self._expected}
        held |= {value.identity for value in self._ipcache.values()}
        held |= {endpoint.identity for endpoint in self.endpoints.values()}
        held |= self.learning.identities_held() | self.rulesets.identities_held()
        idle = [i for i in self.allocator.identities if i not in held]
        if idle:
            selectors = {label for s in self.selectors(None) for label in fqdn_labels([s.text])}
            may_return = [i for i in idle if self.allocator.labels_of(i) <= selectors]
            spared = may_return[len(may_return) - min(spare, len(may_return)) :]
            self._forget_identities(set(idle) - set(spared))

    def _forget_identities(self, identities: Set[Identity]) -> None:
        self._in_force.take(identities)
        self.learning.identities_gone()
        for identity in identities:
            if identity in self._introduced:
                self._resolver.remove_identity(identity)
                self._introduced.discard(identity)
            self.recorder.forget_identity(identity)
            self.allocator.release(identity)


def _world(version: int) -> Identity:
    return WORLD_IPV4 if version == 4 else WORLD_IPV6


def _resolver_labels(address: Address) -> Labels:
    """A resolver is what cluster DNS policies select, and the address that it is."""
    prefix = IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)
    return KUBE_DNS | cidr_labels(prefix)


def _longest_first(key: IpcacheKey) -> int:
    return -key.prefix_length
