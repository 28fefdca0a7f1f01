"""What the command may not do: capabilities that it loses, system calls that are refused.

The firewall stands outside, on the host's end of the veth, so inside nothing has to be trusted.
What is left to prevent is undoing it from inside or going round it:

- no_new_privs, so that neither sudo nor file capabilities give anything back;
- a user has no capability at all; root keeps those that a container runtime would leave it.
  CAP_NET_RAW is among them: raw packets are judged at the veth like all others;
- /proc and /sys are its namespaces' own and read-only, so that root cannot have the kernel run
  something outside (core_pattern, uevent_helper);
- AF_VSOCK, which is not bound to a network namespace, is refused, and io_uring, which could open
  such a socket unseen by this filter, is as if the kernel had none;
- TIOCSTI and TIOCLINUX, by which a program types commands into the shell that started it.

Not prevented: asking a process outside to do it, over a unix socket in the file system that the
user may open (a container engine, a session bus), or root writing files that the host's services
run. A command that is to be distrusted so far needs another user, not only another network.
"""

from __future__ import annotations

import struct

# Numbers of include/uapi/linux/capability.h.
ROOT_CAPABILITIES: dict[str, int] = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "SETFCAP": 31,
}

_AF_VSOCK = 40
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

# struct seccomp_data: nr at 0, arch at 4, low halves of args[0], args[1] at 16, 24 (little endian)
_NUMBER, _ARCH, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24
_LOAD, _EQUALS, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_X32_BIT = 0x40000000

# AUDIT_ARCH -> numbers of socket, ioctl, and x32's own ioctl
_CALLS: dict[int, dict[str, int]] = {
    0xC000003E: {"socket": 41, "ioctl": 16, "ioctl_x32": 514},  # x86-64
    0x40000003: {"socket": 359, "ioctl": 54},  # i386; its socketcall(2) cannot be filtered
    0xC00000B7: {"socket": 198, "ioctl": 29},  # aarch64
    0x40000028: {"socket": 281, "ioctl": 54},  # arm
    0xC00000F3: {"socket": 198, "ioctl": 29},  # riscv64
}
_IO_URING_SETUP = 425  # the same everywhere

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def seccomp_filter() -> bytes:
    """The filter as an array of struct sock_filter for a little-endian kernel."""
    body: list[Instruction] = []
    for arch, calls in _CALLS.items():
        rules = _rules(calls)
        body += [_load(_ARCH), _skip_unless(arch, len(rules)), *rules]
    body.append(_return(_ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in body)


def _rules(calls: dict[str, int]) -> list[Instruction]:
    rules = [_load(_NUMBER), (_AND, 0, 0, 0xFFFFFFFF ^ _X32_BIT)]
    rules += _refuse_when(_IO_URING_SETUP, None, (), _ENOSYS)
    rules += _refuse_when(calls["socket"], _ARGUMENT_0, (_AF_VSOCK,), _EAFNOSUPPORT)
    for name in ("ioctl", "ioctl_x32"):
        if name in calls:
            rules += _refuse_when(calls[name], _ARGUMENT_1, (_TIOCSTI, _TIOCLINUX), _EPERM)
    return [*rules, _return(_ALLOW)]


def _refuse_when(
    number: int, argument: int | None, values: tuple[int, ...], error: int
) -> list[Instruction]:
    """Refuse a call for some values of an argument (None: always); the call itself is decided."""
    if argument is None:
        return [_skip_unless(number, 1), _return(_REFUSE | error)]
    decided: list[Instruction] = [_load(argument)]
    for value in values:
        decided += [_skip_unless(value, 1), _return(_REFUSE | error)]
    decided.append(_return(_ALLOW))
    return [_skip_unless(number, len(decided)), *decided]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _skip_unless(value: int, count: int) -> Instruction:
    return (_EQUALS, 0, count, value)


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)
