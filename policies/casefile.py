"""`policy test`: unit tests for policies, in a YAML file of named cases.

::

    policies: [allow-external-apis.yaml]      # files beside this one, or policies written out
    endpoints:
      app: {labels: {app: web}, namespace: default}
      dns: {labels: {k8s-app: kube-dns}, namespace: kube-system}
    fqdns: {api.example.com: [203.0.113.7]}
    cases:
    - name: the api is reachable over HTTPS
      subject: app
      egress: name:api.example.com
      port: 443/TCP
      expect: allow

A peer is an endpoint's name, an address, ``entity:E``, ``node:N`` or ``name:N``. ``port`` may be a
list. ``dns`` judges a DNS query for that name; ``rule`` is text that the deciding rule must have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from policies.cluster import Cluster, Flow, UnknownPeer
from policies.clusterfile import CLUSTER_FIELDS, read_cluster, read_peer, read_port
from policies.document import Sequence, load_documents, to_value
from policies.entries import Verdict
from policies.errors import PolicyError
from policies.explain import Explanation, explain
from policies.identity import Direction, Protocol
from policies.model import Policy
from policies.parse import ParseResult, parse_policies, parse_policy_objects, together
from policies.reader import Field, Problems, exactly_one
from policies.world import World

_CASE_FIELDS: Final = ("name", "subject", "egress", "ingress", "port", "dns", "expect", "rule")


@dataclass(frozen=True, slots=True)
class Case:
    """One expectation. A case with several ports in the file becomes several of these."""

    name: str
    line: int
    flow: Flow
    expect: Verdict
    rule: str = ""


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A test file as read; not to be run when there are ``errors``."""

    source: str
    cluster: Cluster
    policies: tuple[Policy, ...]
    cases: tuple[Case, ...]
    errors: tuple[PolicyError, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went; ``problem`` is empty when it passed."""

    case: Case
    problem: str
    explanation: Explanation | None = None

    @property
    def passed(self) -> bool:
        return not self.problem


def load_case_file(text: str, source: str, read: Callable[[str], str]) -> CaseFile:
    """Read a test file. ``read`` gives the text of a policy file by the path written in it; its
    OSError becomes an error at that line.
    """
    documents, errors = load_documents(text, source)
    problems = Problems(source, list(errors))
    cluster = Cluster()
    cases: list[Case] = []
    parsed: list[ParseResult] = []
    if not documents and not errors:
        problems.errors.append(PolicyError(source, 1, "", "the file is empty"))
    for document in documents:
        at = Field(document, "", problems)
        members = at.fields(("policies", *CLUSTER_FIELDS, "cases"))
        cluster = read_cluster(members)
        for item in members["policies"].items() if "policies" in members else ():
            parsed.append(_policies(item, read))
        if "cases" not in members:
            at.error("needs cases")
        for item in members["cases"].items() if "cases" in members else ():
            cases += _cases(item)
    found = together(parsed)
    cluster = replace(cluster, cidr_groups=(*cluster.cidr_groups, *found.cidr_groups))
    faults = (*problems.errors, *found.errors)
    return CaseFile(source, cluster, found.policies, tuple(cases), faults)


def _policies(at: Field, read: Callable[[str], str]) -> ParseResult:
    if not at.is_text:
        return parse_policy_objects([to_value(at.node)], f"{at.problems.source}: {at.path}")
    path = at.string() or ""
    try:
        return parse_policies(read(path), path)
    except OSError as error:
        at.error(f"cannot read {path}: {error.strerror or error}")
        return ParseResult((), ())


def _cases(at: Field) -> list[Case]:
    members = at.fields(_CASE_FIELDS)
    for needed in ("name", "subject", "expect"):
        if needed not in members:
            at.error(f"needs {needed}")
    which = exactly_one(at, members, ("egress", "ingress"))
    if which is None or not {"name", "subject", "expect"} <= set(members):
        return []
    direction = Direction.EGRESS if which == "egress" else Direction.INGRESS
    name = members["name"].string()
    subject = members["subject"].string()
    expect = members["expect"].one_of([verdict.value for verdict in Verdict])
    peer = read_peer(members[which])
    query = members["dns"].string() or "" if "dns" in members else ""
    rule = members["rule"].string() or "" if "rule" in members else ""
    ports = _ports(members, query)
    if name is None or subject is None or expect is None or peer is None:
        return []
    return [
        Case(
            name,
            at.line,
            Flow(direction, subject, peer, protocol, port, query),
            Verdict(expect),
            rule,
        )
        for port, protocol in ports
    ]


def _ports(members: dict[str, Field], query: str) -> list[tuple[int, Protocol]]:
    if "port" not in members:
        return [(53, Protocol.UDP)] if query else [(443, Protocol.TCP)]
    field = members["port"]
    items = field.items() if isinstance(field.node, Sequence) else [field]
    return [port for item in items if (port := read_port(item)) is not None]


def run_cases(file: CaseFile) -> tuple[CaseResult, ...]:
    """Judge every case."""
    world = World(file.cluster, file.policies)
    return tuple(_run(world, case) for case in file.cases)


def _run(world: World, case: Case) -> CaseResult:
    try:
        found = explain(world, case.flow)
    except UnknownPeer as error:
        return CaseResult(case, str(error))
    if found.verdict is not case.expect:
        rule = found.judgement.rule
        why = f"by {rule}" if rule is not None else f"({found.judgement.reason.value})"
        problem = f"expected {case.expect.value}, got {found.verdict.value} {why}"
        return CaseResult(case, problem, found)
    if case.rule and case.rule not in str(found.judgement.rule or ""):
        problem = f"expected the rule {case.rule!r}, got {found.judgement.rule}"
        return CaseResult(case, problem, found)
    return CaseResult(case, "", found)
