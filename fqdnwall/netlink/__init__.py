"""The kernel's networking through pyroute2, the only package that imports it.

Interfaces, addresses, routes and rules, source NAT, BPF filters by tc, and the way from a
namespace to the veth that is to be guarded. All functions block (for about a millisecond), may be
repeated, and act on the calling thread's network namespace unless they are given another's fd.
"""

from fqdnwall.netlink.endpoints import (
    Veth,
    find_by_interface,
    find_by_namespace,
    find_by_pid,
    veths_of,
)
from fqdnwall.netlink.errors import (
    AmbiguousInterface,
    NetworkError,
    NoSuchInterface,
    NotANamespace,
)
from fqdnwall.netlink.links import Link, addresses_of, link, links
from fqdnwall.netlink.namespaces import entered, open_namespace, open_namespace_of
from fqdnwall.netlink.routes import add_local_delivery, remove_local_delivery
from fqdnwall.netlink.tc import Hook, attach_bpf, attached_bpf, detach_bpf
from fqdnwall.netlink.transparent import add_proxy_rules, remove_proxy_rules
from fqdnwall.netlink.untracked import ProxyMarks

__all__ = [
    "AmbiguousInterface",
    "Hook",
    "Link",
    "NetworkError",
    "NoSuchInterface",
    "NotANamespace",
    "ProxyMarks",
    "Veth",
    "add_local_delivery",
    "add_proxy_rules",
    "addresses_of",
    "attach_bpf",
    "attached_bpf",
    "detach_bpf",
    "entered",
    "find_by_interface",
    "find_by_namespace",
    "find_by_pid",
    "link",
    "links",
    "open_namespace",
    "open_namespace_of",
    "remove_local_delivery",
    "remove_proxy_rules",
    "veths_of",
]
