"""`policy verdict --batch`: JSON lines in, JSON lines out. docs/policy-verdict.md is its reference.

Each line is a cluster, its policies and flows; each answer has the verdicts in the flows' order.
A line that cannot be read is answered with errors, never with an exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from policies.cluster import Flow, UnknownPeer
from policies.clusterfile import CLUSTER_FIELDS, PROTOCOLS, read_cluster, read_peer
from policies.document import Mapping, from_value, to_value
from policies.entries import DnsRuleSet, HttpRuleSet, ProxyRuleSet
from policies.identity import Direction, Protocol
from policies.parse import parse_policy_objects
from policies.reader import Field, Problems
from policies.world import Judgement, World

_FIELDS: Final = ("id", "policies", *CLUSTER_FIELDS, "flows")
_DIRECTIONS: Final = {"egress": Direction.EGRESS, "ingress": Direction.INGRESS}
_FLOW_FIELDS: Final = (
    "direction",
    "subject",
    "peer",
    "protocol",
    "port",
    "icmp_type",
    "dns_query",
)
_INVALID: Final = {"verdict": "deny", "reason": "invalid-flow", "rule": "", "l7": []}


def judge_lines(lines: Iterable[str]) -> Iterator[str]:
    """Answer each line that is not blank with one line of JSON."""
    for line in lines:
        if line.strip():
            yield json.dumps(judge_line(line), ensure_ascii=False)


def judge_line(line: str) -> dict[str, Any]:
    """The answer to one line of JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "errors": [f"not JSON: {error}"], "verdicts": []}
    return judge_request(value)


def judge_request(value: object) -> dict[str, Any]:
    """The answer to one decoded request."""
    try:
        node = from_value(value)
    except ValueError as error:
        return {"id": None, "errors": [str(error)], "verdicts": []}
    problems = Problems("")
    members = Field(node, "", problems).fields(_FIELDS)
    identifier = None
    if isinstance(node, Mapping) and (found := node.get("id")) is not None:
        identifier = to_value(found)
    objects = [to_value(item.node) for item in _items(members.get("policies"))]
    parsed = parse_policy_objects(objects, "policies")
    cluster = read_cluster(members)
    flows = [_flow(item) for item in _items(members.get("flows"))]
    # Nothing is judged in a cluster that was misread.
    broken = bool(problems.errors) and not all(_of_flow(e.path) for e in problems.errors)
    errors = [_text(error.path, error.message) for error in problems.errors]
    errors += [_text(f"{e.source}.{e.path}".rstrip("."), e.message) for e in parsed.errors]
    if broken:
        return {"id": identifier, "errors": errors, "verdicts": []}
    groups = (*cluster.cidr_groups, *parsed.cidr_groups)
    world = World(replace(cluster, cidr_groups=groups), parsed.policies)
    verdicts = []
    for number, flow in enumerate(flows):
        if flow is None:
            verdicts.append(dict(_INVALID))
            continue
        try:
            verdicts.append(verdict_json(world.judge(flow)))
        except UnknownPeer as error:
            errors.append(f"flows[{number}]: {error}")
            verdicts.append(dict(_INVALID))
    return {"id": identifier, "errors": errors, "verdicts": verdicts}


def _items(at: Field | None) -> list[Field]:
    return at.items() if at is not None else []


def _of_flow(path: str) -> bool:
    return path.startswith("flows[")


def _text(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


def _flow(at: Field) -> Flow | None:
    members = at.fields(_FLOW_FIELDS)
    for needed in ("direction", "subject", "peer", "protocol"):
        if needed not in members:
            at.error(f"needs {needed}")
            return None
    direction = members["direction"].one_of(_DIRECTIONS)
    subject = members["subject"].string()
    peer = read_peer(members["peer"])
    protocol = members["protocol"].one_of(PROTOCOLS)
    if direction is None or subject is None or peer is None or protocol is None:
        return None
    number = PROTOCOLS[protocol]
    icmp = number in (Protocol.ICMP, Protocol.ICMPV6)
    field = members.get("icmp_type" if icmp else "port")
    port = field.integer(0, 255 if icmp else 65535) if field is not None else 0
    query = members["dns_query"].string() or "" if "dns_query" in members else ""
    if port is None:
        return None
    return Flow(_DIRECTIONS[direction], subject, peer, number, port, query)


def verdict_json(judgement: Judgement) -> dict[str, Any]:
    """A judgement as the public format has it."""
    return {
        "verdict": judgement.verdict.value,
        "reason": judgement.reason.value,
        "rule": str(judgement.rule) if judgement.rule is not None else "",
        "l7": _l7_json(judgement.l7),
    }


def _l7_json(found: DnsRuleSet | HttpRuleSet | ProxyRuleSet | None) -> list[dict[str, Any]]:
    if isinstance(found, DnsRuleSet):
        keys = {"name": "matchName", "pattern": "matchPattern"}
        return [
            {"kind": "dns", keys[selector.kind.value]: selector.text, "rule": str(rule)}
            for selector, rule in found.allowed
        ]
    if isinstance(found, HttpRuleSet):
        return [
            {
                "kind": "http",
                **{k: v for k in ("path", "method", "host") if (v := getattr(request, k))},
                **({"headers": list(request.headers)} if request.headers else {}),
                "rule": str(rule),
            }
            for request, rule in found.allowed
        ]
    if found is None:
        return []
    return [{"kind": "proxy", "path": port.path, "rule": str(rule)} for port, rule in found.allowed]
