"""What exists in the lab's small internet: addresses, names, and the zone that ties them.

Addresses come from the blocks set aside for documentation and for carriers (RFC 5737, RFC 3849,
RFC 6598), so that nothing here can be mistaken for, or reach, a real host.

        fqdnwall's machine                      the internet
      +--------------------+  veth  +-----------------------------------------+
      | host               |--------| resolvers, authoritative servers, and   |
      | 192.0.2.2          |        | web servers, each on addresses of its   |
      | 2001:db8:1::2      |        | own; 192.0.2.1 and 2001:db8:1::1 route  |
      +--------------------+        +-----------------------------------------+

The internet has no route to anything behind `host`: what leaves the machine must be masqueraded.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

HOST_V4, HOST_V6 = IPv4Address("198.51.100.2"), IPv6Address("2001:db8:1::2")
ROUTER_V4, ROUTER_V6 = IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::1")
UPLINK_V4, UPLINK_V6 = IPv4Network("198.51.100.0/28"), IPv6Network("2001:db8:1::/64")

RESOLVER_V4, RESOLVER_V6 = IPv4Address("198.51.100.53"), IPv6Address("2001:db8:53::53")
OTHER_RESOLVER_V4, OTHER_RESOLVER_V6 = IPv4Address("198.51.100.54"), IPv6Address("2001:db8:53::54")
AUTHORITATIVE_V4, AUTHORITATIVE_V6 = IPv4Address("198.51.100.5"), IPv6Address("2001:db8:53::5")
ROTATING_V4, ROTATING_V6 = IPv4Address("198.51.100.6"), IPv6Address("2001:db8:53::6")

ROTATING_ZONE = "fresh.example"
ROTATING_NAME = "pubsub.googleapis.com"
LASTING_ZONE = "lasting.example"
"""As the rotating zone, with many addresses an answer and an hour to live: fills a firewall."""
ADDRESSES_A_LASTING_ANSWER = 50
FRESH_V4, FRESH_V6 = IPv4Network("100.64.0.0/11"), IPv6Network("2001:db8:f::/64")
"""Where the answers of the rotating zone point; every address of both serves the web."""

WEB_PORTS, TLS_PORTS = (80, 8080), (443, 8443)


@dataclass(frozen=True, slots=True)
class Site:
    """A name with addresses of its own, a web server on each."""

    name: str
    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    ttl_seconds: int = 300


@dataclass(frozen=True, slots=True)
class Alias:
    """A CNAME record."""

    name: str
    target: str
    ttl_seconds: int = 60


SITES = (
    # What the example policy is about (policies/examples/allow-external-apis.yaml).
    Site("api.github.com", ("203.0.113.1",), ("2001:db8:80::1",)),
    Site("www.googleapis.com", ("203.0.113.2", "203.0.113.3"), ("2001:db8:80::2",)),
    Site("deep.www.googleapis.com", ("203.0.113.4",), ("2001:db8:80::4",)),
    Site("many.googleapis.com", tuple(f"203.0.113.{last}" for last in range(100, 220))),
    # And the rest of the internet.
    Site("api.example.com", ("203.0.113.10",), ("2001:db8:80::10",)),
    Site("www.example.com", ("203.0.113.11", "203.0.113.12"), ("2001:db8:80::11",)),
    Site("brief.example.com", ("203.0.113.13",), ("2001:db8:80::13",), ttl_seconds=1),
    Site("v4only.example.com", ("203.0.113.14",)),
    Site("v6only.example.com", (), ("2001:db8:80::15",)),
    Site("deep.down.example.com", ("203.0.113.16",), ("2001:db8:80::16",)),
    Site("edge7.pop.example.net", ("203.0.113.20", "203.0.113.21"), ("2001:db8:80::20",)),
    Site("unlisted.example.org", ("203.0.113.30",), ("2001:db8:80::30",)),
    # Two names that share an address: one may be allowed and the other not.
    Site("shared-a.example.com", ("203.0.113.40",), ("2001:db8:80::40",)),
    Site("shared-b.example.org", ("203.0.113.40",), ("2001:db8:80::40",)),
    # Too much for a UDP answer of 1,232 octets: the client has to ask again over TCP.
    Site("many.example.com", tuple(f"203.0.113.{last}" for last in range(100, 220))),
)
ALIASES = (
    # A content delivery network: three steps from the name that is asked to the addresses.
    Alias("storage.googleapis.com", "assets.cdn.example.net"),
    Alias("assets.example.com", "assets.cdn.example.net"),
    Alias("assets.cdn.example.net", "eu.pop.example.net", ttl_seconds=30),
    Alias("eu.pop.example.net", "edge7.pop.example.net", ttl_seconds=20),
    Alias("loop-a.example.com", "loop-b.example.com"),
    Alias("loop-b.example.com", "loop-a.example.com"),
)
OPEN_ADDRESS_V4, OPEN_ADDRESS_V6 = IPv4Address("203.0.113.90"), IPv6Address("2001:db8:80::90")
"""A web server that no name points at."""


def names() -> tuple[str, ...]:
    """Every name that a client may open a web page of."""
    return (*(site.name for site in SITES), *(alias.name for alias in ALIASES))


def addresses_of(name: str) -> tuple[str, ...]:
    """The IPv4 addresses of a site."""
    return next(site.v4 for site in SITES if site.name == name)


def internet_addresses() -> tuple[tuple[str, int], ...]:
    """(address, prefix length) of each address of the internet's servers, the router's aside."""
    servers = [
        RESOLVER_V4,
        RESOLVER_V6,
        OTHER_RESOLVER_V4,
        OTHER_RESOLVER_V6,
        AUTHORITATIVE_V4,
        AUTHORITATIVE_V6,
        ROTATING_V4,
        ROTATING_V6,
        OPEN_ADDRESS_V4,
        OPEN_ADDRESS_V6,
    ]
    v4 = {str(server) for server in servers if server.version == 4}
    v6 = {str(server) for server in servers if server.version == 6}
    for site in SITES:
        v4.update(site.v4)
        v6.update(site.v6)
    return (*((address, 32) for address in sorted(v4)), *((address, 128) for address in sorted(v6)))


def zone_file() -> str:
    """The whole of the lab's DNS below the root, the rotating zone aside, in one root zone."""
    lines = [
        "$ORIGIN .",
        "$TTL 300",
        "@ SOA ns.lab. hostmaster.lab. 1 3600 600 86400 5",
        "@ NS ns.lab.",
        f"ns.lab. A {AUTHORITATIVE_V4}",
        f"ns.lab. AAAA {AUTHORITATIVE_V6}",
        *(f"{zone}. NS ns.rotating.lab." for zone in (ROTATING_ZONE, ROTATING_NAME, LASTING_ZONE)),
        f"ns.rotating.lab. A {ROTATING_V4}",
        f"ns.rotating.lab. AAAA {ROTATING_V6}",
    ]
    for site in SITES:
        lines += [f"{site.name}. {site.ttl_seconds} A {address}" for address in site.v4]
        lines += [f"{site.name}. {site.ttl_seconds} AAAA {address}" for address in site.v6]
    lines += [f"{alias.name}. {alias.ttl_seconds} CNAME {alias.target}." for alias in ALIASES]
    return "\n".join(lines) + "\n"
