"""What the demo shows: under the example policy a client reaches what it allows, nothing else.

With DNS by the kernel, as the demo has it, and by the proxy.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.expectations import POLICY_OPTIONS, errands, happened
from tests.lab.guard import Session


@pytest.fixture
def session(shared_lab: Lab, dns_option: tuple[str, ...]) -> Iterator[Session]:
    with Session(shared_lab, (*POLICY_OPTIONS, *dns_option)) as session:
        yield session
    assert session.exit_status == 0


def test_every_errand_ends_as_expected(session: Session, shared_lab: Lab) -> None:
    """In order: an address is closed before its name was asked for, and open after."""
    outcomes = [(errand, session.do(errand.command)) for errand in errands(shared_lab)]
    surprises = [
        f"{errand.title}: expected {errand.expected}, {' '.join(errand.command)} gave {outcome}"
        for errand, outcome in outcomes
        if happened(errand, outcome) is not errand.expected
    ]
    assert not surprises, "\n".join(surprises)
