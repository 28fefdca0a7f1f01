"""A plan carried out in the caller's network namespace, and cleared away again.

Clearing needs the slot number alone, so it is the same for an instance that ends and for one that
was killed. Blocking calls; the shell runs them in a thread.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fqdnwall.netlink import sysctl
from fqdnwall.netlink.forwardchains import pass_forward_chains, unpass_forward_chains
from fqdnwall.netlink.links import (
    Link,
    add_addresses,
    create_veth,
    delete_link,
    links,
    loopback_up,
)
from fqdnwall.netlink.masquerade import add_masquerade, masquerade_tables, remove_masquerade
from fqdnwall.netlink.namespaces import entered
from fqdnwall.netlink.routes import (
    Route,
    add_default_route,
    add_local_delivery,
    local_delivery_tables,
    remove_local_delivery,
    routes,
)
from fqdnwall.netlink.untracked import ProxyMarks
from fqdnwall.sandbox.forwarding import Forwarding, forwarding_changes
from fqdnwall.sandbox.plan import (
    TABLE_PREFIX,
    HostFacts,
    Plan,
    plan,
    slot_of_interface,
    slot_of_nft_table,
    slot_of_pins,
    slot_of_routing_table,
)
from fqdnwall.sandbox.slots import Slot, dead_slot, recorded_slots

_DEFAULT_MTU = 1500
_NOTHING_KNOWN = HostFacts(destinations=(), ipv6=False, mtu=_DEFAULT_MTU)


@dataclass(frozen=True, slots=True)
class Places:
    """Where instances keep what is not in a network namespace."""

    state: Path  # /run/fqdnwall
    pins: Path  # /sys/fs/bpf/fqdnwall

    @property
    def run(self) -> Path:
        """Lock files and sockets of instances."""
        return self.state / "run"


def host_facts() -> HostFacts:
    """What a plan needs to know of the caller's namespace. Our own interfaces do not count."""
    found = {each.index: each for each in links()}
    known = [route for route in routes() if not _is_ours(route, found)]
    mtus = [
        found[route.ifindex].mtu
        for route in known
        if route.is_default and not route.local and route.ifindex in found
    ]
    return HostFacts(
        destinations=tuple(dict.fromkeys(route.destination for route in known)),
        ipv6=sysctl.ipv6_enabled(),
        mtu=min([*mtus, _DEFAULT_MTU * 6]) if mtus else _DEFAULT_MTU,
    )


def set_up(the_plan: Plan, netns_fd: int, marks: ProxyMarks, forwarding: Forwarding) -> int:
    """Connect the namespace as planned; the index of the host's side.

    Raises NetworkError, OSError (sysctls that cannot be written).
    """
    loopback_up()
    loopback_up(netns_fd)
    index, inner = create_veth(the_plan.interface, netns_fd, the_plan.inner_interface, the_plan.mtu)
    _own_sysctls(the_plan.interface, the_plan.ipv6 is not None, forward=True)
    with entered(netns_fd):
        _own_sysctls(the_plan.inner_interface, the_plan.ipv6 is not None, forward=False)
        with suppress(OSError):
            # As on a host: ping without privileges, which no_new_privs would take from it.
            sysctl.write("ipv4/ping_group_range", "0 2147483647")
    for subnet in the_plan.subnets:
        add_addresses(index, (subnet.gateway, *subnet.stubs))
        add_addresses(inner, (subnet.sandbox,), netns_fd)
        add_default_route(subnet.gateway.ip, inner, netns_fd)
    versions = [subnet.block.version for subnet in the_plan.subnets]
    add_local_delivery(
        the_plan.interface, marks.to_proxy, marks.mask, the_plan.routing_table, versions
    )
    add_masquerade(the_plan.nft_table, the_plan.addresses, the_plan.interface, marks)
    pass_forward_chains(the_plan.interface, the_plan.nft_table)
    forwarding.take(forwarding_changes(index, the_plan.ipv6 is not None))
    return index


def clear(slot: int, places: Places) -> None:
    """Remove everything that an instance with this slot may have made; nothing of it may exist.

    Every step is tried; the first that failed is raised at the end.
    """
    the_plan = plan(slot, _NOTHING_KNOWN)
    with ExitStack() as steps:  # a failing step does not keep the others from running
        steps.callback(_remove_tree, places.pins / the_plan.pins)
        steps.callback(remove_masquerade, the_plan.nft_table)
        steps.callback(unpass_forward_chains, the_plan.nft_table)
        steps.callback(remove_local_delivery, the_plan.routing_table)
        steps.callback(delete_link, the_plan.interface)


def clear_former(slot: Slot, places: Places) -> None:
    """Clear what the dead process that had this slot left, its socket included."""
    clear(slot.number, places)
    pid = slot.former_pid()
    if pid is not None and pid != os.getpid():
        (places.run / f"{pid}.sock").unlink(missing_ok=True)


def clear_dead(own: Slot, places: Places) -> None:
    """Clear what dead instances left in this namespace or on disk, in `own` and other slots.

    Looking comes first, and after `own` was taken: there is seldom anything, and changing nothing
    would still cost the kernel more than all of a start.
    """
    found = _traces(places)
    if own.number in found or own.former_pid() is not None:
        clear_former(own, places)
    for number in sorted((found | recorded_slots(places.run)) - {own.number}):
        with dead_slot(places.run, number) as slot:
            if slot is not None:
                clear_former(slot, places)


def _traces(places: Places) -> frozenset[int]:
    """The slots of which anything is to be seen, of live instances and of dead ones."""
    pins = [entry.name for entry in places.pins.iterdir()] if places.pins.is_dir() else []
    found = {
        *(slot_of_interface(each.name) for each in links()),
        *(slot_of_routing_table(table) for table in local_delivery_tables()),
        *(slot_of_nft_table(name) for name in masquerade_tables(TABLE_PREFIX)),
        *(slot_of_pins(name) for name in pins),
    }
    return frozenset(slot for slot in found if slot is not None)


def _own_sysctls(interface: str, ipv6: bool, forward: bool) -> None:
    """Settings of an interface of ours; they go when it goes.

    Raises OSError for one that must be and cannot be written, as in some containers.
    """
    if forward:
        _set(f"ipv4/conf/{interface}/forwarding", "1")
        if sysctl.read("ipv4/conf/all/rp_filter") == "1":
            # The greater of both counts: loose, since answers may be redirected to us.
            _set(f"ipv4/conf/{interface}/rp_filter", "2")
    if not ipv6:
        return
    _set(f"ipv6/conf/{interface}/disable_ipv6", "0")
    if forward and sysctl.read("ipv6/conf/all/forwarding") != "1":
        _set(f"ipv6/conf/{interface}/force_forwarding", "1")
    with suppress(OSError):
        _set(f"ipv6/conf/{interface}/accept_ra", "0")
        _set(f"ipv6/conf/{interface}/accept_dad", "0")


def _set(name: str, value: str) -> None:
    """Set a sysctl that exists and is not so yet."""
    if sysctl.read(name) not in (value, None):
        sysctl.write(name, value)


def _is_ours(route: Route, found: dict[int, Link]) -> bool:
    link = found.get(route.ifindex or 0)
    return link is not None and slot_of_interface(link.name) is not None


def _remove_tree(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
