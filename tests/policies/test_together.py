"""Several texts are the objects of one cluster: nothing is there twice, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fqdnwall.cli.main import app
from policies.batch import judge_request
from policies.casefile import load_case_file
from policies.parse import parse_policies, together

HEAD = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: n}\n"
CLOSED = HEAD + "spec: {endpointSelector: {}, egress: [{}]}\n"
OPEN = HEAD + "spec: {endpointSelector: {}, egress: [{toEntities: [all]}]}\n"
GROUP = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\n"
ONE = GROUP + "spec: {externalCIDRs: [10.0.0.0/8]}\n"
TWO = GROUP + "spec: {externalCIDRs: [0.0.0.0/0]}\n"
NAME = "give one of them another name"


def test_the_second_of_one_name_in_a_text_is_an_error_with_both_places() -> None:
    found = parse_policies(f"{CLOSED}---\n{OPEN}", "f.yaml")
    title = "CiliumNetworkPolicy n/p"
    assert [str(error) for error in found.errors] == [
        f"f.yaml:6: metadata.name: {title} is at f.yaml:1 already; {NAME}"
    ]
    assert found.policies == parse_policies(CLOSED, "f.yaml").policies


def test_groups_of_one_name_are_told_apart_too() -> None:
    found = parse_policies(f"{ONE}---\n{TWO}", "f.yaml")
    assert [error.line for error in found.errors] == [6]
    assert found.cidr_groups == parse_policies(ONE, "f.yaml").cidr_groups


@pytest.mark.parametrize(
    ("old", "new"),
    [("name: p", "name: q"), ("namespace: n", "namespace: m"), ("NetworkP", "ClusterwideNetworkP")],
)
def test_another_name_namespace_or_kind_is_another_object(old: str, new: str) -> None:
    other = OPEN.replace(old, new).replace(
        ", namespace: n}", "}" if "Cluster" in new else ", namespace: n}"
    )
    found = parse_policies(f"{CLOSED}---\n{other}", "f.yaml")
    assert not found.errors
    assert len(found.policies) == 2


def test_of_two_texts_the_later_one_has_the_error() -> None:
    found = together([parse_policies(CLOSED, "a.yaml"), parse_policies(OPEN, "b.yaml")])
    (error,) = found.errors
    assert (error.source, error.line) == ("b.yaml", 1)
    assert "is at a.yaml:1 already" in error.message
    assert [policy.source for policy in found.policies] == ["a.yaml"]


def test_a_test_file_reads_its_policies_together() -> None:
    texts = {"a.yaml": CLOSED, "b.yaml": OPEN}
    text = "policies: [a.yaml, b.yaml]\nendpoints: {x: {namespace: n}}\ncases: []\n"
    loaded = load_case_file(text, "t.yaml", lambda path: texts[path])
    assert [str(error).split(": ")[0] for error in loaded.errors] == ["b.yaml:1"]


def test_a_batch_request_has_each_object_once() -> None:
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"endpointSelector": {}, "egress": [{}]},
    }
    request = {"id": 1, "policies": [policy, policy], "endpoints": {"x": {}}, "flows": []}
    (error,) = judge_request(request)["errors"]
    assert error == (
        "policies[1].metadata.name: CiliumNetworkPolicy default/p is at policies[0] already;"
        f" {NAME}"
    )


@pytest.mark.parametrize("command", ["validate", "explain"])
def test_the_command_takes_files_together(command: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path, text in zip(files, (CLOSED, OPEN), strict=True):
        path.write_text(text)
    arguments = ["policy", "validate", *map(str, files)]
    if command == "explain":
        arguments = ["policy", "explain", "--to", "10.0.0.1"]
        for path in files:
            arguments += ["--policy", str(path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert f"is at {files[0]}:1 already" in f"{result.output}{result.exception}"
