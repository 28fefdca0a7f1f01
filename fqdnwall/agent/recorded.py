"""What an agent writes beside the maps for the one that comes after it; the kernel never reads it.

Which labels a number stands for, which endpoints there are, and the last number that one of these
got: no endpoint ever gets the number of one that is gone, so that nothing the maps still hold of
that one (connections, learned addresses, counters) can be taken for the new one's.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping

from fqdnwall.datapath.layouts import ENDPOINT_SLOTS, EndpointRecord, IdentityRecord
from fqdnwall.datapath.maps import Maps
from fqdnwall.endpoint.endpoint import Endpoint, Recorded, read_record
from fqdnwall.identity.allocator import label_texts
from policies import Identity, Label, Labels

_COUNTER = 0
"""The key of ``records`` whose value is no endpoint's: the last number given."""


class RecordTooLong(Exception):
    """An endpoint's labels and addresses are more than a record holds."""


class Recorder:
    """``identities`` are those that the maps hold."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.identities = _identities(maps)
        self._last = max((_counter(maps), *maps.policies.endpoints(), *self.endpoints()))

    def identity(self, identity: Identity, labels: Labels) -> None:
        """Keep a number's labels. Raises MapFull. What is too long is given anew each time."""
        text = json.dumps(label_texts(labels)).encode()
        if self.identities.get(identity) != labels and len(text) <= IdentityRecord.size():
            self._maps.identities.put(identity, IdentityRecord(text))
            self.identities[identity] = labels

    def forget_identity(self, identity: Identity) -> None:
        if self.identities.pop(identity, None) is not None:
            self._maps.identities.delete(identity)

    def endpoint(self, endpoint: Endpoint) -> None:
        """Keep what takes it over. Raises MapFull."""
        self._maps.records.put(endpoint.id, EndpointRecord(endpoint.record()))

    @staticmethod
    def check(endpoint: Endpoint) -> None:
        """Raises RecordTooLong where ``endpoint`` could not be kept."""
        size = len(endpoint.record())
        if size > EndpointRecord.size():
            raise RecordTooLong(f"labels of {size} octets in all; {EndpointRecord.size()} fit")

    def forget_endpoint(self, number: int) -> None:
        self._maps.records.delete(number)

    def endpoints(self) -> dict[int, Recorded]:
        """What an earlier agent guarded; a record that is broken is none."""
        found = {}
        for number, record in self._maps.records.items():
            if number != _COUNTER:
                try:
                    found[number] = read_record(record.json)
                except ValueError:
                    continue
        return found

    def keep_only(self, numbers: Container[int]) -> None:
        """Forget every record of another endpoint."""
        for number, _ in list(self._maps.records.items()):
            if number != _COUNTER and number not in numbers:
                self._maps.records.delete(number)

    def next_endpoint(self, known: Mapping[int, object]) -> int:
        """A number that no endpoint ever had. Raises MapFull."""
        taken = {number % ENDPOINT_SLOTS for number in known}
        number = self._last + 1
        while number % ENDPOINT_SLOTS in taken and len(taken) < ENDPOINT_SLOTS:
            number += 1
        self._maps.records.put(_COUNTER, EndpointRecord(json.dumps({"last": number}).encode()))
        self._last = number
        return number

    def last_ruleset(self) -> int:
        """The highest number that an earlier agent's trees have."""
        return max((key.ruleset for key, _ in self._maps.dns_names.items()), default=0)

    def last_rule(self) -> int:
        """The highest number that rules were counted under."""
        return max((key.rule for key in self._maps.counted_rules()), default=0)


def _counter(maps: Maps) -> int:
    record = maps.records.get(_COUNTER)
    try:
        return int(json.loads(record.json.rstrip(b"\0"))["last"]) if record else 0
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _identities(maps: Maps) -> dict[Identity, Labels]:
    found: dict[Identity, Labels] = {}
    for number, record in maps.identities.items():
        try:
            texts = json.loads(record.json.rstrip(b"\0"))
            found[Identity(number)] = frozenset(_parse(str(text)) for text in texts)
        except (ValueError, TypeError, RecursionError):
            continue
    return found


def _parse(text: str) -> Label:
    """As ``str(Label)`` wrote it: sources hold no colon, keys of CIDR and FQDN labels do."""
    source, _, rest = text.partition(":")
    if source in ("cidr", "fqdn", "reserved"):
        return Label(source, rest)
    key, _, value = rest.partition("=")
    return Label(source, key, value)
