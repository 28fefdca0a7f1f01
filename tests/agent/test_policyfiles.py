"""What is in force is each file's last good version, and of what is wrong a person is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fqdnwall.agent.policyfiles import MAX_BYTES, PolicyDir, combined, load_text
from fqdnwall.api.models import Severity

GOOD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}}}
spec:
  endpointSelector: {{}}
  egress: [{{toCIDR: [{cidr}]}}]
"""
BAD = "kind: CiliumNetworkPolicy\nspec: {endpointSelector: 7}\n"
LATER = 3600.0
"""Seconds behind the files' own times: they have settled."""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path / "policies"
        self.path.mkdir()
        self.found = PolicyDir(self.path, clock=lambda: os.stat(path).st_mtime + LATER)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def good(self, name: str, cidr: str = "10.0.0.0/8") -> None:
        self.write(f"{name}.yaml", GOOD.format(name=name, cidr=cidr))

    @property
    def names(self) -> list[str]:
        return [policy.name for policy in self.found.policies]

    @property
    def messages(self) -> str:
        return "\n".join(f"{p.subject}: {p.message}" for p in self.found.problems)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_files_are_in_force_in_the_order_of_their_names(folder: Folder) -> None:
    folder.good("b")
    folder.good("a")
    folder.write("notes.txt", BAD)
    folder.write(".hidden.yaml", BAD)
    assert folder.found.scan()
    assert folder.names == ["a", "b"]
    assert folder.found.problems == ()
    assert not folder.found.scan()


def test_of_a_file_that_gets_bad_the_last_good_version_stays(folder: Folder) -> None:
    folder.good("a")
    folder.found.scan()
    folder.write("a.yaml", BAD)
    assert folder.found.scan()
    assert folder.names == ["a"]
    assert "a.yaml" in folder.messages
    folder.good("a", "192.0.2.0/24")
    assert folder.found.scan()
    assert folder.found.problems == ()
    assert "192.0.2.0/24" in str(folder.found.policies)


def test_a_file_that_is_gone_takes_its_policies_along(folder: Folder) -> None:
    folder.good("a")
    folder.good("b")
    folder.found.scan()
    (folder.path / "a.yaml").unlink()
    assert folder.found.scan()
    assert folder.names == ["b"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe kind"), "utf-8"),
        (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), "larger than"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere")), "No such file"),
        (lambda path: path.write_text("[" * 20_000), "a.yaml"),
        (lambda path: path.write_text("a: &a [*a, *a]"), "a.yaml"),
    ],
)
def test_what_cannot_be_read_leaves_what_the_file_said(folder: Folder, spoil, said) -> None:  # type: ignore[no-untyped-def]
    folder.good("a")
    folder.good("b")
    folder.found.scan()
    spoil(folder.path / "a.yaml")
    assert folder.found.scan()
    assert folder.names == ["a", "b"]
    assert said in folder.messages


def test_a_folder_that_goes_leaves_everything_in_force_until_it_is_back(folder: Folder) -> None:
    folder.good("a")
    folder.found.scan()
    shutil.rmtree(folder.path)
    assert folder.found.scan()
    assert folder.names == ["a"]
    assert "cannot be listed" in folder.messages
    folder.path.mkdir()
    folder.good("c")
    assert folder.found.scan()
    assert folder.names == ["c"]
    assert folder.found.problems == ()


def test_a_change_that_keeps_size_and_time_is_seen(folder: Folder) -> None:
    folder.good("a", "10.0.0.0/8")
    folder.found.scan()
    path = folder.path / "a.yaml"
    times = path.stat()
    folder.good("a", "11.0.0.0/8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert folder.found.scan()
    assert "11.0.0.0/8" in str(folder.found.policies)


def test_of_two_policies_with_one_name_the_first_is_in_force_and_both_are_told(
    folder: Folder,
) -> None:
    folder.write("1.yaml", GOOD.format(name="a", cidr="10.0.0.0/8"))
    folder.write("2.yaml", GOOD.format(name="a", cidr="11.0.0.0/8"))
    folder.found.scan()
    (policy,) = folder.found.policies
    assert policy.source.endswith("1.yaml")
    (problem,) = folder.found.problems
    assert problem.subject.endswith("2.yaml")
    assert "1.yaml:" in problem.message


def test_an_agent_that_starts_knows_the_last_good_version_of_a_file_that_is_bad_now(
    tmp_path: Path,
) -> None:
    first = Folder(tmp_path)
    first.good("a")
    first.found.scan()
    remembered = first.found.good_texts
    first.write("a.yaml", BAD)
    second = PolicyDir(first.path, remembered, clock=lambda: os.stat(tmp_path).st_mtime + LATER)
    second.scan()
    assert [policy.name for policy in second.policies] == ["a"]
    assert second.uncovered == ()
    third = PolicyDir(first.path, clock=lambda: os.stat(tmp_path).st_mtime + LATER)
    third.scan()
    assert third.uncovered == (first.path / "a.yaml",)


def test_a_group_is_known_from_any_file_and_missed_where_there_is_none(folder: Folder) -> None:
    folder.write(
        "p.yaml",
        GOOD.format(name="a", cidr="").replace("toCIDR: []", "toCIDRSet: [{cidrGroupRef: g}]"),
    )
    folder.found.scan()
    (problem,) = folder.found.problems
    assert problem.severity is Severity.WARNING
    assert "no CiliumCIDRGroup g" in problem.message
    folder.write(
        "g.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\n"
        "spec: {externalCIDRs: [10.0.0.0/8]}\n",
    )
    assert folder.found.scan()
    assert folder.found.problems == ()
    assert [group.name for group in folder.found.groups] == ["g"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("egress: [{toPorts: [{ports: [{port: web}]}]}]", "named ports"),
        ("egress: [{toServices: [{k8sService: {serviceName: x}}]}]", "toServices"),
        (
            "egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
            "rules.http",
        ),
    ],
)
def test_what_is_not_enforced_is_an_error_that_names_the_field(body: str, field: str) -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n"
        f"spec:\n  endpointSelector: {{}}\n  {body}\n"
    )
    loaded = load_text(text, "p.yaml")
    assert loaded.policies == ()
    (problem,) = loaded.problems
    assert field in problem.message
    assert "p.yaml:6" in problem.message
    assert combined([loaded]).problems == (problem,)
