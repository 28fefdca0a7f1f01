"""The smoke test: an agent guards a box, and what it promises is tried with real packets.

The node is the network namespace that this runs in: a machine's own, or one made for it. Results
are JSON lines on standard output; the last one says that the test came to its end.
"""

from __future__ import annotations

import base64
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fqdnwall.api.models import EndpointSpec
from fqdnwall.datapath import compiler
from tests.kernels.guest import maps, measure
from tests.kernels.guest.node import Node, run_guards_one_command
from tests.kernels.guest.promises import API, checks, checks_without_kernel_dns
from tests.kernels.guest.world import CLOSED, World

REFUSED_EVERYWHERE = base64.b64encode(bytes([0x95, 0, 0, 0, 0, 0, 0, 0])).decode()
"""A program that ends without a result."""


def tell(**record: object) -> None:
    print(json.dumps({**record, "at": round(time.monotonic(), 1)}), flush=True)


def try_all(world: World, node: Node) -> None:
    node.start()
    attempt("without a guard all is reached", lambda: world.reaches(CLOSED) and world.reaches(API))
    guard(world, node)
    for name, check in checks(world, node):
        attempt(name, check)
    node.close()
    attempt("after cleanup nothing guards", lambda: world.reaches(CLOSED))
    attempt("`fqdnwall run` guards a command", lambda: run_guards_one_command(node))


def try_without(program: str, world: World, node: Node) -> None:
    """As on a kernel that refuses this program."""
    compiled: dict[str, Any] = compiler.objects()
    compiled["programs"][program] = {"code": REFUSED_EVERYWHERE, "maps": {}}
    with mock.patch.object(compiler, "objects", return_value=compiled):
        node.start()
    guard(world, node)
    for name, check in checks_without_kernel_dns(world, node):
        attempt(name, check)


def guard(world: World, node: Node) -> None:
    node.client.endpoint_add(
        EndpointSpec(netns=str(world.box.path), name="box", labels=("app=web",))
    )
    status = node.client.status()
    tell(kind="status", attach=status.attach_mode, features=dict(status.kernel_features))


def attempt(name: str, check: Callable[[], bool]) -> None:
    """Tell whether it holds, or what went wrong."""
    started = time.monotonic()
    try:
        passed, why = check(), ""
    except Exception:
        passed, why = False, traceback.format_exc()
    seconds = round(time.monotonic() - started, 2)
    tell(kind="check", name=name, passed=passed, why=why, seconds=seconds)


def main(without: str = "") -> None:
    """Everything, or what holds without a program."""
    tell(kind="kernel", release=platform.release(), machine=platform.machine())
    if not without:
        for record in measure.programs():
            tell(**record)
        for name, check in maps.checks():
            attempt(name, check)
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        world = World()
        try:
            if without:
                try_without(without, world, node)
            else:
                try_all(world, node)
        finally:
            node.close()
            world.close()
            sys.stderr.write(node.log())
    tell(kind="end")


if __name__ == "__main__":
    main(*sys.argv[1:])
