"""The engine and the specification agree on every flow that Hypothesis draws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from policies.batch import judge_request
from tests.policies import specification
from tests.policies.drawing import requests

FLOWS = 25


def check(request: dict[str, Any]) -> None:
    answer = judge_request(request)
    assert answer["errors"] == []
    for flow, given_verdict in zip(request["flows"], answer["verdicts"], strict=True):
        expected = specification.verdict(request, flow)
        assert given_verdict["verdict"] == expected, json.dumps(
            {"flow": flow, "got": given_verdict, "policies": request["policies"]}, indent=1
        )


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(FLOWS))
def test_three_thousand_flows_are_judged_as_specified(request: dict[str, Any]) -> None:
    check(request)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests(FLOWS))
def test_a_hundred_thousand_flows_are_judged_as_specified(request: dict[str, Any]) -> None:
    check(request)
