"""The process that becomes the sandbox, and its init: a script of its own, not a module of ours.

    fqdnwall ── this script ── init (pid 1 of a pid namespace) ── CMD
               unshares        mounts /proc, reaps, relays        the caller's user, no privileges

It is run as `python -I -S child.py FD PARENT`, imports only what starts fast, and talks over the
stream socket FD in JSON lines:

    to it     {"launch": {...}}, then {"signal": N}
    from it   {"ready": true}, {"started": true} or {"refused": [errno, text]},
              {"stopped": N}, {"exited": wait status}, {"broken": text}

Invariants: CMD runs only after "launch"; it never has a capability to undo the firewall; and when
fqdnwall, this process or init dies, the kernel kills everything in the pid namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID = 0x20000, 0x40000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_SLAVE = 32, 4096, 8192, 16384, 1 << 19
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2
SYS_MOUNT_SETATTR = 442  # on every architecture
MOUNT_ATTR_RDONLY, AT_RECURSIVE = 1, 0x8000
CAPABILITY_VERSION_3 = 0x20080522
LAST_POSSIBLE_CAPABILITY = 63

# CMD shares our process group, so that the terminal's keys reach it; they must not end us.
SHARED_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGPIPE,
    signal.SIGXFSZ,
)

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int, what: str) -> None:
    """Raise OSError for a failed C call."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option: int, *arguments: Any) -> int:
    padded = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    padded += [ctypes.c_ulong(0)] * (4 - len(padded))
    return int(libc.prctl(option, *padded))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    names = [os.fsencode(text) or None for text in (source, target, kind)]
    call(libc.mount(*names, ctypes.c_ulong(flags), os.fsencode(options) or None), f"mount {target}")


class Channel:
    """JSON lines over a stream socket, on our side blocking."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.pending = b""

    def send(self, **message: Any) -> None:
        """Nothing happens when the other side is gone: then there is nobody to tell."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side is gone."""
        while b"\n" not in self.pending:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not chunk:
                return None
            self.pending += chunk
        line, self.pending = self.pending.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


def main() -> None:
    channel, parent = Channel(int(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(channel.socket.fileno(), False)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    inherited = {each: signal.getsignal(each) == signal.SIG_IGN for each in SHARED_SIGNALS}
    # Python itself ignores these two, whatever we were started with.
    inherited |= {signal.SIGPIPE: False, signal.SIGXFSZ: False}
    for each in SHARED_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    try:
        call(libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID), "unshare")
        mount("", "/", flags=MS_REC | MS_SLAVE)
        channel.send(ready=True)
        order = channel.receive()
        if order is None:
            os._exit(1)
        launch = order["launch"]
        private_files(launch)
    except OSError as error:
        channel.send(broken=str(error))
        os._exit(1)
    pid = os.fork()
    if pid == 0:
        init(channel, launch, inherited)
    channel.socket.close()
    os.waitpid(pid, 0)
    os._exit(0)


# -- What CMD sees of the file system ------------------------------------------------------------


def private_files(launch: dict[str, Any]) -> None:
    """Hide our state, give /etc/resolv.conf and /sys; all in our mount namespace alone."""
    state = launch["hidden_state"]
    mount("tmpfs", state, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=1m")
    resolv_conf = os.path.join(state, "resolv.conf")
    write_file(resolv_conf, launch["resolv_conf"])
    mount(resolv_conf, launch["resolv_conf_path"], flags=MS_BIND)
    show_own_sys(os.path.join(state, "cgroup"))
    empty = os.path.join(state, "empty")
    write_file(empty, "")
    for path in launch["hidden_paths"]:
        hide(path, empty)
    mount("", state, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # The working directory may lie under something that is hidden now.
    try:
        os.chdir(launch["cwd"])
    except OSError:
        os.chdir("/")


def show_own_sys(aside: str) -> None:
    """/sys of the new network namespace, read-only: the host's cgroups, no BPF file system."""
    cgroups = os.path.ismount("/sys/fs/cgroup")
    try:
        if cgroups:
            os.mkdir(aside)
            mount("/sys/fs/cgroup", aside, flags=MS_BIND | MS_REC)
        mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if cgroups:
            mount(aside, "/sys/fs/cgroup", flags=MS_MOVE)
            make_readonly("/sys/fs/cgroup")
    except OSError:
        # A container may forbid it; what must not be seen is hidden all the same.
        if os.path.isdir("/sys/fs/bpf"):
            hide("/sys/fs/bpf", "")


def show_own_proc() -> None:
    """/proc of the new pid namespace; root may read the kernel's settings there, not set them."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", "proc", flags)
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        path = f"/proc/{name}"
        if os.path.exists(path):
            mount(path, path, flags=MS_BIND)
            mount("", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def make_readonly(path: str) -> None:
    """A mount and all below it, where the kernel can (since 5.12); best effort."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = ctypes.c_uint(AT_RECURSIVE)
    libc.syscall(SYS_MOUNT_SETATTR, -1, os.fsencode(path), flags, attributes, size)


def hide(path: str, empty: str) -> None:
    """Put nothing in the place of a file, socket or directory, where there is one."""
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    elif os.path.exists(path):
        mount(empty, path, flags=MS_BIND)


def write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o644)


# -- init ----------------------------------------------------------------------------------------


def init(channel: Channel, launch: dict[str, Any], inherited: dict[Any, bool]) -> NoReturn:
    """Pid 1: starts CMD, reaps orphans, relays signals and CMD's fate, and ends with CMD."""
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        show_own_proc()
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        pid = start(channel, launch, inherited)
        if pid is not None:
            relay(channel, pid, woken)
        status = 0
    except Exception as error:  # the last frame before the end: say why, whatever it is
        channel.send(broken=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def start(channel: Channel, launch: dict[str, Any], inherited: dict[Any, bool]) -> int | None:
    """Fork and exec CMD; its pid, or None when it could not be executed."""
    outcome, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(outcome)
        try:
            become(launch, inherited)
            execute(launch)
        except OSError as error:
            os.write(report, json.dumps([error.errno or 0, str(error.strerror)]).encode())
        finally:
            os._exit(127)
    os.close(report)
    refusal = os.read(outcome, 4096)
    os.close(outcome)
    if refusal:
        os.waitpid(pid, 0)
        channel.send(refused=json.loads(refusal))
        return None
    channel.send(started=True)
    return pid


def relay(channel: Channel, pid: int, woken: int) -> None:
    """Until CMD ends or fqdnwall is gone."""
    while True:
        ready, _, _ = select.select([channel.socket.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            if reap(channel, pid):
                return
        if channel.socket.fileno() in ready:
            message = channel.receive()
            if message is None:
                return
            os.kill(pid, message["signal"])


def reap(channel: Channel, pid: int) -> bool:
    """Collect every child that changed; True when CMD was one that ended."""
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return False
        if found == 0:
            return False
        if found != pid:
            continue
        if os.WIFSTOPPED(status):
            channel.send(stopped=os.WSTOPSIG(status))
        else:
            channel.send(exited=status)
            return True


# -- CMD -----------------------------------------------------------------------------------------


def become(launch: dict[str, Any], inherited: dict[Any, bool]) -> None:
    """Give up what CMD must not have, in the order in which each step is still allowed."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, ignored in inherited.items():
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    kept = set(launch["capabilities"])
    for capability in range(LAST_POSSIBLE_CAPABILITY + 1):
        if capability not in kept:
            prctl(PR_CAPBSET_DROP, capability)  # fails past the kernel's last one
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups(launch["groups"])
    os.setresgid(launch["gid"], launch["gid"], launch["gid"])
    os.setresuid(launch["uid"], launch["uid"], launch["uid"])
    set_capabilities(kept if launch["uid"] == 0 else set())
    call(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    filter_system_calls(bytes.fromhex(launch["seccomp"]))
    signal.pthread_sigmask(signal.SIG_SETMASK, launch["blocked_signals"])


def set_capabilities(kept: set[int]) -> None:
    mask = sum(1 << capability for capability in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable: low words, then high words
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    call(libc.capset(header, sets), "capset")


def filter_system_calls(program: bytes) -> None:
    """Install a classic BPF filter of 8-octet instructions; none where it is empty."""
    if not program:
        return
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(instructions))
    call(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(described)), "seccomp")


def execute(launch: dict[str, Any]) -> None:
    """execvp(3), with the environment that was asked for."""
    arguments, environment = launch["argv"], launch["environment"]
    name = arguments[0]
    directories = [""] if "/" in name else search_path(environment)
    refusal: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for directory in directories:
        path = os.path.join(directory, name)
        try:
            os.execve(path, arguments, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.lexists(path):  # a script whose interpreter is missing
                refusal = error
        except PermissionError as error:
            refusal = error
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            os.execve("/bin/sh", ["/bin/sh", path, *arguments[1:]], environment)
    raise refusal


def search_path(environment: dict[str, str]) -> list[str]:
    listed = environment.get("PATH", "/bin:/usr/bin")
    return [directory or "." for directory in listed.split(":")]


if __name__ == "__main__":
    main()
