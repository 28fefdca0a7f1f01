from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqdnwall.sandbox.locks import LockFile
from fqdnwall.sandbox.slots import NoFreeSlot, dead_slot, recorded_slots, take_slot
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def alone() -> Iterator[Namespace]:
    """A network namespace where no other instance is told of."""
    namespace = Namespace.create("alone", {})
    with namespace.entered():
        yield namespace
    namespace.close()


def every(_: int) -> bool:
    return True


def test_the_lowest_free_slot_is_taken(tmp_path: Path) -> None:
    first, second, third = (take_slot(tmp_path, 10, every) for _ in range(3))
    assert [slot.number for slot in (first, second, third)] == [0, 1, 2]
    second.release()
    again = take_slot(tmp_path, 10, every)
    assert again.number == 1
    for slot in (first, third, again):
        slot.release()


def test_released_slots_leave_no_file(tmp_path: Path) -> None:
    take_slot(tmp_path, 1, every).release()
    assert list(tmp_path.iterdir()) == []


def test_a_slot_that_clashes_is_passed_over(tmp_path: Path) -> None:
    slot = take_slot(tmp_path, 10, lambda number: number not in (0, 1))
    assert slot.number == 2
    slot.release()


def test_when_no_slot_is_left_the_error_says_why(tmp_path: Path) -> None:
    slot = take_slot(tmp_path, 1, every)
    with pytest.raises(NoFreeSlot, match="1 clash with the host's networks, 1 are in use"):
        take_slot(tmp_path, 2, lambda number: number == 0)
    slot.release()


def test_a_live_slot_cannot_be_had_for_clearing_and_a_dead_one_can(tmp_path: Path) -> None:
    slot = take_slot(tmp_path, 1, every)
    with dead_slot(tmp_path, 0) as held:
        assert held is None
    slot.release()
    with dead_slot(tmp_path, 0) as held:
        assert held is not None


def test_a_killed_process_leaves_its_pid_to_whoever_takes_the_slot_next(tmp_path: Path) -> None:
    program = (
        "import sys, signal; from pathlib import Path; from fqdnwall.sandbox.slots import *\n"
        "s = take_slot(Path(sys.argv[1]), 1, lambda n: True); s.claim()\n"
        "print('taken', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert recorded_slots(tmp_path) == {0}
        with dead_slot(tmp_path, 0) as held:
            assert held is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    with dead_slot(tmp_path, 0) as held:
        assert held is not None
        assert held.former_pid() == process.pid
    assert recorded_slots(tmp_path) == set()


def test_no_lock_is_kept_on_a_file_that_was_removed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "0.lock"
    first, second = LockFile(path), LockFile(path)
    assert first.acquire()
    stale = os.open(path, os.O_RDWR)  # somebody opened it before the holder removed it
    first.release(remove=True)
    assert second.acquire(blocking=False)
    assert os.fstat(stale).st_ino != path.stat().st_ino
    assert not LockFile(path).acquire(blocking=False)
    os.close(stale)
    second.release(remove=True)


def test_shared_holders_keep_an_exclusive_one_out_until_the_last_is_gone(tmp_path: Path) -> None:
    one, two, alone = (LockFile(tmp_path / "live") for _ in range(3))
    assert one.acquire(shared=True)
    assert two.acquire(shared=True)
    one.release(remove=False)
    assert not alone.acquire(blocking=False)
    two.release(remove=False)
    assert alone.acquire(blocking=False)
    alone.release(remove=True)


def test_instances_with_another_run_directory_in_the_same_network_are_seen(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    theirs = take_slot(tmp_path / "one", 10, every)
    (tmp_path / "two").mkdir()
    ours = take_slot(tmp_path / "two", 10, every)
    assert (theirs.number, ours.number) == (0, 1)
    with dead_slot(tmp_path / "two", 0) as held:
        assert held is None
    theirs.release()
    with dead_slot(tmp_path / "two", 0) as held:
        assert held is not None
    ours.release()


def test_an_unprivileged_squatter_on_the_name_does_not_take_the_slot(tmp_path: Path) -> None:
    program = (
        "import os, socket, signal; os.setuid(65534); s = socket.socket(socket.AF_UNIX)\n"
        "s.bind('\\0fqdnwall/run/0'); s.listen(); print('squats', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"squats\n"
        slot = take_slot(tmp_path, 10, every)
        assert slot.number == 0
        slot.release()
        process.kill()
