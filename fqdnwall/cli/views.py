"""The tables of the list commands; columns as cilium-dbg's where it has such a table.

Each view sorts what it is given and says nothing about how it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from fqdnwall.api.models import (
    Endpoint,
    FqdnCacheEntry,
    FqdnName,
    IdentityEntry,
    IpcacheEntry,
    LearnedEntry,
    MapInfo,
    PolicyDocument,
    PolicyMapEntry,
    ProgInfo,
)
from fqdnwall.cli.order import address_key, addresses, name_key, telling
from fqdnwall.cli.output import Table, count, human_bytes, human_seconds


def endpoint_table(endpoints: Sequence[Endpoint]) -> Table:
    rows = [
        (
            str(e.id),
            e.ingress.value,
            e.egress.value,
            str(e.identity),
            "\n".join(sorted(e.labels)),
            "\n".join(a for a in addresses(e.addresses) if ":" in a),
            "\n".join(a for a in addresses(e.addresses) if ":" not in a),
            f"{e.namespace}/{e.name}",
            e.state.value,
        )
        for e in sorted(endpoints, key=lambda e: e.id)
    ]
    headers = (
        "ENDPOINT",
        "POLICY (ingress)\nENFORCEMENT",
        "POLICY (egress)\nENFORCEMENT",
        "IDENTITY",
        "LABELS (source:key[=value])",
        "IPv6",
        "IPv4",
        "NAME",
        "STATUS",
    )
    return Table(headers, rows)


def identity_table(identities: Sequence[IdentityEntry]) -> Table:
    rows = [
        (str(i.id), "\n".join(sorted(i.labels)), str(i.endpoints))
        for i in sorted(identities, key=lambda i: i.id)
    ]
    return Table(("ID", "LABELS", "ENDPOINTS"), rows, frozenset({2}))


def policy_table(policies: Sequence[PolicyDocument]) -> Table:
    rows = [
        (
            f"{p.namespace}/{p.name}" if p.namespace else p.name,
            p.kind,
            str(p.rules),
            ", ".join(map(str, sorted(p.endpoints))) or "none",
            p.source,
        )
        for p in sorted(policies, key=lambda p: (p.namespace, p.name, p.kind))
    ]
    return Table(("NAME", "KIND", "RULES", "ENDPOINTS", "SOURCE"), rows, frozenset({2}))


def policy_map_table(entries: Sequence[PolicyMapEntry], *, numeric: bool) -> Table:
    rows = [
        (
            {"deny": "Deny", "audit": "Audit"}.get(e.verdict.value, "Allow"),
            e.direction.value.capitalize(),
            _peer(e, numeric),
            _port_and_protocol(e),
            str(e.proxy_port) if e.proxy_port else (e.l7.upper() or "NONE"),
            count(e.bytes),
            count(e.packets),
            str(e.prefix),
            e.rule or "-",
        )
        for e in sorted(entries, key=_policy_key)
    ]
    headers = (
        "POLICY",
        "DIRECTION",
        "IDENTITY" if numeric else "LABELS (source:key[=value])",
        "PORT/PROTO",
        "PROXY PORT",
        "BYTES",
        "PACKETS",
        "PREFIX",
        "RULE",
    )
    return Table(headers, rows)


def fqdn_cache_table(entries: Sequence[FqdnCacheEntry]) -> Table:
    rows = [
        (
            str(e.endpoint_id),
            e.source.value,
            e.fqdn,
            str(e.ttl),
            e.expiration_time,
            ",".join(addresses(e.ips)),
        )
        for e in sorted(entries, key=cache_key)
    ]
    return Table(("Endpoint", "Source", "FQDN", "TTL", "ExpirationTime", "IPs"), rows)


def fqdn_names_table(names: Sequence[FqdnName]) -> Table:
    rows = []
    for n in sorted(names, key=lambda n: (name_key(n.selector), n.kind)):
        identities = ",".join(map(str, sorted(n.identities))) or "-"
        known = sorted(n.names, key=lambda a: name_key(a.name))
        cells = [(a.name, ",".join(addresses(a.ips))) for a in known] or [("-", "-")]
        rows += [
            (n.selector, n.kind, identities, *cell) if first else ("", "", "", *cell)
            for first, cell in zip([True] + [False] * len(cells), cells, strict=False)
        ]
    return Table(("SELECTOR", "KIND", "IDENTITY", "FQDN", "IPs"), rows)


def ipcache_table(entries: Sequence[IpcacheEntry]) -> Table:
    rows = [
        (
            e.prefix,
            f"identity={e.identity} encryptkey={e.encrypt_key} "
            f"tunnelendpoint={e.tunnel_endpoint or '0.0.0.0'} "
            f"flags={','.join(e.flags) or '<none>'}",
            ",".join(telling(e.labels)),
        )
        for e in sorted(entries, key=lambda e: address_key(e.prefix))
    ]
    return Table(("IP PREFIX/ADDRESS", "IDENTITY", "LABELS"), rows)


def learned_table(entries: Sequence[LearnedEntry]) -> Table:
    rows = [
        (
            str(e.endpoint_id) if e.endpoint_id else "node",
            e.address,
            str(e.identity),
            human_seconds(e.remaining_seconds) if e.remaining_seconds > 0 else "expired",
            ",".join(e.selectors),
            ",".join(e.names) or "-",
        )
        for e in sorted(entries, key=lambda e: (e.endpoint_id, address_key(e.address), e.identity))
    ]
    return Table(("ENDPOINT", "ADDRESS", "IDENTITY", "EXPIRES", "SELECTORS", "NAMES"), rows)


def prog_table(progs: Sequence[ProgInfo]) -> Table:
    rows = [
        (
            str(p.id),
            p.name,
            p.type,
            f"{p.interface} {p.hook}".strip() or "-",
            count(p.instructions),
            count(p.verified_instructions),
            human_bytes(p.jited_bytes),
            human_bytes(p.memory_bytes),
            count(p.run_count),
            f"{p.run_nanoseconds // p.run_count}" if p.run_count and p.run_nanoseconds else "-",
        )
        for p in sorted(progs, key=lambda p: (p.interface, p.hook, p.name, p.id))
    ]
    headers = (
        "ID",
        "NAME",
        "TYPE",
        "ATTACHED",
        "INSNS",
        "VERIFIED",
        "JITED",
        "MEMORY",
        "RUNS",
        "NS/RUN",
    )
    return Table(headers, rows, frozenset(range(4, 10)))


def map_table(maps: Sequence[MapInfo]) -> Table:
    rows = [
        (
            str(m.id),
            m.name,
            m.type,
            str(m.key_bytes),
            str(m.value_bytes),
            count(m.entries),
            str(m.max_entries),
            human_bytes(m.memory_bytes),
        )
        for m in sorted(maps, key=lambda m: (m.name, m.id))
    ]
    headers = ("ID", "NAME", "TYPE", "KEY", "VALUE", "ENTRIES", "MAX", "MEMORY")
    return Table(headers, rows, frozenset(range(3, 8)))


def cache_key(entry: FqdnCacheEntry) -> tuple[object, ...]:
    return (entry.endpoint_id, name_key(entry.fqdn), entry.source.value, entry.ips)


def _policy_key(entry: PolicyMapEntry) -> tuple[object, ...]:
    """Most decisive first: the order in which a reader should think of them."""
    return (
        entry.direction.value,
        -entry.precedence,
        entry.identity,
        entry.protocol,
        entry.port,
        -entry.prefix,
    )


def _peer(entry: PolicyMapEntry, numeric: bool) -> str:
    if numeric:
        return str(entry.identity) if entry.identity else "ANY"
    return "\n".join(sorted(entry.labels)) or ("ANY" if not entry.identity else str(entry.identity))


def _port_and_protocol(entry: PolicyMapEntry) -> str:
    if entry.protocol == "ANY" and entry.port == 0:
        return "ANY"
    if entry.prefix <= 8 and entry.port == 0:
        return f"ANY/{entry.protocol}" if entry.protocol != "ANY" else "ANY"
    ports = str(entry.port)
    if entry.end_port > entry.port:
        ports = f"{entry.port}-{entry.end_port}"
    return f"{ports}/{entry.protocol}"
