"""From resolved policy to the entries of the kernel's policy map, and rules to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fqdnwall.datapath.layouts import PolicyKey, PolicyValue
from fqdnwall.datapath.layouts import Verdict as KernelVerdict
from policies import Entry, ProxyKind, Resolved, RuleRef, Verdict

STATIC_BITS = 40  # identity and direction
PROTOCOL_BITS = 8

_VERDICTS = {
    Verdict.ALLOW: KernelVerdict.ALLOW,
    Verdict.DENY: KernelVerdict.DENY,
    Verdict.REDIRECT: KernelVerdict.REDIRECT,
}


class Unenforceable(Exception):
    """An entry that needs what this datapath does not have."""


class RuleBook:
    """Rules by number, for all endpoints and policies: what events and conntrack carry.

    A rule keeps its number while the agent lives, whatever happens around it. 0 is no rule, and
    numbers up to ``after`` are those of an earlier agent, of which nothing is known.
    """

    def __init__(self, after: int = 0) -> None:
        self._first = after + 1
        self._rules: list[RuleRef] = []
        self._numbers: dict[RuleRef, int] = {}

    def number(self, rule: RuleRef) -> int:
        found = self._numbers.get(rule)
        if found is None:
            found = self._numbers[rule] = self._first + len(self._rules)
            self._rules.append(rule)
        return found

    def rule(self, number: int) -> RuleRef | None:
        at = number - self._first
        return self._rules[at] if 0 <= at < len(self._rules) else None

    def text(self, number: int) -> str:
        """The rule in one line; empty when there is none."""
        rule = self.rule(number)
        return str(rule) if rule else ""


def kernel_key(entry: Entry) -> PolicyKey:
    """The LPM key: identity and direction, protocol unless any, the port's leading bits."""
    return PolicyKey(
        STATIC_BITS + _l4_bits(entry), entry.identity, entry.direction, entry.protocol, entry.port
    )


def _l4_bits(entry: Entry) -> int:
    return PROTOCOL_BITS + entry.port_prefix if entry.protocol else 0


def kernel_entries(
    resolved: Resolved, rules: RuleBook, ruleset_of: Callable[[int], int]
) -> dict[PolicyKey, PolicyValue]:
    """The whole of an endpoint's policy map. Raises Unenforceable.

    ``ruleset_of``: from the index of a ``DnsRuleSet`` in ``resolved.dns`` to its tree's number.
    """
    return {
        kernel_key(entry): _value(entry, resolved, rules, ruleset_of) for entry in resolved.entries
    }


def _value(
    entry: Entry, resolved: Resolved, rules: RuleBook, ruleset_of: Callable[[int], int]
) -> PolicyValue:
    if entry.proxy not in (ProxyKind.NONE, ProxyKind.DNS):
        raise Unenforceable(f"{resolved.rule_of(entry)}: rules for {entry.proxy.value}")
    return PolicyValue(
        precedence=entry.precedence,
        rule=rules.number(resolved.rule_of(entry)),
        ruleset=ruleset_of(entry.l7_index - 1) if entry.l7_index else 0,
        verdict=_VERDICTS[entry.verdict],
        l4_prefix=_l4_bits(entry),
        pad=0,
    )


def audited_dns(number: int) -> Iterable[tuple[PolicyKey, PolicyValue]]:
    """Under audit, DNS that no rule sends through the proxy goes there too, to be seen."""
    for protocol in (6, 17):
        key = PolicyKey(STATIC_BITS + PROTOCOL_BITS + 16, 0, 1, protocol, 53)
        yield key, PolicyValue(0, number, 0, KernelVerdict.REDIRECT, PROTOCOL_BITS + 16, 0)
