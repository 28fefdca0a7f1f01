"""One plausible value of every model, as the fake agent gives them and golden tables show them."""

from __future__ import annotations

from fqdnwall.api.events import DnsExchange, Event, EventType, Peer
from fqdnwall.api.models import (
    CtEntry,
    Direction,
    DnsCounters,
    Endpoint,
    EndpointCounters,
    EndpointState,
    Enforcement,
    EventsStatus,
    FqdnCacheEntry,
    FqdnName,
    FqdnSource,
    IdentityEntry,
    IpcacheEntry,
    LearnedEntry,
    MapInfo,
    NameAddresses,
    PolicyDocument,
    PolicyMapEntry,
    PolicyVerdict,
    Problem,
    ProgInfo,
    ProxyStatus,
    Severity,
    Status,
    Traffic,
    Usage,
)
from fqdnwall.api.report import (
    Connections,
    Drops,
    LearnedAddress,
    LearnedName,
    QueryCount,
    QueryOutcome,
    Report,
    Subject,
)

MAPS = (
    MapInfo("fw_learned", 12, "hash", 24, 80, 65536, 2, 7340032, "/sys/fs/bpf/fqdnwall/a/learned"),
    MapInfo("fw_ct", 11, "lru_hash", 40, 64, 131072, None, 20971520, "/sys/fs/bpf/fqdnwall/a/ct"),
)

STATUS = Status(
    version="0.1.0",
    instance="a",
    setting="agent",
    pid=1234,
    socket="/run/fqdnwall/agent.sock",
    started_at="2026-11-24T10:00:00Z",
    uptime_seconds=3723.5,
    kernel="6.18.5",
    attach_mode="tcx",
    policy_revision=7,
    endpoints=2,
    identities=4,
    policies=1,
    memory_rss_bytes=61_000_000,
    maps=MAPS,
    proxy=ProxyStatus(
        ports=(40053,),
        in_flight=1,
        upstream=("127.0.0.53:53",),
        dns=DnsCounters(100, 90, 8, 2, 0, {"pattern": 60, "tcp": 40}),
        bounds=(Usage("queries in flight", 1, 4096), Usage("names", 2, 10000, 3)),
    ),
    events=EventsStatus(5000, 2, 0, 1),
    problems=(
        Problem(
            Severity.ERROR,
            "/etc/fqdnwall/policies/bad.yaml",
            "4: spec.egress[0].toFQDNs[0].matchName: 'a b' is not a name",
            "correct it; the last good version stays in force",
        ),
    ),
    kernel_features={"tcx": True, "kernel dns": False},
)

ENDPOINTS = (
    Endpoint(
        id=7,
        name="web",
        namespace="default",
        labels=("k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"),
        identity=16530,
        state=EndpointState.READY,
        interface="fw7",
        addresses=("10.0.0.7", "fd00::7"),
        ingress=Enforcement.DISABLED,
        egress=Enforcement.ENABLED,
        policy_revision=7,
        policies=("CiliumNetworkPolicy/default/allow-external-apis",),
        netns="/run/netns/web",
        counters=EndpointCounters(Traffic(120, 9000), Traffic(3, 180), Traffic(110, 80000)),
        dns=DnsCounters(10, 9, 1, 0, 0, {"pattern": 10}),
    ),
    Endpoint(
        id=232,
        name="worker",
        namespace="jobs",
        labels=("k8s:app=worker",),
        identity=16531,
        state=EndpointState.NOT_READY,
        interface="fw232",
        addresses=("10.0.0.23",),
        ingress=Enforcement.DISABLED,
        egress=Enforcement.AUDIT,
        message="its interface is gone",
    ),
)

IDENTITIES = (
    IdentityEntry(1, ("reserved:host",)),
    IdentityEntry(2, ("reserved:world",)),
    IdentityEntry(16530, ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"), 1),
    IdentityEntry(16777217, ("fqdn:*.example.com", "reserved:world")),
)

POLICY_YAML = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: allow-external-apis
spec:
  endpointSelector:
    matchLabels:
      app: web
  egress:
  - toFQDNs:
    - matchPattern: '*.example.com'
    toPorts:
    - ports:
      - port: '443'
        protocol: TCP
  - toCIDR:
    - 198.51.100.0/24
"""

POLICIES = (
    PolicyDocument(
        "CiliumNetworkPolicy",
        "allow-external-apis",
        "default",
        "/etc/fqdnwall/policies/apis.yaml:1",
        2,
        7,
        (7,),
        POLICY_YAML,
    ),
)

POLICY_ENTRIES = (
    PolicyMapEntry(
        endpoint_id=7,
        verdict=PolicyVerdict.REDIRECT,
        direction=Direction.EGRESS,
        identity=9,
        labels=("k8s:k8s-app=kube-dns",),
        protocol="UDP",
        port=53,
        end_port=53,
        precedence=0x81,
        prefix=24,
        proxy_port=40053,
        l7="dns",
        rule="default/allow-external-apis spec.egress[0]",
        packets=10,
        bytes=700,
    ),
    PolicyMapEntry(
        endpoint_id=7,
        verdict=PolicyVerdict.ALLOW,
        direction=Direction.EGRESS,
        identity=16777217,
        labels=("fqdn:*.example.com", "reserved:world"),
        protocol="TCP",
        port=8080,
        end_port=8095,
        precedence=1,
        prefix=20,
        rule="default/allow-external-apis spec.egress[1]",
    ),
    PolicyMapEntry(
        endpoint_id=7,
        verdict=PolicyVerdict.DENY,
        direction=Direction.EGRESS,
        identity=0,
        labels=(),
        protocol="ANY",
        port=0,
        end_port=65535,
        precedence=255,
    ),
)

CACHE = (
    FqdnCacheEntry(
        7,
        FqdnSource.LOOKUP,
        "api.example.com.",
        60,
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:01:00Z",
        ("192.0.2.1", "2001:db8::1"),
    ),
    FqdnCacheEntry(
        7,
        FqdnSource.CONNECTION,
        "cdn.example.com.",
        1,
        "2026-11-24T10:00:02Z",
        "2026-11-24T10:00:03Z",
        ("192.0.2.9",),
    ),
)

NAMES = (
    FqdnName(
        "*.example.com",
        "matchPattern",
        (16777217,),
        (
            NameAddresses("api.example.com.", ("192.0.2.1", "2001:db8::1")),
            NameAddresses("cdn.example.com.", ("192.0.2.9",)),
        ),
    ),
    FqdnName("one.example.org", "matchName", ()),
)

CT = (
    CtEntry(
        endpoint_id=7,
        protocol="TCP",
        direction="OUT",
        source="10.0.0.7",
        source_port=41000,
        destination="192.0.2.1",
        destination_port=443,
        state="established",
        remaining_seconds=7990.4,
        expires=17031,
        packets=6,
        bytes=500,
        reply_packets=5,
        reply_bytes=4000,
        rx_flags_seen=0x1B,
        tx_flags_seen=0x1B,
        flags=0x13,
        flag_names=("RxClosing", "TxClosing", "SeenNonSyn"),
        identity=16777217,
        policy_generation=7,
    ),
    CtEntry(
        endpoint_id=7,
        protocol="UDP",
        direction="OUT",
        source="fd00::7",
        source_port=5353,
        destination="2001:db8::53",
        destination_port=53,
        state="established",
        remaining_seconds=3.0,
        expires=9100,
        related=True,
        packets=1,
        bytes=70,
    ),
)

IPCACHE = (
    IpcacheEntry("::/0", 10, ("reserved:world-ipv6",)),
    IpcacheEntry("10.0.0.7/32", 16530, ("k8s:app=web",)),
    IpcacheEntry("0.0.0.0/0", 9, ("reserved:world-ipv4",)),
    IpcacheEntry("10.9.0.0/16", 16531, ("k8s:app=far",), "172.18.0.2", 0, ("hastunnel",)),
)

LEARNED = (
    LearnedEntry(
        7,
        "192.0.2.1",
        16777217,
        ("*.example.com",),
        "2026-11-24T10:01:00Z",
        58.2,
        ("api.example.com.",),
    ),
    LearnedEntry(7, "192.0.2.9", 16777217, ("*.example.com",), "2026-11-24T10:00:03Z", -4.0),
)

PROGS = (
    ProgInfo(
        name="fw_from_ep",
        id=41,
        type="sched_cls",
        tag="1f2e3d4c5b6a7988",
        interface="fw7",
        hook="ingress (tcx)",
        instructions=4100,
        verified_instructions=151234,
        jited_bytes=23000,
        memory_bytes=36864,
        loaded_at="2026-11-24T10:00:00Z",
    ),
)

CLIENT = Peer("10.0.0.7", 41000, 16530, 7, ("k8s:app=web",))
SERVER = Peer("192.0.2.1", 443, 16777217, 0, ("fqdn:*.example.com",), ("api.example.com.",))
STRANGER = Peer("198.51.100.5", 80, 2, 0, ("reserved:world",))

DROP = Event(
    EventType.DROP,
    "2026-11-24T10:00:05.250000Z",
    7,
    "web",
    Direction.EGRESS,
    "from-endpoint",
    "fw7",
    "TCP",
    CLIENT,
    STRANGER,
    "SYN",
    length_bytes=60,
    reason="Policy denied",
    reason_code=133,
)
TRACE = Event(
    EventType.TRACE,
    "2026-11-24T10:00:05.300000Z",
    7,
    "web",
    Direction.EGRESS,
    "to-stack",
    "fw7",
    "TCP",
    CLIENT,
    SERVER,
    "SYN",
    state="new",
)
VERDICT = Event(
    EventType.POLICY_VERDICT,
    "2026-11-24T10:00:05.300000Z",
    7,
    "web",
    Direction.EGRESS,
    "from-endpoint",
    "fw7",
    "TCP",
    CLIENT,
    SERVER,
    "SYN",
    verdict=PolicyVerdict.ALLOW,
    match="L3-L4",
    rule="default/allow-external-apis spec.egress[1]",
)
DNS = Event(
    EventType.DNS,
    "2026-11-24T10:00:05Z",
    7,
    "web",
    Direction.EGRESS,
    protocol="UDP",
    source=Peer("10.0.0.7", 5353, 16530, 7),
    destination=Peer("10.0.0.10", 53, 16540),
    verdict=PolicyVerdict.ALLOW,
    rule="default/allow-external-apis spec.egress[0]",
    dns=DnsExchange("api.example.com.", "A", "NOERROR", ("192.0.2.1",), (), 60, 0.00213, "proxy"),
)
AGENT = Event(EventType.AGENT, "2026-11-24T10:00:06Z", message="policy revision 8 is in force")
EVENTS = (DROP, TRACE, VERDICT, DNS, AGENT)

REPORT = Report(
    subject=Subject(
        "curl", "default", ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"), ("10.0.0.7",)
    ),
    command=("curl", "https://api.example.com"),
    started_at="2026-11-24T10:00:00Z",
    ended_at="2026-11-24T10:00:09Z",
    version="0.1.0",
    exit_status=0,
    policies=("CiliumNetworkPolicy/default/allow-external-apis",),
    queries=(
        QueryCount("evil.example.net.", "A", QueryOutcome.REFUSED, 2, "", "10.0.0.10"),
        QueryCount(
            "api.example.com.",
            "A",
            QueryOutcome.ALLOWED,
            1,
            "default/allow-external-apis spec.egress[0]",
            "10.0.0.10",
        ),
    ),
    names=(
        LearnedName(
            "api.example.com.",
            (LearnedAddress("192.0.2.1", 60), LearnedAddress("2001:db8::1", 60)),
            ("*.example.com",),
        ),
    ),
    connections=(
        Connections(
            "192.0.2.1",
            443,
            "TCP",
            1,
            12,
            5000,
            Direction.EGRESS,
            ("api.example.com.",),
            ("fqdn:*.example.com",),
            "default/allow-external-apis spec.egress[1]",
        ),
    ),
    drops=(
        Drops(
            "198.51.100.5",
            80,
            "TCP",
            "Policy denied",
            133,
            3,
            Direction.EGRESS,
            (),
            ("reserved:world",),
        ),
    ),
    seconds={"first_packet": 0.61, "load": 0.4},
)
