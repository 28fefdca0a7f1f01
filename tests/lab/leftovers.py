"""What a run may leave on a machine, so that a test can show that it left nothing.

    before = Machine.seen()
    ...
    assert not Machine.seen().beyond(before)

Seen are: named namespaces; links, addresses, rules, routes and nftables tables of one network
namespace; pins under /sys/fs/bpf; mounts; files under the run directories, but for those of labs
that somebody is using; forwarding settings; and the processes that carry this run's mark.
`setup/verify.sh` puts the mark, FQDNWALL_TEST_RUN, in the environment of pytest, so everything that
a test starts carries it, and nothing else does.

    python -m tests.lab.leftovers save FILE | compare FILE | clear
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from tests.lab.lab import DIRECTORY as LABS
from tests.lab.lab import MARK as LAB_MARK
from tests.lab.lab import Lab, clear_leftovers, is_in_use
from tests.lab.namespaces import Namespace

MARK = "FQDNWALL_TEST_RUN"
RUN_DIRECTORY = Path("/run/fqdnwall")
BPFFS = Path("/sys/fs/bpf")
NETNS_DIRECTORY = Path("/run/netns")
AUTOMATIC = ("fe80:", "ff00:")
"""What the kernel adds to a link by itself, some time after it is up."""
SETTLE_SECONDS = 5.0
"""Namespaces and programs whose last user is gone are ended by the kernel a little later."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at the machine: each thing as a line that a person can read."""

    things: frozenset[str]

    @classmethod
    def seen(cls, namespace: Namespace | None = None) -> Machine:
        """The machine, its network as `namespace` has it (by default the caller's)."""
        mark = os.environ.get(MARK)
        processes = _marked_processes(f"{MARK}={mark}") if mark else ()
        return cls(frozenset((*_network_of(namespace), *_files(), *_mounts(), *processes)))

    @classmethod
    def seen_by(cls, lab: Lab) -> Machine:
        """What the lab can tell apart from all else on the machine: its host's network and its
        processes."""
        processes = _marked_processes(f"{LAB_MARK}={lab.id}")
        return cls(frozenset((*_network_of(lab.host), *processes)))

    def beyond(self, before: Machine) -> list[str]:
        """What is here and was not there `before`, sorted."""
        return sorted(self.things - before.things)

    def lost(self, before: Machine) -> list[str]:
        """What was there `before` and is gone, sorted."""
        return sorted(before.things - self.things)


def wait_until_clean(before: Machine, see: Callable[[], Machine] = Machine.seen) -> list[str]:
    """What is still different from `before` after a moment: 'left …' and 'lost …' lines."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = see()
        differences = [f"left {thing}" for thing in now.beyond(before)]
        differences += [f"lost {thing}" for thing in now.lost(before)]
        if not differences or time.monotonic() > deadline:
            return differences
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Pins:
    """The directory of a guard's pins. Another guard may have one of the same name later."""

    path: Path
    inode: int

    @classmethod
    def of(cls, instance: str) -> Pins:
        """While the instance is there. Raises FileNotFoundError."""
        path = BPFFS / "fqdnwall" / instance
        return cls(path, path.stat().st_ino)

    @property
    def exist(self) -> bool:
        try:
            return self.path.stat().st_ino == self.inode
        except FileNotFoundError:
            return False


def left_by_guard(lab: Lab, before: Machine, pins: Pins) -> list[str]:
    """What a `fqdnwall run` on the lab's host left, in the lab or pinned."""
    left = wait_until_clean(before, lambda: Machine.seen_by(lab))
    return [*left, f"left {pins.path}"] if pins.exist else left


def _network_of(namespace: Namespace | None) -> tuple[str, ...]:
    with namespace.entered() if namespace else contextlib.nullcontext():
        return tuple(_network())


def _network() -> Iterator[str]:
    with IPRoute() as netlink:
        names: dict[int, str] = {}
        for link in netlink.get_links():
            names[link["index"]] = name = link.get("ifname")
            yield f"link {name}"
        for address in netlink.get_addr():
            if not address.get("address").startswith(AUTOMATIC):
                yield f"address {address.get('address')} on {names.get(address['index'])}"
        for family in (2, 10):
            for rule in netlink.get_rules(family=family):
                attributes = sorted((name, str(value)) for name, value in rule["attrs"])
                yield f"rule family {family} {attributes}"
            for route in netlink.get_routes(family=family):
                if (route.get("dst") or "").startswith(AUTOMATIC):
                    continue
                device = names.get(route.get("oif") or 0, "-")
                target = f"{route.get('dst') or 'default'}/{route['dst_len']}"
                yield f"route {target} dev {device} table {route.get('table')}"
    tables = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    yield from (f"nftables {line}" for line in tables.stdout.splitlines() if line.strip("\t }"))
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter"):
        with contextlib.suppress(OSError):
            yield f"setting {setting} = {Path('/proc/sys/net', setting).read_text().strip()}"


def _files() -> Iterator[str]:
    for path in _sorted_glob(NETNS_DIRECTORY, "*"):
        yield f"namespace {path.name}"
    labs = (path for path in _sorted_glob(LABS, "*") if not is_in_use(path))
    for directory in (RUN_DIRECTORY, *labs):
        yield from (f"file {path}" for path in _sorted_glob(directory, "**/*") if not path.is_dir())
    for path in (*_sorted_glob(BPFFS, "*"), *_sorted_glob(BPFFS, "fqdnwall/*")):
        if path.suffix != ".debug":
            yield f"pin {path}"
    for temporary in _sorted_glob(Path("/tmp"), "fqdnwall*"):
        yield f"file {temporary}"


def _sorted_glob(directory: Path, pattern: str) -> Iterable[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return ()


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        yield f"mount {fields[4]} ({fields[fields.index('-') + 1]})"


def _marked_processes(mark: str) -> Iterator[str]:
    wanted = mark.encode()
    relatives = _ancestors()
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) in relatives:
            continue
        with contextlib.suppress(OSError):
            if wanted in (directory / "environ").read_bytes().split(b"\0"):
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"process {directory.name} {command.strip()}"


def _ancestors() -> set[int]:
    """This process and those that it was started by: they carry the mark too."""
    relatives = {os.getpid()}
    pid = os.getppid()
    while pid > 1:
        relatives.add(pid)
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return relatives


def main(arguments: list[str]) -> int:
    """The command line that the module's docstring shows."""
    match arguments:
        case ["save", file]:
            Path(file).write_text(json.dumps(sorted(Machine.seen().things), indent=0))
        case ["compare", file]:
            before = Machine(frozenset(json.loads(Path(file).read_text())))
            differences = wait_until_clean(before)
            print("\n".join(differences) or "the machine is as it was")
            return 1 if differences else 0
        case ["clear"]:
            for name in clear_leftovers():
                print(f"cleared {name}")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
