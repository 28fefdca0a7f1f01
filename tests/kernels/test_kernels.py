"""Every program loads on every kernel that is supported, and does there what it does here.

A kernel that cannot be had fails its test: that it was not tried is not to go unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from fqdnwall.datapath.layouts import PROGRAMS
from tests.kernels import debian
from tests.kernels.machine import HERE, boot, here
from tests.kernels.report import Result

MOST_VERIFIED = 200_000
HAS_TCX = {"5.10": False, "6.1": False, "6.12": True}


@cache
def result_on(version: str) -> Result:
    """Of one boot, which the tests of a version share."""
    return Result.of(boot(debian.kernel(version)))


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("version", debian.SUITES)
def test_the_smoke_test_passes(version: str) -> None:
    result = result_on(version)
    assert result.passed, result.why
    assert result.release.startswith(f"{version}.")
    assert result.attach == ("tcx" if HAS_TCX[version] else "clsact")
    assert result.features["kernel dns"]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("version", debian.SUITES)
def test_every_program_loads_with_room_to_spare(
    version: str, record_property: Callable[[str, object], None]
) -> None:
    programs = result_on(version).programs
    assert programs.keys() == set(PROGRAMS)
    for name, program in programs.items():
        record_property(name, program["verified"])
        assert 0 < program["verified"] < MOST_VERIFIED, name
        assert program["jited"] > 0, name


@pytest.mark.kernel
@pytest.mark.slow
def test_the_same_smoke_test_passes_on_the_running_kernel() -> None:
    result = Result.of(here())
    assert result.passed, result.why
    assert result.version == HERE


@pytest.mark.kernel
@pytest.mark.slow
def test_where_a_program_that_reads_dns_is_refused_the_proxy_does_all_of_it() -> None:
    result = Result.of(here("dns_learn"))
    assert result.passed, result.why
    assert not result.features["kernel dns"]
