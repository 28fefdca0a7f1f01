"""`sudo .venv/bin/python -m tests.kernels [VERSION...]`: try kernels, and write docs/kernels.md.

Without a VERSION all of Debian's that the project supports, and the one that runs here; only then
is the page written. `--package 5.10=FILE.deb` takes a kernel from a file, for machines without a
mirror that has it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.kernels import debian
from tests.kernels.machine import HERE, Outcome, boot, here
from tests.kernels.report import DOCUMENT, Result, document, lines

ALL = (*debian.SUITES, HERE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=", ".join(ALL))
    parser.add_argument("--package", action="append", default=[], metavar="VERSION=FILE.deb")
    options = parser.parse_args()
    for given in options.package:
        version, _, path = given.partition("=")
        debian.install(version, Path(path))
    results = []
    for version in options.versions or ALL:
        print(f"{version} …", file=sys.stderr, flush=True)
        results.append(Result.of(_outcome(version)))
    print(lines(results))
    if not options.versions:
        DOCUMENT.write_text(document(results))
    return 0 if all(result.passed for result in results) else 1


def _outcome(version: str) -> Outcome:
    if version == HERE:
        return here()
    try:
        return boot(debian.kernel(version))
    except debian.NoKernel as error:
        return Outcome(version, (), str(error))


if __name__ == "__main__":
    sys.exit(main())
