"""The agent's configuration: defaults hold, and every mistake names its line and key."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from dnsproxy.config import RefusalCode
from fqdnwall.agent.config import Config, ConfigError, read_config


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return read_config(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_what_is_not_said_is_the_default(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == Config() == read_config(None)


def test_every_key_is_taken(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "learning-scope: node\nkernel-dns: false\ndns-reject-code: nameError\n"
        "resolvers: [9.9.9.9, '2620:fe::fe']\nlearned-entries: 2048\n",
    )
    assert found.learning_scope == "node"
    assert not found.kernel_dns
    assert found.refusal is RefusalCode.NAME_ERROR
    assert found.resolvers == (ip_address("9.9.9.9"), ip_address("2620:fe::fe"))
    assert found.map_sizes["learned"] == 2048


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kernel-dns: true\nlearning-scop: node\n",
            ":2: learning-scop: there is no such setting; did",
        ),
        ("xyz: 1\n", ":1: xyz: there is no such setting; known are"),
        ("kernel-dns: 3\n", ":1: kernel-dns: 3 is neither true nor false"),
        ("\ndns-in-flight: 0\n", ":2: dns-in-flight: 0 is not a whole number from 1 to 65536"),
        ("dns-in-flight: true\n", ":1: dns-in-flight: True is not a whole number"),
        ("learning-scope: pod\n", ":1: learning-scope: 'pod' is not one of endpoint, node"),
        ("learning-scope: [node]\n", ":1: learning-scope: "),
        ("resolvers: 9.9.9.9\n", ":1: resolvers: a list of IP addresses is expected"),
        ("resolvers: [nine]\n", ":1: resolvers: 'nine' does not appear to be"),
        ("kernel-dns: true\nkernel-dns: false\n", ":2: kernel-dns: given twice"),
        ("- kernel-dns\n", ":1: a mapping of settings is expected"),
        ("a: [\n", "agent.yaml: "),
        ("? [a, b]\n: 1\n", ":1: "),
        ("dns-min-ttl-seconds: 61\ndns-max-ttl-seconds: 60\n", "is above dns-max-ttl-seconds"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read_config(tmp_path / "binary.yaml")
