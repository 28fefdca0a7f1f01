"""The API's models, made from the agent's state and from what the maps hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fqdnwall.agent.clock import rfc3339
from fqdnwall.agent.firewall import Firewall
from fqdnwall.agent.learning import ADOPTED
from fqdnwall.agent.service import Agent
from fqdnwall.agent.translate import names_of, protocol_name
from fqdnwall.api.models import (
    CtEntry,
    Direction,
    DnsCounters,
    Endpoint,
    EndpointCounters,
    EndpointState,
    Enforcement,
    FqdnCacheEntry,
    FqdnName,
    FqdnSource,
    IdentityEntry,
    IpcacheEntry,
    LearnedEntry,
    MapInfo,
    NameAddresses,
    PolicyDocument,
    PolicyMapEntry,
    PolicyVerdict,
    ProgInfo,
    Traffic,
)
from fqdnwall.datapath import libbpf
from fqdnwall.datapath.attach import HOOKS
from fqdnwall.datapath.layouts import (
    MAPS,
    Counter,
    CtFlag,
    CtKey,
    CtValue,
    LearnedKey,
    LearnedValue,
    MapType,
    PolicyKey,
    PolicyValue,
    RuleKey,
    Verdict,
    bytes_address,
)
from fqdnwall.endpoint.endpoint import Endpoint as State
from fqdnwall.endpoint.policymap import PROTOCOL_BITS
from fqdnwall.fqdn.cache import Record
from fqdnwall.identity.allocator import label_texts
from fqdnwall.ipcache.desired import prefix_of
from policies import Direction as PolicyDirection
from policies import Policy
from policies.labels import FQDN
from policies.names import NameKind

COUNTED_MAPS = frozenset(
    {"endpoints", "endpoint_ips", "ipcache", "learned", "answers", "dns_names", "policies"}
)
"""Small enough, or kept by us: their entries are counted on request."""

_HOOKS = {
    name: "ingress" if attach_type == libbpf.TCX_INGRESS else "egress"
    for name, attach_type in HOOKS.items()
}
_VERDICTS = {
    Verdict.ALLOW: PolicyVerdict.ALLOW,
    Verdict.DENY: PolicyVerdict.DENY,
    Verdict.REDIRECT: PolicyVerdict.REDIRECT,
}


def endpoint(
    state: State, firewall: Firewall, dns: DnsCounters, *, attached: bool = True
) -> Endpoint:
    message = "" if attached else "its programs are not attached: its interface is gone"
    enforcing = state.resolved.enforcing if state.resolved else None
    return Endpoint(
        id=state.id,
        name=state.subject.name,
        namespace=state.subject.namespace,
        labels=label_texts(firewall.allocator.labels_of(state.identity)),
        identity=state.identity,
        state=EndpointState.NOT_READY if message else EndpointState.READY,
        interface=state.place.interface,
        addresses=tuple(str(address) for address in state.place.addresses),
        ingress=_enforcement(bool(enforcing and enforcing.ingress), state.audit),
        egress=_enforcement(bool(enforcing and enforcing.egress), state.audit),
        policy_revision=state.revision,
        policies=tuple(policy_name(policy) for policy in state.policies),
        netns=state.place.netns,
        counters=counters(state, firewall),
        dns=dns,
        message=message,
    )


def counters(state: State, firewall: Firewall) -> EndpointCounters:
    """Packets at the endpoint's interface, as the kernel counted them."""

    def traffic(*, dropped: bool, egress: bool) -> Traffic:
        counter = firewall.maps.endpoint_counter(state.id, dropped=dropped, egress=egress)
        return Traffic(counter.packets, counter.bytes)

    return EndpointCounters(
        egress_forwarded=traffic(dropped=False, egress=True),
        egress_dropped=traffic(dropped=True, egress=True),
        ingress_forwarded=traffic(dropped=False, egress=False),
        ingress_dropped=traffic(dropped=True, egress=False),
    )


def _enforcement(enforcing: bool, audit: bool) -> Enforcement:
    if not enforcing:
        return Enforcement.DISABLED
    return Enforcement.AUDIT if audit else Enforcement.ENABLED


def policy_name(policy: Policy) -> str:
    parts = (policy.kind, policy.namespace, policy.name)
    return "/".join(part for part in parts if part)


def identities(firewall: Firewall) -> list[IdentityEntry]:
    users: defaultdict[int, int] = defaultdict(int)
    for state in firewall.endpoints.values():
        users[state.identity] += 1
    return [
        IdentityEntry(identity, label_texts(labels), users[identity])
        for identity, labels in firewall.allocator.identities.items()
    ]


def policies(firewall: Firewall, documents: Sequence[tuple[str, str]]) -> list[PolicyDocument]:
    texts = dict(documents)
    return [
        PolicyDocument(
            kind=policy.kind,
            name=policy.name,
            namespace=policy.namespace,
            source=policy.source,
            rules=sum(len(spec.rules_of(d)) for spec in policy.specs for d in PolicyDirection),
            revision=firewall.revision,
            endpoints=tuple(
                state.id
                for state in firewall.endpoints.values()
                if any(policy is chosen for chosen in state.policies)
            ),
            document=texts.get(policy.source, ""),
        )
        for policy in firewall.policies
    ]


def policy_entries(firewall: Firewall, state: State) -> list[PolicyMapEntry]:
    """What the kernel holds, which is what counts."""
    counters = firewall.maps.rule_counters()
    ports = firewall.maps.config()
    entries = firewall.maps.policies.entries(state.id)
    return [
        _policy_entry(firewall, state, key, value, counters, ports.dns_udp4)
        for key, value in entries
    ]


def _policy_entry(
    firewall: Firewall,
    state: State,
    key: PolicyKey,
    value: PolicyValue,
    counters: dict[RuleKey, Counter],
    proxy_port: int,
) -> PolicyMapEntry:
    port_bits = max(0, value.l4_prefix - PROTOCOL_BITS)
    counter = counters.get(RuleKey(state.id, value.rule), Counter(0, 0))
    redirect = value.verdict == Verdict.REDIRECT
    return PolicyMapEntry(
        endpoint_id=state.id,
        verdict=_VERDICTS[Verdict(value.verdict)],
        direction=Direction.EGRESS if key.direction else Direction.INGRESS,
        identity=key.identity,
        labels=label_texts(firewall.allocator.labels_of(key.identity)) if key.identity else (),
        protocol=protocol_name(key.protocol),
        port=key.port,
        end_port=key.port + (1 << (16 - port_bits)) - 1 if port_bits else key.port,
        precedence=value.precedence,
        prefix=value.l4_prefix,
        proxy_port=proxy_port if redirect else 0,
        l7="dns" if redirect else "",
        rule=firewall.rules.text(value.rule),
        packets=counter.packets,
        bytes=counter.bytes,
    )


def _named(firewall: Firewall) -> Iterator[Record]:
    return (r for r in firewall.learning.cache.records() if not r.key.name.startswith(ADOPTED))


def fqdn_cache(firewall: Firewall) -> list[FqdnCacheEntry]:
    """One entry for addresses of a name that were learned together."""
    groups: defaultdict[tuple[int, str, float, float, int, str], list[str]] = defaultdict(list)
    for r in _named(firewall):
        at = (r.key.endpoint, r.key.name, r.learned_at, r.expires_at, r.ttl_seconds, r.source)
        groups[at].append(str(r.key.address))
    return [
        FqdnCacheEntry(
            endpoint_id=endpoint_id,
            source=FqdnSource(source),
            fqdn=name,
            ttl=ttl,
            lookup_time=rfc3339(learned_at),
            expiration_time=rfc3339(expires_at),
            ips=tuple(sorted(addresses)),
        )
        for (endpoint_id, name, learned_at, expires_at, ttl, source), addresses in groups.items()
    ]


def fqdn_names(firewall: Firewall) -> list[FqdnName]:
    selectors = {
        selector: None
        for state in firewall.endpoints.values()
        if state.resolved
        for selector in state.resolved.fqdn_selectors
    }
    by_name: defaultdict[str, set[str]] = defaultdict(set)
    for record in _named(firewall):
        by_name[record.key.name].add(str(record.key.address))
    return [
        FqdnName(
            selector=selector.text,
            kind="matchName" if selector.kind is NameKind.NAME else "matchPattern",
            identities=tuple(
                identity
                for identity, labels in firewall.allocator.identities.items()
                if any(x.source == FQDN and x.key == selector.text for x in labels)
            ),
            names=tuple(
                NameAddresses(name, tuple(sorted(addresses)))
                for name, addresses in sorted(by_name.items())
                if selector.matches(name)
            ),
        )
        for selector in selectors
    ]


def conntrack(
    firewall: Firewall, items: Iterable[tuple[CtKey, CtValue]], now: float
) -> list[CtEntry]:
    return [_ct_entry(firewall, key, value, now) for key, value in items]


def _ct_entry(firewall: Firewall, key: CtKey, value: CtValue, now: float) -> CtEntry:
    flags = CtFlag(value.flags)
    inbound = CtFlag.INGRESS in flags
    local = (str(bytes_address(key.local)), key.local_port)
    remote = (str(bytes_address(key.remote)), key.remote_port)
    source, destination = (remote, local) if inbound else (local, remote)
    expires = value.expires / 1e9
    return CtEntry(
        endpoint_id=key.endpoint,
        protocol=protocol_name(key.protocol),
        direction="IN" if inbound else "OUT",
        source=source[0],
        source_port=source[1],
        destination=destination[0],
        destination_port=destination[1],
        state=_ct_state(flags),
        remaining_seconds=expires - now,
        expires=int(expires),
        packets=value.rx_packets if inbound else value.tx_packets,
        bytes=value.rx_bytes if inbound else value.tx_bytes,
        reply_packets=value.tx_packets if inbound else value.rx_packets,
        reply_bytes=value.tx_bytes if inbound else value.rx_bytes,
        rx_flags_seen=value.rx_tcp_flags,
        tx_flags_seen=value.tx_tcp_flags,
        flags=value.flags,
        flag_names=tuple(flag.name or "" for flag in flags),
        identity=value.identity,
        policy_generation=value.generation,
        rule=firewall.rules.text(value.rule),
    )


def _ct_state(flags: CtFlag) -> str:
    closing = CtFlag.LOCAL_CLOSING | CtFlag.REMOTE_CLOSING
    if CtFlag.DENIED in flags:
        return "denied"
    if flags & closing == closing:
        return "closed"
    if flags & closing:
        return "closing"
    return "established" if CtFlag.SEEN_NON_SYN in flags else "new"


def ipcache_entries(firewall: Firewall) -> list[IpcacheEntry]:
    return [
        IpcacheEntry(
            prefix=str(prefix_of(key)),
            identity=value.identity,
            labels=label_texts(firewall.allocator.labels_of(value.identity)),
        )
        for key, value in firewall.maps.ipcache.items()
    ]


def learned(
    firewall: Firewall, items: Iterable[tuple[LearnedKey, LearnedValue]], now: float
) -> list[LearnedEntry]:
    found = []
    for key, value in items:
        address = str(bytes_address(key.address))
        for slot in value.slots:
            if not slot.identity:
                continue
            labels = firewall.allocator.labels_of(slot.identity)
            expires = slot.expires / 1e9
            found.append(
                LearnedEntry(
                    endpoint_id=key.scope,
                    address=address,
                    identity=slot.identity,
                    selectors=tuple(sorted(x.key for x in labels if x.source == FQDN)),
                    expires_at=rfc3339(expires),
                    remaining_seconds=expires - now,
                    names=names_of(firewall, key.scope, address),
                )
            )
    return found


def programs(agent: Agent) -> list[ProgInfo]:
    """The two programs, once for each interface that they are attached to."""
    interfaces = {e.place.ifindex: e.place.interface for e in agent.firewall.endpoints.values()}
    found = []
    for name, fd in agent.datapath.programs.items():
        info = libbpf.program_info(fd)
        hook = _HOOKS.get(name, "")
        for ifindex in (list(interfaces) or [0]) if hook else [0]:
            found.append(
                ProgInfo(
                    name=info.name,
                    id=info.id,
                    type="sched_cls",
                    tag=info.tag,
                    interface=interfaces.get(ifindex, ""),
                    hook=f"{hook} ({agent.attach_mode})" if ifindex else "tail call" * (not hook),
                    instructions=info.xlated_bytes // 8,
                    verified_instructions=info.verified or None,
                    jited_bytes=info.jited_bytes,
                    pinned=str(agent.datapath.pins / name),
                )
            )
    return found


def maps(agent: Agent) -> list[MapInfo]:
    """Every map; walks the smaller ones, so it is for a thread."""
    found = []
    for spec in MAPS:
        fd = agent.datapath.maps[spec.name]
        info = libbpf.map_info(fd)
        found.append(
            MapInfo(
                name=spec.name,
                id=info.id,
                type=MapType(info.type).name.lower(),
                key_bytes=info.key_size,
                value_bytes=info.value_size,
                max_entries=info.max_entries,
                entries=_entries(fd, info) if spec.name in COUNTED_MAPS else None,
                memory_bytes=memory_bytes(fd),
                pinned=str(agent.datapath.pins / spec.name),
            )
        )
    return found


def _entries(fd: int, info: libbpf.MapInfo) -> int:
    return sum(1 for _ in libbpf.all_items(fd, info.key_size, info.value_size))


def memory_bytes(fd: int) -> int | None:
    """What the kernel charges for the map, from its fdinfo."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return None
