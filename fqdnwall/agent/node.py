"""Endpoints of a node: finding, guarding, watching and giving up what exists outside of us."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from fqdnwall.agent.service import Agent
from fqdnwall.api.backend import BackendError, Conflict, Invalid
from fqdnwall.api.models import EndpointSpec
from fqdnwall.datapath import attach
from fqdnwall.datapath.maps import MapFull
from fqdnwall.endpoint.endpoint import Endpoint, Place, Subject
from fqdnwall.identity.allocator import IdentitiesExhausted
from fqdnwall.netlink import (
    NetworkError,
    Veth,
    addresses_of,
    find_by_interface,
    find_by_namespace,
    find_by_pid,
    links,
)
from policies import Policy

Address = IPv4Address | IPv6Address
RESOLV_CONF = Path("/etc/resolv.conf")


class Node:
    """Puts existing interfaces under guard and takes them off, for one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._firewall = agent.firewall

    def add(self, spec: EndpointSpec) -> Endpoint:
        """Guard what the spec names. Raises BackendError."""
        try:
            veth = _find(spec)
        except NetworkError as error:
            raise Invalid(str(error)) from error
        for known in self._firewall.endpoints.values():
            if known.place.ifindex == veth.ifindex:
                raise Conflict(
                    f"{veth.ifname} is endpoint {known.id} already",
                    f"`fqdnwall endpoint delete {known.id}` takes it off",
                )
        addresses = tuple(a.ip for a in veth.inner_addresses if not a.ip.is_link_local)
        if not addresses:
            raise Invalid(
                f"{veth.inner_ifname} behind {veth.ifname} has no address",
                "give it one first: packets from unknown addresses are dropped",
            )
        subject = Subject(spec.name or veth.ifname, spec.namespace, spec.labels)
        place = Place(veth.ifindex, veth.ifname, addresses, spec.netns or "")
        return self._guard(subject, place)

    def _guard(self, subject: Subject, place: Place, endpoint_id: int = 0) -> Endpoint:
        try:
            endpoint = self._firewall.add(subject, place, endpoint_id)
        except (MapFull, IdentitiesExhausted) as error:
            raise BackendError(f"no room for another endpoint: {error}") from error
        self._attach(endpoint)
        return endpoint

    def _attach(self, endpoint: Endpoint) -> None:
        agent = self._agent
        try:
            agent.attach_mode = attach.attach(agent.datapath, endpoint.place.ifindex, agent.clsact)
        except (OSError, NetworkError) as error:
            self._firewall.remove(endpoint.id)
            raise BackendError(f"cannot attach to {endpoint.place.interface}: {error}") from error

    def delete(self, endpoint_id: int) -> None:
        """Take an endpoint off: its programs first, then what the maps hold of it."""
        place = self._firewall.endpoints[endpoint_id].place
        attach.detach(self._agent.datapath, place.ifindex, self._agent.clsact)
        self._firewall.remove(endpoint_id)
        self._agent.dns.pop(endpoint_id, None)

    def restore(self, policies: Sequence[Policy], resolvers: Sequence[Address]) -> list[Endpoint]:
        """Put policies in force, and take over what an earlier agent guarded and still exists.

        Maps change once, for all of it together: no endpoint is ever without its policy.
        """
        present = {link.index: link.name for link in links()}
        found = []
        with self._firewall.batch():
            self._firewall.set_hosts(host_addresses())
            self._firewall.set_resolvers(resolvers)
            self._firewall.set_policies(policies)
            for number, (subject, place) in self._firewall.recorded_endpoints().items():
                if present.get(place.ifindex) == place.interface:
                    found.append(self._firewall.add(subject, place, number))
        self._firewall.forget_strangers()
        for endpoint in found:
            self._attach(endpoint)
        known = {endpoint.place.ifindex for endpoint in found}
        for ifindex in set(attach.attached(self._agent.datapath)) - known:
            attach.detach(self._agent.datapath, ifindex, self._agent.clsact)
        return found

    def forget_gone(self) -> list[Endpoint]:
        """Give up endpoints whose interface is gone."""
        present = {link.index: link.name for link in links()}
        gone = [
            endpoint
            for endpoint in self._firewall.endpoints.values()
            if present.get(endpoint.place.ifindex) != endpoint.place.interface
        ]
        for endpoint in gone:
            for name in attach.HOOKS:
                link = self._agent.datapath.pins / "links" / f"{endpoint.place.ifindex}-{name}"
                link.unlink(missing_ok=True)
            self._firewall.remove(endpoint.id)
            self._agent.dns.pop(endpoint.id, None)
        return gone


def _find(spec: EndpointSpec) -> Veth:
    if spec.netns is not None:
        return find_by_namespace(spec.netns)
    if spec.pid is not None:
        return find_by_pid(spec.pid)
    assert spec.interface is not None
    return find_by_interface(spec.interface)


def host_addresses() -> list[Address]:
    """Every address of this host, loopback's left out."""
    return [
        interface.ip
        for link in links()
        if not link.loopback
        for interface in addresses_of(link.index)
    ]


def host_resolvers() -> list[Address]:
    """What the host's resolv.conf names; none of them on loopback."""
    found: list[Address] = []
    try:
        lines = RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        match line.split():
            case ["nameserver", text, *_]:
                try:
                    address = ip_address(text)
                except ValueError:
                    continue
                if not address.is_loopback:
                    found.append(address)
    return found
