"""CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup (``cilium.io/v2``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from policies.cidrs import parse_cidr
from policies.ciliumpeers import peer_fields, read_peers
from policies.ciliumports import read_icmps, read_port_rules
from policies.identity import Direction
from policies.labels import Network, Selector
from policies.metadata import Metadata
from policies.model import (
    Action,
    CidrGroup,
    DnsRules,
    Policy,
    Rule,
    Spec,
    Tier,
)
from policies.reader import Field
from policies.selectors import read_selector, subject_in_namespace

_AUTHENTICATION: Final = ("disabled", "required", "test-always-fail")
_MAX_LOG = 32
_SECTIONS: Final = (
    ("ingress", Direction.INGRESS, Action.ALLOW),
    ("ingressDeny", Direction.INGRESS, Action.DENY),
    ("egress", Direction.EGRESS, Action.ALLOW),
    ("egressDeny", Direction.EGRESS, Action.DENY),
)
_SPEC_FIELDS: Final = (
    "endpointSelector",
    "nodeSelector",
    *(name for name, _, _ in _SECTIONS),
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
)


def read_cilium_policy(members: dict[str, Field], at: Field, metadata: Metadata) -> Policy:
    """A CiliumNetworkPolicy, or, with an empty namespace, a CiliumClusterwideNetworkPolicy."""
    fields: list[Field] = []
    if "spec" in members:
        fields.append(members["spec"])
    if "specs" in members:
        fields += members["specs"].items()
    if not fields:
        at.error("needs spec or specs")
    specs = tuple(_spec(item, metadata.namespace) for item in fields)
    return Policy(
        metadata.kind,
        metadata.name,
        metadata.namespace,
        at.problems.source,
        at.line,
        Tier.NORMAL,
        specs,
    )


def _spec(at: Field, namespace: str) -> Spec:
    members = at.fields(_SPEC_FIELDS)
    subject, on_nodes = _subject(at, members, namespace)
    rules: list[Rule] = []
    for name, direction, action in _SECTIONS:
        for item in members[name].items() if name in members else ():
            rules.append(_rule(item, direction, action, namespace, subject))
    if on_nodes:
        _check_host_rules(at, rules)
    deny = _default_deny(members, rules)
    log = ""
    if "log" in members:
        inner = members["log"].fields(("value",))
        log = inner["value"].string(at_most=_MAX_LOG) or "" if "value" in inner else ""
    description = members["description"].string() or "" if "description" in members else ""
    labels = _rule_labels(members["labels"].items()) if "labels" in members else ()
    return Spec(at.path, at.line, subject, tuple(rules), deny, on_nodes, description, log, labels)


def _subject(at: Field, members: dict[str, Field], namespace: str) -> tuple[Selector, bool]:
    given = [name for name in ("endpointSelector", "nodeSelector") if name in members]
    if len(given) != 1:
        what = "cannot have both" if given else "needs one of"
        at.error(f"{what} endpointSelector and nodeSelector")
    selector = read_selector(members[given[0]]) if given else Selector()
    if given == ["nodeSelector"]:
        if namespace:
            members["nodeSelector"].error("is for CiliumClusterwideNetworkPolicy only")
        return selector, True
    return (subject_in_namespace(selector, namespace) if namespace else selector), False


def _default_deny(members: dict[str, Field], rules: Iterable[Rule]) -> tuple[bool, bool]:
    """By direction. A direction without rules has none, whatever the policy says."""
    given: dict[str, Field] = {}
    if "enableDefaultDeny" in members:
        given = members["enableDefaultDeny"].fields(("ingress", "egress"))
    found = []
    for direction, name in ((Direction.INGRESS, "ingress"), (Direction.EGRESS, "egress")):
        wanted = given[name].boolean() if name in given else None
        has_rules = any(rule.direction is direction for rule in rules)
        found.append(has_rules and wanted is not False)
    return found[0], found[1]


def _rule(
    at: Field, direction: Direction, action: Action, namespace: str, subject: Selector
) -> Rule:
    deny = action is Action.DENY
    prefix = "from" if direction is Direction.INGRESS else "to"
    known = [*peer_fields(direction, deny), prefix + "Requires", "toPorts", "icmps"]
    if not deny:
        known.append("authentication")
    members = at.fields(known)
    # A rule without a single word selects nothing; a rule with ports alone selects every peer.
    peers = read_peers(at, members, direction, namespace, subject)
    ports = None
    if "toPorts" in members:
        ports = read_port_rules(members["toPorts"], direction, deny) or None
    if "icmps" in members:
        icmps = read_icmps(members["icmps"])
        if ports and icmps:
            members["icmps"].error("cannot stand beside toPorts; write a rule for each")
        ports = icmps or ports
    if "toServices" in members and "toPorts" in members and ports:
        members["toServices"].error("cannot stand beside toPorts")
    if peers is None and ports is None:
        peers = ()
    mode = ""
    if "authentication" in members:
        mode = _authentication(members["authentication"])
    return Rule(at.path, at.line, direction, action, peers, ports, authentication=mode)


def _authentication(at: Field) -> str:
    members = at.fields(("mode",))
    if "mode" not in members:
        at.error("needs mode")
        return ""
    return members["mode"].one_of(_AUTHENTICATION) or ""


def _rule_labels(items: list[Field]) -> tuple[str, ...]:
    found = []
    for item in items:
        members = item.fields(("key", "value", "source"))
        texts = {name: members[name].string() or "" for name in members}
        if not texts.get("key"):
            item.error("needs key")
        label = f"{texts.get('source') or 'unspec'}:{texts.get('key', '')}"
        found.append(f"{label}={texts['value']}" if texts.get("value") else label)
    return tuple(found)


def _check_host_rules(at: Field, rules: Iterable[Rule]) -> None:
    """Policies for nodes know no layer 7 but DNS on egress, and no names."""
    for rule in rules:
        for port in rule.ports or ():
            dns = isinstance(port.l7, DnsRules)
            if port.redirects and not (dns and rule.direction is Direction.EGRESS):
                message = "a policy for nodes can have dns rules on egress only"
                at.problems.add(at, message, port.path)


def read_cidr_group(members: dict[str, Field], at: Field, metadata: Metadata) -> CidrGroup:
    """A CiliumCIDRGroup."""
    cidrs: list[Network] = []
    if "spec" not in members:
        at.error("needs spec")
    else:
        inner = members["spec"].fields(("externalCIDRs",))
        for item in inner["externalCIDRs"].items() if "externalCIDRs" in inner else ():
            text = item.string()
            if text is None:
                continue
            try:
                cidrs.append(parse_cidr(text))
            except ValueError as error:
                item.error(str(error))
    labels = frozenset(metadata.labels)
    return CidrGroup(metadata.name, labels, tuple(cidrs), at.problems.source, at.line)
