"""Names written down for the next agent: all of them or none, and never an error."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from fqdnwall.agent import names, texts
from fqdnwall.fqdn.cache import KERNEL, PROXY, Key, Record

RECORDS = [
    Record(Key(1, "a.com", ip_address("10.0.0.1")), 7, 60, 100.5, 160.5, PROXY),
    Record(Key(0, "b.com", ip_address("2001:db8::1")), 0, 1, 100.5, 101.5, KERNEL),
]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "agent.names.json"
    names.save(path, RECORDS)
    assert names.load(path) == RECORDS
    assert [p.name for p in tmp_path.iterdir()] == ["agent.names.json"]


def test_names_of_another_boot_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    names.save(path, RECORDS)
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "boot": "other"}))
    assert names.load(path) == []


@pytest.mark.parametrize(
    "rows",
    [
        [[1, "a.com", "10.0.0.1", 7, 60, 100.0, 160.0]],
        [[1, "a.com", "10.0.0.300", 7, 60, 100.0, 160.0, "proxy"]],
        [[1, "a.com", "10.0.0.1", "x", 60, 100.0, 160.0, "proxy"]],
        [[1, "a.com", "10.0.0.1", 7, 60, None, 160.0, "proxy"]],
        [[1, "a.com", "10.0.0.1", 7, 60, 100.0, 160.0, "elsewhere"]],
        [7],
        {"a": 1},
        None,
    ],
)
def test_a_broken_file_is_no_file(tmp_path: Path, rows: object) -> None:
    path = tmp_path / "n.json"
    names.save(path, [])
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "records": rows}))
    assert names.load(path) in ([], [*[]])


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"format": 1}', "[" * 5000])
def test_neither_is_one_that_is_no_such_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "n.json"
    path.write_text(text)
    assert names.load(path) == []
    assert texts.load(path) == {}
    assert names.load(tmp_path / "missing.json") == []


def test_nothing_is_left_of_a_save_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "agent.names.json"
    names.save(path, RECORDS)
    path.with_suffix(names.TEMPORARY).write_text("half")
    names.remove(path)
    names.remove(path)
    assert list(tmp_path.iterdir()) == []
