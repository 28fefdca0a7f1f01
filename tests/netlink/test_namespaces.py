from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fqdnwall.netlink import NotANamespace, entered, links, open_namespace, open_namespace_of
from fqdnwall.netlink.namespaces import NamespaceKey, current_namespace, same_namespace
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.kernel


def test_a_namespace_is_opened_by_path(host: Namespace, other: Namespace) -> None:
    fd = open_namespace(other.path)
    assert same_namespace(fd, other.fd)
    assert not same_namespace(fd, host.fd)
    os.close(fd)


def test_a_namespace_is_opened_by_pid(host: Namespace, other: Namespace) -> None:
    process = other.start(["sleep", "100"])
    fd = open_namespace_of(process.pid)
    assert same_namespace(fd, other.fd)
    os.close(fd)


def test_the_block_is_inside_and_afterwards_the_thread_is_back(
    host: Namespace, other: Namespace
) -> None:
    with entered(other.fd):
        inside = current_namespace()
        assert same_namespace(inside, other.fd)
        os.close(inside)
    after = current_namespace()
    assert same_namespace(after, host.fd)
    os.close(after)


def test_the_thread_is_back_after_an_exception_too(host: Namespace, other: Namespace) -> None:
    with pytest.raises(ZeroDivisionError), entered(other.fd):
        raise ZeroDivisionError
    after = current_namespace()
    assert same_namespace(after, host.fd)
    os.close(after)


def test_a_missing_path_is_named(host: Namespace) -> None:
    with pytest.raises(NotANamespace, match="/run/netns/no-such: No such file or directory"):
        open_namespace("/run/netns/no-such")


def test_a_file_that_is_no_namespace_is_named(host: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(NotANamespace, match=f"{path}: not a network namespace"):
        open_namespace(path)
    with pytest.raises(NotANamespace, match="not a network namespace"):
        open_namespace(tmp_path)


def test_a_namespace_of_another_kind_is_named(host: Namespace) -> None:
    with pytest.raises(NotANamespace, match="not a network namespace"):
        open_namespace("/proc/self/ns/mnt")


def test_a_pid_of_no_process_is_named(host: Namespace) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(NotANamespace, match=f"pid {process.pid}: no such process"):
        open_namespace_of(process.pid)


def test_no_descriptor_is_leaked(host: Namespace, other: Namespace, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        links(other.fd)
        with pytest.raises(NotANamespace):
            open_namespace("/proc/self/ns/mnt")
    assert len(os.listdir("/proc/self/fd")) == before


def test_keys_tell_namespaces_apart_and_stay(host: Namespace, other: Namespace) -> None:
    key = NamespaceKey.current()
    with entered(other.fd):
        assert NamespaceKey.current() != key
    assert NamespaceKey.current() == key
    assert NamespaceKey.parse(str(key)) == key


def test_a_key_tells_whether_its_namespace_ended(host: Namespace) -> None:
    third = Namespace.create("third", {})
    with third.entered():
        key = NamespaceKey.current()
    assert key.may_exist()  # a descriptor keeps it
    third.close()
    assert not key.may_exist()


def test_a_process_keeps_a_namespace(host: Namespace) -> None:
    third = Namespace.create("third", {})
    with third.entered():
        key = NamespaceKey.current()
        process = subprocess.Popen(["sleep", "100"])
    os.close(third.fd)
    assert key.may_exist()
    process.kill()
    process.wait()
    assert not key.may_exist()


@pytest.mark.parametrize("text", ["", "a", "a-b", "a-zz-1", "a-1-x", "a-1-2-3"])
def test_what_is_no_key_is_not_read_as_one(text: str) -> None:
    assert NamespaceKey.parse(text) is None
