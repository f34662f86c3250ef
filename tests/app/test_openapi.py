"""The server keeps to its own description: schemathesis makes requests from /openapi.json and checks every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from feature_server.app.openapi import openapi
from tests.support.online_rows import NOW, OnlineRows
from tests.support.served import served
from tests.support.serving_cases import FRAUD, PROFILE, RISK, TRANSACTIONS


@pytest.fixture(scope="module")
def described(valkey_server: str) -> Iterator[Any]:
    rows = OnlineRows(valkey_server)
    rows.redis.flushall()
    rows.define(TRANSACTIONS, PROFILE, RISK, services=[FRAUD])
    rows.put("merchant__risk", "a", NOW, 0.5)
    with served(valkey_server) as running:
        yield schemathesis.openapi.from_url(f"{running.address}/openapi.json")


@pytest.mark.parametrize("path", openapi()["paths"])
def test_answers_are_as_described(described: Any, path: str) -> None:
    """A request may ask for names that no registry holds, so a well-formed one may be refused; that it is refused as
    described, and never with a 500, is checked."""
    (method,) = openapi()["paths"][path]
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if method == "post" else [GenerationMode.POSITIVE]
    operation = described[path][method]

    examples = 100 if method == "post" else 10

    @settings(max_examples=examples, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    ask()


def test_the_description_names_what_can_be_read() -> None:
    schemas = openapi()["components"]["schemas"]
    assert set(schemas["GetOnlineFeatures"]["properties"]) == {
        "entities", "features", "feature_service", "full_feature_names", "include_feature_view_version_metadata",
    }  # fmt: skip
    assert schemas["GetOnlineFeatures"]["required"] == ["entities"]
    statuses = schemas["Result"]["properties"]["statuses"]["items"]["enum"]
    assert sorted(statuses) == ["NOT_FOUND", "NULL_VALUE", "OUTSIDE_MAX_AGE", "PRESENT"]
