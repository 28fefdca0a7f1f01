"""Kernels from Debian's packages, kept extracted in a cache folder.

apt does the work, with configuration and lists of its own: which mirrors there are is what the
machine's own apt says, signatures are checked, and nothing of the system's apt changes.
"""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("/var/cache/fqdnwall-kernels")
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
MACHINE, META_PACKAGE = "x86_64", "linux-image-cloud-amd64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MODULES = (
    "veth",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_socket",
)
"""What a machine loads on demand, where there is a modprobe."""

APT_CONFIG = """\
Dir::State::lists "{folder}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Acquire::Languages "none";
Acquire::Retries "2";
APT::Sandbox::User "root";
"""
SOURCE = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Targets: Packages
Signed-By: {keyring}
"""


class NoKernel(Exception):
    """A kernel cannot be had; the text says what was tried, and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """``modules`` are uncompressed, each behind those that it needs."""

    version: str
    release: str
    image: Path
    modules: tuple[Path, ...]


def kernel(version: str) -> Kernel:
    """The cached kernel of that version, or Debian's newest. Raises NoKernel."""
    folder = CACHE / version
    if not (folder / "vmlinuz").exists():
        _fetch(version, folder)
    return Kernel(
        version,
        (folder / "release").read_text().strip(),
        folder / "vmlinuz",
        tuple(sorted((folder / "modules").iterdir())),
    )


def _fetch(version: str, folder: Path) -> None:
    if platform.machine() != MACHINE:
        raise NoKernel(f"kernels are tried on {MACHINE} hosts alone: theirs is what runs inside")
    try:
        suite = SUITES[version]
    except KeyError:
        raise NoKernel(f"kernel {version}: known are {', '.join(SUITES)}") from None
    CACHE.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in _mirrors():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            try:
                package = _download(Path(scratch), mirror, suite)
                _extract(package, Path(scratch) / "made")
            except subprocess.CalledProcessError as error:
                failures.append(f"{mirror}: {error.stderr.strip() or error}")
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(Path(scratch) / "made", folder)
            return
    raise NoKernel(
        f"kernel {version} cannot be had from Debian's {suite}:\n"
        + "\n".join(failures or ["apt knows no mirror"])
        + f"\nWith its package at hand: python -m tests.kernels --package {version}=FILE.deb"
    )


def install(version: str, package: Path) -> None:
    """Take the kernel of a package file that is at hand."""
    with tempfile.TemporaryDirectory(dir=_made(CACHE)) as scratch:
        _extract(package, Path(scratch) / "made")
        shutil.rmtree(CACHE / version, ignore_errors=True)
        os.rename(Path(scratch) / "made", CACHE / version)


def _mirrors() -> Iterator[str]:
    """Where this machine has Debian's packages from; others of its sources after that."""
    listed = _run(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"
    )
    seen = set()
    for line in sorted(listed.splitlines(), key=lambda line: not line.startswith("Debian ")):
        mirror = line.split()[-1].rstrip("/")
        if mirror not in seen:
            seen.add(mirror)
            yield mirror


def _download(scratch: Path, mirror: str, suite: str) -> Path:
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (scratch / name).mkdir(parents=True)
    config = scratch / "apt.conf"
    config.write_text(APT_CONFIG.format(folder=scratch))
    source = SOURCE.format(mirror=mirror, suite=suite, keyring=KEYRING)
    (scratch / "sources" / "debian.sources").write_text(source)
    apt = {"APT_CONFIG": str(config)}
    _run("apt-get", "-q", "--error-on=any", "update", env=apt)
    depends = _run("apt-cache", "depends", META_PACKAGE, env=apt)
    (name,) = re.findall(r"Depends: (linux-image-\S+)", depends)
    _run("apt-get", "-q", "download", name, env=apt, cwd=scratch)
    (package,) = scratch.glob("*.deb")
    return package


def _extract(package: Path, made: Path) -> None:
    """The kernel and the modules that are needed, uncompressed and numbered in load order."""
    whole = made.with_name("whole")
    _run("dpkg-deb", "-x", str(package), str(whole))
    (image,) = (whole / "boot").glob("vmlinuz-*")
    (made / "modules").mkdir(parents=True)
    (made / "release").write_text(image.name.removeprefix("vmlinuz-") + "\n")
    shutil.copyfile(image, made / "vmlinuz")
    for number, (name, content) in enumerate(_in_load_order(whole)):
        (made / "modules" / f"{number:02}-{name}.ko").write_bytes(content)


def _in_load_order(whole: Path) -> Iterator[tuple[str, bytes]]:
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in whole.rglob("*.ko*")}
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:  # one that is not a file is built in
            return
        done.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        for needed in _needs(content):
            yield from load(needed)
        yield name, content

    for name in MODULES:
        yield from load(name)


def _needs(module: bytes) -> list[str]:
    """What its `.modinfo` says it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    names = found[1].decode() if found else ""
    return [name.replace("-", "_") for name in names.split(",") if name]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(*command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
