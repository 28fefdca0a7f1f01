"""The ways from a client to the internet that are measured side by side, in one lab.

Each way is a client's network namespace behind the lab's host, masqueraded the same way, so that
they differ in the firewall alone:

    plain        routing, no firewall
    nftables N   a forward chain that accepts what is established and N addresses in a set
    fqdnwall …   `fqdnwall run`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from fqdnwall.api.client import AgentClient
from tests.lab import Lab, world
from tests.lab.container import load_nftables
from tests.lab.guard import Outcome, Session


class Way(Protocol):
    """A client's position: what is run here goes this way."""

    @property
    def title(self) -> str: ...

    def do(self, command: Sequence[str]) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Fenced:
    """A container of the lab, with or without nftables rules on the host for it."""

    title: str
    lab: Lab
    name: str

    def do(self, command: Sequence[str]) -> Outcome:
        container = next(box for box in self.lab.containers if box.namespace.role == self.name)
        done = container.namespace.run(command, resolv_conf=str(self.lab.resolv_conf))
        return Outcome(done.returncode, done.stdout, done.stderr, 0.0)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A session under `fqdnwall run`."""

    title: str
    session: Session

    def do(self, command: Sequence[str]) -> Outcome:
        return self.session.do(command)


def plain(lab: Lab) -> Fenced:
    """No firewall."""
    lab.add_container("plain")
    return Fenced("plain", lab, "plain")


def nftables(lab: Lab, size: int, allowed: Sequence[str]) -> Fenced:
    """A set of `allowed` and `size` more addresses."""
    name = f"nft{size}"
    container = lab.add_container(name)
    addresses = {*allowed, *(str(IPv4Address("240.0.0.0") + number) for number in range(size))}
    load_nftables(
        lab.host,
        f"""\
table inet bench_{name} {{
  set allowed {{ type ipv4_addr; elements = {{ {", ".join(sorted(addresses))} }} }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname != "{container.host_link}" accept
    ct state established,related accept
    ip daddr @allowed accept
    udp dport 53 accept
    drop
  }}
}}
""",
    )
    return Fenced(f"nftables {size:,}", lab, name)


@contextmanager
def guarded(
    lab: Lab, title: str, options: Sequence[str], learned: int, warm: Sequence[str]
) -> Iterator[Guarded]:
    """A session that has learned the addresses of the names `warm`, and `learned` more."""
    with Session(lab, ("--quiet", *options)) as session:
        way = Guarded(title, session)
        for name in warm:
            way.do(("dig", "+tcp", "+short", name))
        if learned:
            fill(way, lab, learned)
        yield way


def fill(way: Guarded, lab: Lab, addresses: int) -> None:
    """Has the client look up so many addresses that last an hour.

    Raises RuntimeError when the firewall has not learned them.
    """
    names = lab.directory / f"fill-{addresses}.txt"
    count = addresses // world.ADDRESSES_A_LASTING_ANSWER
    names.write_text("".join(f"n{number}.{world.LASTING_ZONE} A\n" for number in range(count)))
    server = lab.resolvers[0]
    way.do(("dnsperf", "-s", server, "-d", str(names), "-n", "1", "-e", "-q", "20", "-t", "10"))
    learned = len(AgentClient(way.session.socket).learned())
    if learned < addresses:
        raise RuntimeError(f"{learned} addresses learned, {addresses} wanted")


def policy_with(entries: int, port: int) -> str:
    """A policy of about so many entries that allows the lab's names at every port of the tests."""
    prefixes = "\n".join(
        f"        - cidr: {IPv4Address('240.0.0.0') + number}/32" for number in range(entries)
    )
    return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: many-entries}}
spec:
  endpointSelector: {{}}
  egress:
    - toEndpoints:
        - matchLabels:
            k8s:io.kubernetes.pod.namespace: kube-system
            k8s:k8s-app: kube-dns
      toPorts:
        - ports: [{{port: "53", protocol: ANY}}]
          rules: {{dns: [{{matchPattern: "*"}}]}}
    - toFQDNs: [{{matchPattern: "**.example.com"}}, {{matchPattern: "**.example"}}]
    - toCIDRSet:
{prefixes}
      toPorts:
        - ports: [{{port: "{port}", protocol: TCP}}]
"""
