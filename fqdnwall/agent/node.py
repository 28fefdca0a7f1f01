"""Endpoints of a node: finding, guarding, watching and giving up what exists outside of us."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from fqdnwall.agent.firewall import REFUSALS
from fqdnwall.agent.recorded import RecordTooLong
from fqdnwall.agent.service import Agent
from fqdnwall.api.backend import BackendError, Conflict, Invalid
from fqdnwall.api.models import EndpointSpec
from fqdnwall.datapath import attach
from fqdnwall.endpoint.endpoint import Endpoint, Place, Subject
from fqdnwall.netlink import (
    NetworkError,
    Veth,
    find_by_interface,
    find_by_namespace,
    find_by_pid,
    links,
)
from fqdnwall.netlink.rtnetlink import rtnetlink
from policies import CidrGroup, Policy

Address = IPv4Address | IPv6Address
IFF_LOOPBACK = 8
RESOLV_CONF = Path("/etc/resolv.conf")


class Node:
    """Puts existing interfaces under guard and takes them off, for one agent.

    An endpoint's addresses are those that its interface had when it was added: from another one
    nothing passes ("Invalid source ip"), for otherwise whoever is inside could take an address, and
    with it an identity, at will. Take the endpoint off and add it again when its addresses change.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._firewall = agent.firewall

    def add(self, spec: EndpointSpec) -> Endpoint:
        """Guard what the spec names. Raises BackendError."""
        try:
            veth = _find(spec)
        except NetworkError as error:
            raise Invalid(str(error)) from error
        addresses = tuple(a.ip for a in veth.inner_addresses if not a.ip.is_link_local)
        if not addresses:
            raise Invalid(
                f"{veth.inner_ifname} behind {veth.ifname} has no address",
                "give it one first: packets from unknown addresses are dropped",
            )
        subject = Subject(spec.name or veth.ifname, spec.namespace, spec.labels)
        place = Place(
            veth.ifindex, veth.ifname, addresses, spec.netns or "", bridge_of(veth.ifname)
        )
        self._must_be_free(place)
        return self._guard(subject, place)

    def _must_be_free(self, place: Place) -> None:
        """An interface has one policy, and an address one identity. Raises Conflict."""
        for known in self._firewall.endpoints.values():
            if known.place.ifindex == place.ifindex:
                raise Conflict(
                    f"{place.interface} is endpoint {known.id} already",
                    f"`fqdnwall endpoint delete {known.id}` takes it off",
                )
            shared = sorted(map(str, set(place.addresses) & set(known.place.addresses)))
            if shared:
                raise Conflict(
                    f"{shared[0]} is the address of endpoint {known.id} ({known.place.interface})",
                    "an address has one identity: give one of them another address, or "
                    f"take the other off with `fqdnwall endpoint delete {known.id}`",
                )

    def _guard(self, subject: Subject, place: Place) -> Endpoint:
        try:
            endpoint = self._firewall.add(subject, place)
        except REFUSALS as error:
            raise BackendError(
                f"no room for another endpoint: {error}",
                "`fqdnwall status` shows how full the maps are",
            ) from error
        except RecordTooLong as error:
            raise Invalid(str(error), "give it fewer or shorter labels") from error
        self._attach(endpoint)
        return endpoint

    def _attach(self, endpoint: Endpoint) -> None:
        agent = self._agent
        try:
            agent.attach_mode = attach.attach(agent.datapath, endpoint.place.ifindex, agent.clsact)
        except (OSError, NetworkError) as error:
            self._firewall.remove(endpoint.id)
            raise BackendError(
                f"cannot attach to {endpoint.place.interface}: {error}",
                "is the interface still there? `fqdnwall endpoint list` shows what is guarded",
            ) from error

    def delete(self, endpoint_id: int) -> None:
        """Take an endpoint off: its programs first, then what the maps hold of it."""
        place = self._firewall.endpoints[endpoint_id].place
        attach.detach(self._agent.datapath, place.ifindex, self._agent.clsact)
        self._firewall.remove(endpoint_id)
        self._agent.dns.pop(endpoint_id, None)

    def must_be_the_same_node(self) -> None:
        """Interfaces are known by their numbers, which mean nothing in another namespace.

        Raises NetworkError.
        """
        node = self._firewall.settings.node
        for known in self._firewall.recorded_endpoints().values():
            if known.node != node:
                raise NetworkError(
                    "the agent before this one guarded the interfaces of another network "
                    f"namespace ({known.place.interface}): start this one there, or take those "
                    f"off first with `fqdnwall cleanup --socket {self._agent.setup.socket}`"
                )

    def restore(
        self,
        policies: Sequence[Policy],
        resolvers: Sequence[Address],
        groups: Sequence[CidrGroup] = (),
    ) -> list[Endpoint]:
        """Put policies in force, and take over what an earlier agent guarded and still exists.

        Maps change once, for all of it together: no endpoint is ever without its policy. Raises
        MapFull, and then everything is as the earlier agent left it.
        """
        present = {link.index: link.name for link in links()}
        found = []
        with self._firewall.batch():
            self._firewall.set_hosts(host_addresses())
            self._firewall.set_resolvers(resolvers)
            self._firewall.set_policies(policies, groups)
            for number, known in self._firewall.recorded_endpoints().items():
                if present.get(known.place.ifindex) == known.place.interface:
                    found.append(self._firewall.add(known.subject, known.place, number))
        self._firewall.forget_strangers()
        for endpoint in found:
            self._attach(endpoint)
        guarded = {endpoint.place.ifindex for endpoint in found}
        for ifindex in set(attach.attached(self._agent.datapath)) - guarded:
            attach.detach(self._agent.datapath, ifindex, self._agent.clsact)
        return found

    def forget_gone(self) -> list[Endpoint]:
        """Give up endpoints whose interface is gone."""
        present = {link.index: link.name for link in links()}
        gone = [
            endpoint
            for endpoint in self._firewall.endpoints.values()
            if present.get(endpoint.place.ifindex) != endpoint.place.interface
            or not attach.is_attached(self._agent.datapath, endpoint.place.ifindex)
        ]
        for endpoint in gone:
            attach.forget(self._agent.datapath, endpoint.place.ifindex)
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
    with rtnetlink() as socket:
        loopback = {m["index"] for m in socket.get_links() if m["flags"] & IFF_LOOPBACK}
        return [
            ip_address(str(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS")))
            for m in socket.get_addr()
            if m["index"] not in loopback
        ]


def network_namespace() -> int:
    """The inode that tells the caller's network namespace from others."""
    return os.stat("/proc/self/ns/net").st_ino


def bridge_of(interface: str) -> int:
    """The ifindex of the bridge that an interface is a port of; 0 if of none."""
    try:
        return int(Path(f"/sys/class/net/{interface}/master/ifindex").read_text())
    except (OSError, ValueError):
        return 0


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
