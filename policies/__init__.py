"""What a policy means: parse, match names, select, resolve, explain. Pure Python."""

from policies.allow import AllowPolicy, InvalidAllow, allow_policy
from policies.describe import selecting_labels
from policies.entries import (
    DnsRuleSet,
    Enforcing,
    Entry,
    HttpRuleSet,
    Lookup,
    ProxyKind,
    ProxyRuleSet,
    Resolved,
    RuleRef,
    Verdict,
    lookup,
    precedence,
)
from policies.errors import PolicyError
from policies.features import BASIC, Feature, unsupported
from policies.identity import Direction, Identity, Protocol
from policies.labels import (
    Label,
    Labels,
    cidr_labels,
    fqdn_labels,
    ip_block_labels,
    parse_label,
    pod_labels,
    reserved_labels,
)
from policies.model import CidrGroup, Policy, Rule, Spec, Tier
from policies.names import InvalidName, NameKind, NameSelector, name_selector, pattern_selector
from policies.options import Enforcement, Options, Service, Subject
from policies.parse import ParseResult, parse_policies, parse_policy_objects
from policies.passes import names_behind_passes, without_names_behind_passes
from policies.resolve import resolve, selected_by

__all__ = [
    "BASIC",
    "AllowPolicy",
    "CidrGroup",
    "Direction",
    "DnsRuleSet",
    "Enforcement",
    "Enforcing",
    "Entry",
    "Feature",
    "HttpRuleSet",
    "Identity",
    "InvalidAllow",
    "InvalidName",
    "Label",
    "Labels",
    "Lookup",
    "NameKind",
    "NameSelector",
    "Options",
    "ParseResult",
    "Policy",
    "PolicyError",
    "Protocol",
    "ProxyKind",
    "ProxyRuleSet",
    "Resolved",
    "Rule",
    "RuleRef",
    "Service",
    "Spec",
    "Subject",
    "Tier",
    "Verdict",
    "allow_policy",
    "cidr_labels",
    "fqdn_labels",
    "ip_block_labels",
    "lookup",
    "name_selector",
    "names_behind_passes",
    "parse_label",
    "parse_policies",
    "parse_policy_objects",
    "pattern_selector",
    "pod_labels",
    "precedence",
    "reserved_labels",
    "resolve",
    "selected_by",
    "selecting_labels",
    "unsupported",
    "without_names_behind_passes",
]
