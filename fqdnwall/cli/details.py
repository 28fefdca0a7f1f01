"""``Label: value`` views of one thing: the agent's status, one endpoint."""

from __future__ import annotations

from collections.abc import Iterable

from fqdnwall.api.models import DnsCounters, Endpoint, Problem, Severity, Status, Traffic, Usage
from fqdnwall.cli.order import addresses
from fqdnwall.cli.output import human_bytes, human_seconds, plural, render, safe
from fqdnwall.cli.views import map_table

INDENT = "  "


def status_text(status: Status) -> str:
    """The agent in one look, what is wrong with it last, where the eye rests."""
    fields = [
        ("fqdnwall", f"{status.version}, {status.setting} {status.instance!r}"),
        ("Process", f"{status.pid}, up {human_seconds(status.uptime_seconds)}"),
        ("Socket", status.socket),
        ("Kernel", status.kernel + _features(status)),
        ("Attach Mode", status.attach_mode),
        ("Enforcement", "audit: nothing is dropped by policy" if status.audit else "on"),
        ("Endpoints", str(status.endpoints)),
        ("Identities", str(status.identities)),
        ("Policies", f"{status.policies}, revision {status.policy_revision}"),
        ("Proxy Status", _proxy(status)),
        ("DNS", _dns(status.proxy.dns)),
        ("DNS Bounds", "\n".join(map(_usage, status.proxy.bounds)) or "none"),
        ("Events", _events(status)),
        ("Memory", f"{human_bytes(status.memory_rss_bytes)} resident"),
    ]
    text = _aligned(fields)
    if status.maps:
        text += "BPF Maps:\n" + _indented(render(map_table(status.maps)))
    text += _problems("Errors", status.problems, Severity.ERROR)
    text += _problems("Warnings", status.problems, Severity.WARNING)
    return text


def endpoint_text(endpoint: Endpoint) -> str:
    c = endpoint.counters
    return _aligned(
        [
            ("ID", str(endpoint.id)),
            ("Name", f"{endpoint.namespace}/{endpoint.name}"),
            ("State", endpoint.state.value + (f": {endpoint.message}" if endpoint.message else "")),
            ("Identity", str(endpoint.identity)),
            ("Labels", "\n".join(sorted(endpoint.labels)) or "none"),
            ("Addresses", "\n".join(addresses(endpoint.addresses)) or "none"),
            ("Interface", endpoint.interface),
            ("Network namespace", endpoint.netns or "-"),
            ("Policy (ingress)", endpoint.ingress.value),
            ("Policy (egress)", endpoint.egress.value),
            ("Policy revision", str(endpoint.policy_revision)),
            ("Policies", "\n".join(sorted(endpoint.policies)) or "none selects it"),
            ("Sent", f"{_traffic(c.egress_forwarded)}, dropped {_traffic(c.egress_dropped)}"),
            ("Received", f"{_traffic(c.ingress_forwarded)}, dropped {_traffic(c.ingress_dropped)}"),
            ("DNS", _dns(endpoint.dns)),
        ]
    )


def _aligned(fields: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in fields) + 2
    text = []
    for label, value in fields:
        first, *more = safe(value).split("\n")
        text.append(f"{label + ':':<{width}}{first}".rstrip())
        text += [" " * width + line for line in more]
    return "".join(f"{line}\n" for line in text)


def _indented(text: str) -> str:
    return "".join(f"{INDENT}{line}\n" for line in text.splitlines())


def _features(status: Status) -> str:
    missing = sorted(name for name, there in status.kernel_features.items() if not there)
    return f" (without: {', '.join(missing)})" if missing else ""


def _proxy(status: Status) -> str:
    proxy = status.proxy
    if not proxy.ports:
        return "not running"
    upstream = f", asks {', '.join(proxy.upstream)}" if proxy.upstream else ""
    ports = ", ".join(map(str, proxy.ports))
    return f"port {ports}, {plural(proxy.in_flight, 'query', 'queries')} in flight{upstream}"


def _dns(dns: DnsCounters) -> str:
    if not dns.queries:
        return "no query"
    text = (
        f"{plural(dns.queries, 'query', 'queries')}: "
        f"{dns.allowed} allowed, {dns.refused} refused, {dns.failed} failed; "
        f"{100 * dns.by_kernel / dns.queries:.0f}% by the kernel"
    )
    if dns.by_proxy:
        reasons = sorted(dns.by_proxy.items(), key=lambda item: (-item[1], item[0]))
        text += f", the rest by the proxy ({', '.join(f'{why} {n}' for why, n in reasons)})"
    return text


def _usage(usage: Usage) -> str:
    rejected = f" ({usage.rejected} rejected)" if usage.rejected else ""
    return f"{usage.name} {usage.used}/{usage.limit}{rejected}"


def _events(status: Status) -> str:
    events = status.events
    lost = events.lost_kernel + events.lost_subscribers
    text = f"{events.seen} seen, {lost} lost"
    if lost:
        text += f" ({events.lost_kernel} by the ring, {events.lost_subscribers} by slow monitors)"
    return f"{text}, {plural(events.subscribers, 'monitor')}"


def _traffic(traffic: Traffic) -> str:
    return f"{plural(traffic.packets, 'packet')} ({human_bytes(traffic.bytes)})"


def _problems(title: str, problems: Iterable[Problem], severity: Severity) -> str:
    text = ""
    for problem in problems:
        if problem.severity is severity:
            text += f"{INDENT}{safe(problem.subject)}: {safe(problem.message)}\n"
            if problem.hint:
                text += f"{INDENT * 2}{safe(problem.hint)}\n"
    return f"{title}:\n{text}" if text else ""
