"""docs/kernels.md, and the same as lines on a terminal, from what the kernels told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fqdnwall.datapath.layouts import PROGRAMS
from tests.kernels.machine import Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"

HEAD = """\
# Kernels

Written by `sudo .venv/bin/python -m tests.kernels`, which boots Debian's kernels in qemu without
KVM, and takes this machine's own as well. The programs are compiled once, on the host. Linux 5.10
is the oldest kernel that is supported.

"""
DIFFERENCES = """
## What an old kernel does without

`fqdnwall status` names the features that the running kernel lacks.

| since | what | before that |
|---|---|---|
| 6.8 | the verifier concludes from a test for zero | sizes are at least one by their form |
| 6.6 | tcx: a pinned link for each hook | clsact filters, which the interface itself keeps |
| 5.16 | the verifier's count in a program's information | `bpf prog list` shows 0 |
| 5.14 | an element of a hash map is read and deleted at once | one after the other (1) |
| 5.13 | batches for LPM maps | one call for each element |
| 5.12 | all that is mounted below `/sys` is made read-only for a guarded command | `/sys` alone |
| 5.11 | maps are charged to the cgroup | libbpf lifts the limit on locked memory |

(1) What the kernel learns anew of an address whose time ran out, in the microseconds between the
two, is deleted with it: its name has to be asked again.

A kernel without type information of its own (`CONFIG_DEBUG_INFO_BTF`; all of Debian's have it) does
not say where it notes a checksum that a device is to write. There, whoever has CAP_NET_RAW in an
endpoint can have a port, an IPv6 address or two letters of a name overwritten behind the firewall,
by a packet socket with PACKET_VNET_HDR: take the capability away, or have checksums computed inside
(`ethtool -K eth0 tx off`, with no CAP_NET_ADMIN there to undo it). A kernel that is locked down for
confidentiality lets no program read that memory, and the datapath does not load.

A kernel that refuses a program of the DNS path (a verifier of another version, a helper that was
taken out of it) still guards: the proxy then does all DNS, and `status` says so. Only
`from_endpoint` and `to_endpoint` have to load.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One kernel's outcome, sorted."""

    version: str
    release: str
    attach: str
    load_ms: float
    """Maps and all programs."""
    features: dict[str, bool]
    programs: dict[str, dict[str, Any]]
    checks: tuple[dict[str, Any], ...]
    trouble: str
    said: str

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for record in outcome.records:
            kinds.setdefault(str(record["kind"]), []).append(dict(record))
        (kernel,) = kinds.get("kernel", [{"release": "?"}])
        (load,) = kinds.get("load", [{"ms": 0}])
        (status,) = kinds.get("status", [{"attach": "?", "features": {}}])
        return cls(
            outcome.version,
            kernel["release"],
            status["attach"],
            float(load["ms"]),
            status["features"],
            {record["name"]: record for record in kinds.get("program", ())},
            tuple(kinds.get("check", ())),
            outcome.trouble,
            outcome.said,
        )

    @property
    def failed(self) -> tuple[dict[str, Any], ...]:
        return tuple(check for check in self.checks if not check["passed"])

    @property
    def why(self) -> str:
        """All that is known about what failed."""
        failed = (f"FAILED: {check['name']}\n{check['why']}" for check in self.failed)
        return "\n".join([f"--- {self.version}", *failed, self.trouble, self.said])

    @property
    def passed(self) -> bool:
        return not self.trouble and bool(self.checks) and not self.failed


def document(results: Sequence[Result]) -> str:
    """The whole page."""
    return HEAD + "\n".join(_tables(results)) + "\n" + DIFFERENCES


def lines(results: Sequence[Result]) -> str:
    """For a terminal: the tables, and all about what failed."""
    return "\n".join([*_tables(results), *(result.why for result in results if not result.passed)])


def _tables(results: Sequence[Result]) -> list[str]:
    kernels = _table(
        ("kernel", "release", "attached by", "maps and programs loaded in", "smoke test"),
        [
            (
                result.version,
                f"`{result.release}`",
                result.attach,
                f"{result.load_ms:.0f} ms" if result.load_ms else "-",
                f"{len(result.checks) - len(result.failed)} of {len(result.checks)} pass"
                + ("" if not result.trouble else ", then it broke off"),
            )
            for result in results
        ],
    )
    programs = _table(
        ("program", "instructions", *(result.version for result in results)),
        [
            (
                f"`{name}`",
                _figure(results[-1], name, "instructions"),
                *(_figure(result, name, "verified") for result in results),
            )
            for name in PROGRAMS
        ],
    )
    names = [check["name"] for check in max(results, key=lambda r: len(r.checks)).checks]
    smoke = _table(
        ("smoke test", *(result.version for result in results)),
        [(name, *(_passed(result, name) for result in results)) for name in names],
    )
    return [
        *kernels,
        "",
        "Times are those of an emulated processor, except for the running kernel's.",
        "",
        "Instructions that the verifier walks; it gives up at 1,000,000:",
        "",
        *programs,
        "",
        *smoke,
    ]


def _figure(result: Result, program: str, key: str) -> str:
    return f"{result.programs[program][key]:,}" if program in result.programs else "refused"


def _passed(result: Result, name: str) -> str:
    found = [check["passed"] for check in result.checks if check["name"] == name]
    return "not tried" if not found else "yes" if found[0] else "**no**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]
