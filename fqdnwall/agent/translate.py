"""From the datapath's and the proxy's records to the API's events, and from state to its models.

Pure: everything is a function of a record and of what ``Firewall`` holds now.
"""

from __future__ import annotations

from ipaddress import ip_address

from dnsproxy.model import Answered, Failed, Judged, Question, Record
from fqdnwall.agent.clock import rfc3339
from fqdnwall.agent.firewall import Firewall
from fqdnwall.agent.kerneldns import KernelDns
from fqdnwall.api.events import DnsExchange, EventType, Peer
from fqdnwall.api.events import Event as ApiEvent
from fqdnwall.api.models import Direction, PolicyVerdict
from fqdnwall.datapath.layouts import CtState, DnsPath, DropReason, Event, bytes_address
from fqdnwall.datapath.layouts import EventType as KernelType
from fqdnwall.datapath.layouts import Verdict as KernelVerdict
from fqdnwall.identity.allocator import label_texts

PROTOCOLS = {
    0: "ANY",
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    58: "ICMPv6",
    112: "VRRP",
    132: "SCTP",
}
QTYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    64: "SVCB",
    65: "HTTPS",
    255: "ANY",
}
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
ICMP_NUMBERS = (1, 58)

_VERDICTS = {
    KernelVerdict.ALLOW: PolicyVerdict.ALLOW,
    KernelVerdict.DENY: PolicyVerdict.DENY,
    KernelVerdict.REDIRECT: PolicyVerdict.REDIRECT,
}


def protocol_name(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def qtype_name(number: int) -> str:
    return QTYPES.get(number, f"TYPE{number}")


def rcode_name(number: int) -> str:
    return RCODES.get(number, f"RCODE{number}")


def tcp_flags(bits: int) -> str:
    return ", ".join(name for at, name in enumerate(TCP_FLAGS) if bits >> at & 1)


def reason_text(number: int) -> str:
    try:
        return DropReason(number).text
    except ValueError:
        return f"reason {number}"


def kernel_event(record: Event, firewall: Firewall) -> ApiEvent:
    """One record of the ring buffer, in words."""
    endpoint = firewall.endpoints.get(record.endpoint)
    local, remote = _local_peer(record, firewall), _remote_peer(record, firewall)
    source, destination = (local, remote) if record.from_endpoint else (remote, local)
    icmp = record.protocol in ICMP_NUMBERS
    verdict: PolicyVerdict | None = None
    if record.type == KernelType.POLICY_VERDICT:
        verdict = _VERDICTS[KernelVerdict(record.reason)]
    elif record.audited:
        verdict = PolicyVerdict.AUDIT
    drop = record.type == KernelType.DROP
    return ApiEvent(
        type=_TYPES[KernelType(record.type)],
        time=rfc3339(record.time / 1e9),
        endpoint_id=record.endpoint,
        endpoint_name=endpoint.subject.name if endpoint else "",
        direction=Direction.EGRESS if record.direction else Direction.INGRESS,
        observation_point="from-endpoint" if record.from_endpoint else "to-endpoint",
        interface=endpoint.place.interface if endpoint else "",
        protocol=protocol_name(record.protocol),
        source=source,
        destination=destination,
        tcp_flags=tcp_flags(record.tcp_flags),
        icmp_type=record.icmp_type if icmp else None,
        icmp_code=record.icmp_code if icmp else None,
        length_bytes=record.length,
        state=CtState(record.reason).name.lower() if record.type == KernelType.TRACE else "",
        verdict=verdict,
        reason=reason_text(record.reason) if drop else "",
        reason_code=record.reason if drop else 0,
        rule=firewall.rules.text(record.rule),
        audited=bool(record.audited),
    )


_TYPES = {
    KernelType.DROP: EventType.DROP,
    KernelType.TRACE: EventType.TRACE,
    KernelType.POLICY_VERDICT: EventType.POLICY_VERDICT,
}


def _port(record: Event, port: int) -> int:
    return 0 if record.protocol in ICMP_NUMBERS else port


def _local_peer(record: Event, firewall: Firewall) -> Peer:
    return Peer(
        address=str(bytes_address(record.local)),
        port=_port(record, record.local_port),
        identity=record.local_identity,
        endpoint_id=record.endpoint,
        labels=label_texts(firewall.allocator.labels_of(record.local_identity)),
    )


def _remote_peer(record: Event, firewall: Firewall) -> Peer:
    address = bytes_address(record.remote)
    other = firewall.endpoint_of(address)
    return Peer(
        address=str(address),
        port=_port(record, record.remote_port),
        identity=record.remote_identity,
        endpoint_id=other.id if other else 0,
        labels=label_texts(firewall.allocator.labels_of(record.remote_identity)),
        names=names_of(firewall, record.endpoint, str(address)),
    )


def names_of(firewall: Firewall, endpoint_id: int, address: str) -> tuple[str, ...]:
    """Names under which the endpoint learned the address, the latest first."""
    learning = firewall.learning
    names = learning.cache.names_of(learning.scope(endpoint_id), ip_address(address))
    return tuple(name for name in names if not name.startswith("~"))


def dns_event(record: Record, firewall: Firewall, now: str) -> ApiEvent | None:
    """What the proxy recorded, in words; None for a query that is only on its way."""
    question = record.question
    if isinstance(record, Judged) and record.judgement.rule is not None:
        return None
    if question is None:
        return None
    endpoint = firewall.endpoints.get(question.endpoint)
    client = record.client
    server = ip_address(question.server[0])
    identity = firewall.identity_of(server)
    exchange, verdict, message, rule = _exchange(record, question)
    return ApiEvent(
        type=EventType.DNS,
        time=now,
        endpoint_id=question.endpoint,
        endpoint_name=endpoint.subject.name if endpoint else "",
        direction=Direction.EGRESS,
        observation_point="to-proxy",
        interface=endpoint.place.interface if endpoint else "",
        protocol=question.transport.name,
        source=Peer(client[0], client[1], endpoint.identity if endpoint else 0, question.endpoint),
        destination=Peer(
            question.server[0],
            question.server[1],
            identity,
            labels=label_texts(firewall.allocator.labels_of(identity)),
        ),
        verdict=verdict,
        rule=rule,
        audited=verdict is PolicyVerdict.AUDIT,
        dns=exchange,
        message=message,
    )


def kernel_dns_event(event: KernelDns, firewall: Firewall) -> ApiEvent:
    """An exchange that the kernel settled, in words."""
    endpoint = firewall.endpoints.get(event.endpoint)
    identity = firewall.identity_of(ip_address(event.server[0]))
    refused = event.path is DnsPath.REFUSED
    return ApiEvent(
        type=EventType.DNS,
        time=rfc3339(event.at),
        endpoint_id=event.endpoint,
        endpoint_name=endpoint.subject.name if endpoint else "",
        direction=Direction.EGRESS,
        observation_point="from-endpoint" if refused else "to-endpoint",
        interface=endpoint.place.interface if endpoint else "",
        protocol="UDP",
        source=Peer(*event.client, endpoint.identity if endpoint else 0, event.endpoint),
        destination=Peer(
            *event.server, identity, labels=label_texts(firewall.allocator.labels_of(identity))
        ),
        verdict=PolicyVerdict.DENY if refused else PolicyVerdict.ALLOW,
        rule=firewall.rules.text(event.rule),
        dns=DnsExchange(
            qname=event.qname,
            qtype=qtype_name(event.qtype),
            rcode=rcode_name(event.rcode),
            addresses=tuple(str(address) for address in event.addresses),
            ttl=event.ttl if event.addresses else None,
            latency_seconds=None if refused else event.latency_seconds,
            by="kernel",
        ),
        message="sent on truncated" if event.path is DnsPath.TRUNCATED else "",
    )


def _exchange(record: Record, question: Question) -> tuple[DnsExchange, PolicyVerdict, str, str]:
    qtype = qtype_name(question.qtype)
    match record:
        case Judged(judgement=judgement):
            verdict = PolicyVerdict.AUDIT if judgement.allowed else PolicyVerdict.DENY
            rcode = "" if judgement.allowed else "REFUSED"
            return DnsExchange(question.qname, qtype, rcode, by="proxy"), verdict, "", ""
        case Answered(rule=rule, rcode=rcode_number, learned=learned, latency_seconds=latency):
            addresses = learned.addresses if learned else ()
            exchange = DnsExchange(
                qname=question.qname,
                qtype=qtype,
                rcode=rcode_name(rcode_number),
                addresses=tuple(str(address) for address, _ in addresses),
                cname_chain=learned.cname_chain if learned else (),
                ttl=min((ttl for _, ttl in addresses), default=None),
                latency_seconds=latency,
                by="proxy",
            )
            verdict = PolicyVerdict.ALLOW if rule is not None else PolicyVerdict.AUDIT
            return exchange, verdict, "", rule or ""
        case Failed(failure=failure, detail=detail):
            text = f"{failure.value}: {detail}" if detail else failure.value
            exchange = DnsExchange(question.qname, qtype, "SERVFAIL", by="proxy")
            return exchange, PolicyVerdict.ALLOW, text, ""
