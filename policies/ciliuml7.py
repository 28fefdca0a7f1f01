"""Layer 7 parts of a Cilium port rule: dns, http, l7proto, TLS contexts and listeners."""

from __future__ import annotations

import re
import warnings

from policies.ciliumpeers import read_name
from policies.model import (
    DnsRules,
    GenericRules,
    HeaderMatch,
    HttpRule,
    HttpRules,
    L7Rules,
    Listener,
    TlsContext,
)
from policies.names import NameSelector
from policies.reader import Field


def read_l7(at: Field) -> L7Rules | None:
    """``rules``: one kind at most. An empty mapping is no rule at all."""
    members = at.fields(("http", "kafka", "dns", "l7proto", "l7"))
    if "kafka" in members:
        members["kafka"].error("kafka rules were removed from the API and are not supported")
    kinds = [kind for kind in ("http", "dns", "l7proto") if kind in members]
    if len(kinds) > 1:
        at.error(f"has {' and '.join(kinds)}; only one of them may be given")
        return None
    if "l7" in members and "l7proto" not in members:
        members["l7"].error("needs l7proto beside it")
    if not kinds:
        return None
    if kinds[0] != "l7proto":
        items = members[kinds[0]].items()
        if not items:
            members[kinds[0]].error("is empty; leave it out, or say what is allowed")
        return _http_rules(items) if kinds[0] == "http" else _dns_rules(items)
    return _generic_rules(members)


def _dns_rules(items: list[Field]) -> DnsRules:
    selectors: list[NameSelector] = []
    for item in items:
        members = item.fields(("matchName", "matchPattern"))
        if not members:
            item.error("needs matchName or matchPattern")
        for kind, member in members.items():
            selector = read_name(member, kind)
            if selector is not None:
                selectors.append(selector)
    return DnsRules(tuple(selectors))


def _http_rules(items: list[Field]) -> HttpRules:
    return HttpRules(tuple(_http_rule(item) for item in items))


def _http_rule(at: Field) -> HttpRule:
    members = at.fields(("path", "method", "host", "headers", "headerMatches"))
    texts = {}
    for name in ("path", "method", "host"):
        texts[name] = members[name].string() or "" if name in members else ""
        if texts[name] and (problem := regex_problem(texts[name])):
            members[name].error(problem)
    headers: list[str] = []
    for item in members["headers"].items() if "headers" in members else ():
        text = item.string()
        if text == "":
            item.error("a header cannot be empty")
        headers.append(text or "")
    matches = members["headerMatches"].items() if "headerMatches" in members else []
    return HttpRule(
        texts["path"],
        texts["method"],
        texts["host"],
        tuple(headers),
        tuple(_header_match(item) for item in matches),
    )


def _header_match(at: Field) -> HeaderMatch:
    members = at.fields(("name", "value", "secret", "mismatch"))
    name = members["name"].string() if "name" in members else None
    if not name:
        at.error("needs name")
    value = members["value"].string() or "" if "value" in members else ""
    secret = ""
    if "secret" in members:
        secret = "/".join(_secret(members["secret"]))
    mismatch = ""
    if "mismatch" in members:
        mismatch = members["mismatch"].one_of(("LOG", "ADD", "DELETE", "REPLACE")) or ""
    return HeaderMatch(name or "", value, secret, mismatch)


def _generic_rules(members: dict[str, Field]) -> GenericRules:
    protocol = members["l7proto"].string() or ""
    rules = []
    for item in members["l7"].items() if "l7" in members else ():
        pairs = [(key, value.string() or "") for key, value in item.entries()]
        rules.append(tuple(sorted(pairs)))
    return GenericRules(protocol, tuple(rules))


def regex_problem(text: str) -> str | None:
    """What keeps a text from being a POSIX extended regular expression, or None.

    Python's grammar stands in for POSIX's; bracket classes such as ``[[:alpha:]]`` are put in its
    terms first. The expression is compiled, never run.
    """
    readable = re.sub(r"\[:\w+:\]", "a-z", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(readable)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{text!r} is not a regular expression: {error}"
    return None


def _secret(at: Field) -> tuple[str, str]:
    members = at.fields(("namespace", "name"))
    if "name" not in members:
        at.error("needs name")
    namespace = members["namespace"].string() or "" if "namespace" in members else ""
    return namespace, (members["name"].string() or "" if "name" in members else "")


def read_tls(at: Field) -> TlsContext:
    """``terminatingTLS`` or ``originatingTLS``."""
    members = at.fields(("secret", "trustedCA", "certificate", "privateKey"))
    if "secret" not in members:
        at.error("needs secret")
        return TlsContext("", "")
    namespace, name = _secret(members["secret"])
    others = [
        members[key].string() or "" if key in members else ""
        for key in ("trustedCA", "certificate", "privateKey")
    ]
    return TlsContext(namespace, name, *others)


def read_listener(at: Field) -> Listener | None:
    """``listener``: the Envoy listener to hand the traffic to."""
    members = at.fields(("envoyConfig", "name", "priority"))
    for needed in ("envoyConfig", "name"):
        if needed not in members:
            at.error(f"needs {needed}")
    if "envoyConfig" not in members or "name" not in members:
        return None
    config = members["envoyConfig"].fields(("kind", "name"))
    kind = ""
    if "kind" in config:
        kinds = ("CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig")
        kind = config["kind"].one_of(kinds) or ""
    if "name" not in config:
        members["envoyConfig"].error("needs name")
    config_name = config["name"].string() or "" if "name" in config else ""
    name = members["name"].string() or ""
    if not name:
        members["name"].error("cannot be empty")
    priority = members["priority"].integer(1, 100) if "priority" in members else None
    return Listener(kind, config_name, name, priority or 0)
