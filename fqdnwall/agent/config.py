"""The agent's configuration file: YAML, every key optional, every mistake named with its line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import yaml

from dnsproxy.config import RefusalCode

Address = IPv4Address | IPv6Address


class ConfigError(Exception):
    """``file:line: key: what is wrong``."""


@dataclass(frozen=True, slots=True)
class Config:
    """Keys are the fields' names with hyphens; defaults hold where a key is missing.

    ``learning_scope``: ``endpoint`` (what one looked up opens nothing for another) or ``node``.
    ``kernel_dns``: queries whose name is decided never leave the kernel.
    ``transparent_upstream``: servers see the client's own address.
    """

    learning_scope: str = "endpoint"
    kernel_dns: bool = True
    dns_min_ttl_seconds: int = 1
    dns_max_ttl_seconds: int = 86_400
    dns_reject_code: str = "refused"
    dns_in_flight: int = 16384
    dns_in_flight_per_endpoint: int = 2048
    dns_upstream_timeout_seconds: int = 10
    dns_addresses_per_answer: int = 1024
    transparent_upstream: bool = True
    resolvers: tuple[Address, ...] = ()
    conntrack_entries: int = 131072
    learned_entries: int = 524288
    ipcache_entries: int = 512000

    @property
    def refusal(self) -> RefusalCode:
        return REFUSALS[self.dns_reject_code]

    @property
    def map_sizes(self) -> dict[str, int]:
        return {
            "conntrack": self.conntrack_entries,
            "learned": self.learned_entries,
            "ipcache": self.ipcache_entries,
        }


REFUSALS = {"refused": RefusalCode.REFUSED, "nameError": RefusalCode.NAME_ERROR}
_WORDS = {
    "learning_scope": ("endpoint", "node"),
    "dns_reject_code": tuple(REFUSALS),
}
_RANGES = {
    "dns_min_ttl_seconds": (0, 86_400),
    "dns_max_ttl_seconds": (1, 604_800),
    "dns_in_flight": (1, 65_536),
    "dns_in_flight_per_endpoint": (1, 65_536),
    "dns_upstream_timeout_seconds": (1, 60),
    "dns_addresses_per_answer": (1, 4096),
    "conntrack_entries": (1024, 1 << 24),
    "learned_entries": (1024, 1 << 24),
    "ipcache_entries": (1024, 1 << 24),
}


def read_config(path: Path | None) -> Config:
    """The file's settings over the defaults. Raises ConfigError."""
    if path is None:
        return Config()
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return Config()
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{_line(node)}: a mapping of settings is expected")
    found = Config(**_settings(path, node))
    if found.dns_min_ttl_seconds > found.dns_max_ttl_seconds:
        raise ConfigError(f"{path}: dns-min-ttl-seconds is above dns-max-ttl-seconds")
    return found


def _settings(path: Path, node: yaml.MappingNode) -> dict[str, Any]:
    known = {field.name.replace("_", "-"): field.name for field in fields(Config)}
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        where = f"{path}:{_line(key_node)}: {key}"
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
            raise ConfigError(f"{where}: there is no such setting{hint}")
        if known[key] in found:
            raise ConfigError(f"{where}: given twice")
        value = yaml.SafeLoader("").construct_object(value_node, deep=True)
        try:
            found[known[key]] = _reader(known[key])(value)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return found


def _reader(name: str) -> Callable[[Any], Any]:
    if name in _WORDS:
        return lambda value: _word(value, _WORDS[name])
    if name in _RANGES:
        return lambda value: _integer(value, *_RANGES[name])
    return _addresses if name == "resolvers" else _boolean


def _word(value: object, words: tuple[str, ...]) -> str:
    if value not in words:
        raise ValueError(f"{value!r} is not one of {', '.join(words)}")
    return str(value)


def _integer(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004
    return value


def _addresses(value: object) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of IP addresses is expected")  # noqa: TRY004
    return tuple(ip_address(str(item)) for item in value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
