from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

import pytest
from pyroute2.protocols import ETH_P_ALL

from fqdnwall.netlink import Hook, NetworkError, attach_bpf, attached_bpf, detach_bpf
from fqdnwall.netlink.links import create_veth
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel

_BPF_PROG_LOAD, _SCHED_CLS = 5, 3
_SYSCALL = {"x86_64": 321, "aarch64": 280}[os.uname().machine]


@pytest.fixture
def program() -> Iterator[int]:
    """A program that lets every packet go on: r0 = TC_ACT_UNSPEC; exit."""
    code = struct.pack("<BBhi BBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQ80x",
        _SCHED_CLS,
        2,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
    )
    buffer = ctypes.create_string_buffer(attributes)
    fd = ctypes.CDLL(None).syscall(_SYSCALL, _BPF_PROG_LOAD, buffer, len(attributes))
    assert fd >= 0
    yield fd
    os.close(fd)


def test_a_program_is_attached_once_for_each_hook_and_replaced_in_place(
    host: Namespace, other: Namespace, program: int
) -> None:
    index, _ = create_veth("fqw7", other.fd, "eth0")
    attach_bpf(index, Hook.INGRESS, program, "from_endpoint")
    attach_bpf(index, Hook.EGRESS, program, "to_endpoint")
    attach_bpf(index, Hook.INGRESS, program, "from_endpoint_2")
    assert attached_bpf(index, Hook.INGRESS) == "from_endpoint_2"
    assert attached_bpf(index, Hook.EGRESS) == "to_endpoint"
    shown = host.run(["tc", "filter", "show", "dev", "fqw7", "ingress"]).stdout
    assert shown.count("direct-action") == 1


def test_detaching_may_be_repeated_and_takes_the_qdisc_with_the_last_filter(
    host: Namespace, other: Namespace, program: int
) -> None:
    index, _ = create_veth("fqw7", other.fd, "eth0")
    attach_bpf(index, Hook.INGRESS, program, "a")
    attach_bpf(index, Hook.EGRESS, program, "b")
    detach_bpf(index, Hook.INGRESS)
    assert attached_bpf(index, Hook.INGRESS) is None
    assert attached_bpf(index, Hook.EGRESS) == "b"
    detach_bpf(index, Hook.EGRESS)
    detach_bpf(index, Hook.EGRESS)
    assert "clsact" not in host.run(["tc", "qdisc", "show", "dev", "fqw7"]).stdout


def test_a_filter_of_somebody_else_and_its_qdisc_stay(
    host: Namespace, other: Namespace, program: int
) -> None:
    index, _ = create_veth("fqw7", other.fd, "eth0")
    with host.netlink() as socket:
        socket.tc("add", "clsact", index)
        socket.tc(
            "add-filter",
            "bpf",
            index,
            7,
            parent=int(Hook.EGRESS),
            prio=9,
            protocol=ETH_P_ALL,
            fd=program,
            name="theirs",
            direct_action=True,
        )
    attach_bpf(index, Hook.INGRESS, program, "a")
    detach_bpf(index, Hook.INGRESS)
    assert "theirs" in host.run(["tc", "filter", "show", "dev", "fqw7", "egress"]).stdout


def test_an_interface_that_is_gone_is_an_error_to_attach_to_and_none_to_detach_from(
    host: Namespace, program: int
) -> None:
    with pytest.raises(NetworkError):
        attach_bpf(4711, Hook.INGRESS, program, "a")
    detach_bpf(4711, Hook.INGRESS)
    assert attached_bpf(4711, Hook.INGRESS) is None
