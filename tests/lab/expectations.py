"""What a client under the example policy can and cannot do: each errand with what must happen.

The demo shows them, the end-to-end tests assert them. The order matters: an address is asked for
before its name was looked up, to show that it is closed until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.lab import world
from tests.lab.daemons import REPOSITORY
from tests.lab.guard import Outcome
from tests.lab.lab import Lab

POLICY = REPOSITORY / "policies/examples/allow-external-apis.yaml"
LABELS = ("app=backend",)
POLICY_OPTIONS = ("--policy", str(POLICY), *(f"--label={label}" for label in LABELS))


class Happening(StrEnum):
    """What became of a curl or a dig, in words for the table."""

    REACHED = "reached"
    ANSWERED = "answered"
    REFUSED = "name refused"
    DROPPED = "dropped"
    FAILED = "failed otherwise"


@dataclass(frozen=True, slots=True)
class Errand:
    """A command for the client, and what must become of it."""

    title: str
    command: tuple[str, ...]
    expected: Happening
    distinct_addresses: int = 0
    """At least so many different addresses must have answered."""


def happened(errand: Errand, outcome: Outcome) -> Happening:
    """Reads what curl or dig returned and printed."""
    if errand.command[0] == "dig":
        return _dig_happening(outcome)
    match outcome.status:
        case 0 if len({line.split()[1] for line in outcome.out.splitlines()}) >= max(
            errand.distinct_addresses, 1
        ):
            return Happening.REACHED
        case 6:
            return Happening.REFUSED
        case 28:
            return Happening.DROPPED
    return Happening.FAILED


def _dig_happening(outcome: Outcome) -> Happening:
    if outcome.status == 9:
        return Happening.DROPPED
    if "status: REFUSED" in outcome.out:
        return Happening.REFUSED
    answers = "status: NOERROR" in outcome.out and "ANSWER: 0" not in outcome.out
    return Happening.ANSWERED if answers else Happening.FAILED


def errands(lab: Lab) -> tuple[Errand, ...]:
    """All of them, in order."""

    def curl(*arguments: str) -> tuple[str, ...]:
        patience = ("--connect-timeout", "1.5", "--max-time", "6")
        return ("curl", "-sS", *patience, "--cacert", str(lab.authority), *arguments)

    def dig(*arguments: str) -> tuple[str, ...]:
        return ("dig", "+tries=1", "+time=2", *arguments)

    def again(times: int, *arguments: str) -> tuple[str, ...]:
        loop = 'n=$1; shift; while [ "$n" -gt 0 ]; do "$@" || exit; n=$((n - 1)); done'
        return ("sh", "-c", loop, "again", str(times), *curl(*arguments))

    reached, refused, dropped = Happening.REACHED, Happening.REFUSED, Happening.DROPPED
    github = "https://api.github.com/"
    pinned = ("--resolve", f"api.github.com:443:{world.addresses_of('api.github.com')[0]}")
    return (
        Errand(
            "the address of an allowed name, before anyone asked for the name",
            curl(*pinned, github),
            dropped,
        ),
        Errand("an allowed name, IPv4", curl("-4", github), reached),
        Errand("an allowed name, IPv6", curl("-6", github), reached),
        Errand("the address of before, now that it was learned", curl(*pinned, github), reached),
        Errand("another port of it", curl("-4", "https://api.github.com:8443/"), dropped),
        Errand("a name that a pattern allows", curl("https://www.googleapis.com/"), reached),
        Errand(
            "one label more than the pattern's star stands for",
            curl("https://deep.www.googleapis.com/"),
            refused,
        ),
        Errand(
            "a content network: three aliases on the way to the address",
            curl("https://storage.googleapis.com/"),
            reached,
        ),
        Errand(
            "a name whose every answer is another address, five times",
            again(5, "-4", f"https://{world.ROTATING_NAME}/"),
            reached,
            distinct_addresses=5,
        ),
        Errand(
            "an answer too long for UDP, over TCP",
            dig("many.googleapis.com", "A"),
            Happening.ANSWERED,
        ),
        Errand("a name that is not allowed", curl("https://unlisted.example.org/"), refused),
        Errand("the same over TCP", dig("+tcp", "unlisted.example.org"), refused),
        Errand("an address without a name", curl(f"https://{world.OPEN_ADDRESS_V4}/"), dropped),
        Errand(
            "an allowed name, asked of another resolver",
            dig(f"@{world.OTHER_RESOLVER_V4}", "api.github.com"),
            dropped,
        ),
    )
