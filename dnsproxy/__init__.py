"""The transparent DNS proxy: a sans-IO engine and the trio shells around it.

`engine` decides, on what `reader` reads strictly; `wire` composes replies with dnslib; `flows` and
`exchange` are its state. `udp` and `tcp` move bytes, `sockets` and `packet` know Linux, `proxy`
puts them together. What the agent needs is re-exported here.
"""

from dnsproxy.config import EngineConfig, ProxyConfig, RefusalCode, TcpConfig, UpstreamPolicy
from dnsproxy.metrics import Metrics, Sample
from dnsproxy.model import (
    Answered,
    DnsProxyError,
    EndpointLookup,
    Failed,
    Failure,
    Installer,
    InstallError,
    InstantInstaller,
    Judge,
    Judged,
    Judgement,
    Learned,
    Observer,
    Query,
    Question,
    Record,
    Transport,
)
from dnsproxy.proxy import Proxy
from dnsproxy.sockets import ListenError, Ports

__all__ = [
    "Answered",
    "DnsProxyError",
    "EndpointLookup",
    "EngineConfig",
    "Failed",
    "Failure",
    "InstallError",
    "Installer",
    "InstantInstaller",
    "Judge",
    "Judged",
    "Judgement",
    "Learned",
    "ListenError",
    "Metrics",
    "Observer",
    "Ports",
    "Proxy",
    "ProxyConfig",
    "Query",
    "Question",
    "Record",
    "RefusalCode",
    "Sample",
    "TcpConfig",
    "Transport",
    "UpstreamPolicy",
]
