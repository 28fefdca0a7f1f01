"""One-line forms, as cilium-dbg writes them: conntrack entries and events of the monitor."""

from __future__ import annotations

from fqdnwall.api.events import Event, EventType, Peer
from fqdnwall.api.models import CtEntry, PolicyVerdict
from fqdnwall.cli.order import address_key


def ct_line(entry: CtEntry, *, remaining: bool = False) -> str:
    """``TCP OUT 10.0.0.5:41000 -> 10.0.0.9:80 expires=17031 Packets=6 Bytes=500 ...``

    ``remaining`` adds the seconds left after ``expires``, which is in the boot clock's seconds.
    """
    left = f" (remaining: {entry.remaining_seconds:.0f} sec(s))" if remaining else ""
    related = " related" if entry.related else ""
    names = "".join(f"{name} " for name in entry.flag_names)
    rule = f" Rule={entry.rule!r}" if entry.rule else ""
    return (
        f"{entry.protocol} {entry.direction} "
        f"{_socket(entry.source, entry.source_port)} -> "
        f"{_socket(entry.destination, entry.destination_port)}{related} "
        f"expires={entry.expires}{left} "
        f"Packets={entry.packets} Bytes={entry.bytes} "
        f"ReplyPackets={entry.reply_packets} ReplyBytes={entry.reply_bytes} "
        f"RxFlagsSeen=0x{entry.rx_flags_seen:02x} TxFlagsSeen=0x{entry.tx_flags_seen:02x} "
        f"Flags=0x{entry.flags:04x} [ {names}] State={entry.state} "
        f"EndpointID={entry.endpoint_id} PeerID={entry.identity} "
        f"PolicyGeneration={entry.policy_generation}{rule}"
    )


def ct_key(entry: CtEntry) -> tuple[object, ...]:
    return (
        entry.endpoint_id,
        entry.protocol,
        entry.direction,
        address_key(entry.source),
        entry.source_port,
        address_key(entry.destination),
        entry.destination_port,
        entry.related,
    )


def event_line(event: Event, *, verbose: bool = False) -> str:
    """One event; ``verbose`` puts its time in front."""
    forms = {
        EventType.DROP: _drop,
        EventType.TRACE: _trace,
        EventType.POLICY_VERDICT: _verdict,
        EventType.DNS: _dns,
        EventType.AGENT: _agent,
        EventType.LOST: _agent,
    }
    line = forms[event.type](event)
    return f"{event.time} {line}" if verbose else line


def _drop(event: Event) -> str:
    reason = event.reason or event.reason_code
    return f"xx drop ({reason}) {_where(event)}: {_flow(event)}{_rule(event)}"


def _trace(event: Event) -> str:
    arrow = "<-" if event.observation_point.startswith("from-") else "->"
    point = event.observation_point.partition("-")[2] or "endpoint"
    if point == "endpoint":
        point = f"endpoint {event.endpoint_id}"
    state = f" state {event.state}" if event.state else ""
    return f"{arrow} {point} {_where(event, endpoint=False)}{state}: {_flow(event)}"


def _verdict(event: Event) -> str:
    peer = event.source if event.direction == "ingress" else event.destination
    action = event.verdict.value if event.verdict else "none"
    match = f", match {event.match}" if event.match else ""
    audited = ", audited" if event.audited else ""
    return (
        f"Policy verdict log: local EP ID {event.endpoint_id}, remote ID {peer.identity}, "
        f"proto {event.protocol}, {event.direction or '-'}, action {action}{audited}{match}, "
        f"{_flow(event)}{_rule(event)}"
    )


def _dns(event: Event) -> str:
    exchange = event.dns
    if exchange is None:
        return f"dns {_where(event)}: {_flow(event)}"
    refused = event.verdict is PolicyVerdict.DENY
    by = f" by {exchange.by}" if exchange.by else ""
    parts = [f"dns {'refused' if refused else exchange.rcode or 'query'}{by}"]
    parts.append(f"endpoint {event.endpoint_id}: {exchange.qname} {exchange.qtype}")
    if exchange.addresses:
        parts.append(f"= {', '.join(exchange.addresses)}")
    if exchange.cname_chain:
        parts.append(f"by way of {', '.join(exchange.cname_chain)}")
    if exchange.ttl is not None:
        parts.append(f"ttl {exchange.ttl}")
    if exchange.latency_seconds is not None:
        parts.append(f"in {exchange.latency_seconds * 1000:.1f} ms")
    if event.destination.address:
        parts.append(f"server {_socket(event.destination.address, event.destination.port)}")
    return " ".join(parts) + _rule(event)


def _agent(event: Event) -> str:
    return f">> {event.type.value}: {event.message}"


def _where(event: Event, *, endpoint: bool = True) -> str:
    parts = []
    if endpoint and event.endpoint_id:
        parts.append(f"endpoint {event.endpoint_id}")
    if event.interface:
        parts.append(f"interface {event.interface}")
    parts.append(f"identity {event.source.identity}->{event.destination.identity}")
    return ", ".join(parts)


def _flow(event: Event) -> str:
    text = f"{_peer(event.source)} -> {_peer(event.destination)}"
    if event.protocol:
        text += f" {event.protocol.lower()}"
    if event.icmp_type is not None:
        text += f" type {event.icmp_type} code {event.icmp_code or 0}"
    return f"{text} {event.tcp_flags}".rstrip()


def _peer(peer: Peer) -> str:
    name = f" ({peer.names[0]})" if peer.names else ""
    return _socket(peer.address, peer.port) + name


def _rule(event: Event) -> str:
    return f", rule {event.rule}" if event.rule else ""


def _socket(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
