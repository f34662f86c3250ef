"""What dbt's `deprecation_date` says of a view reaches who still reads it: check, headers, clients, training."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from feature_server import AsyncFeatureClient, FeatureClient
from feature_server.dbt.parse import dbt_parse
from feature_server.definitions.changes import plan
from feature_server.definitions.deprecation import deprecated_in, deprecation_headers
from feature_server.definitions.registry import Registry
from feature_server.errors import Problem
from feature_server.manifest.load import load_registry
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.served import served
from tests.support.tiny_project import write_project

OLD = msgspec.structs.replace(
    view("customer__old", {"customer_id": "int64"}, {"count": "int64"}), deprecation_date="2026-12-31"
)
OTHER = view("customer__other", {"customer_id": "int64"}, {"sum": "float64"})
FEATURES = ["customer__old:count", "customer__other:sum"]


def test_check_warns_who_still_reads_a_deprecated_version_and_plan_tells_the_date(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    dbt_parse(folder, folder / "target")
    before = load_registry(folder, folder / "target")
    (file,) = [each for each in folder.rglob("*.yml") if "- v: 2\n" in each.read_text()]
    text = file.read_text()
    file.write_text(text.replace("- v: 2\n", "- v: 2\n        deprecation_date: 2026-12-31\n"))
    dbt_parse(folder, folder / "target")
    said: list[Problem] = []
    after = load_registry(folder, folder / "target", said.append)
    (warning,) = said
    assert warning.key_path == "models[customer__activity@v2].deprecation_date"
    assert warning.line is not None
    assert "deprecation_date" in file.read_text().splitlines()[warning.line - 1]
    assert (warning.what, warning.got) == (
        "the feature view is deprecated as of 2026-12-31, and still read",
        "fraud_v1",
    )
    (change,) = plan(before, after)
    assert (change.name, change.details) == ("customer__activity@v2", ("deprecation_date: none → 2026-12-31",))
    assert not change.new_rows
    assert after.feature_view("customer__activity").deprecation_date == "2026-12-31"
    assert b"deprecation_date" not in before.to_json()


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(OLD, OTHER)
    rows.put("customer__old", 1, NOW, 5)
    rows.put("customer__other", 1, NOW, 0.5)
    return rows


@pytest.fixture
def address(rows: OnlineRows, valkey: str) -> Iterator[str]:
    with served(valkey) as running:
        yield running.address


@pytest.mark.parametrize("count", [1, 9_000])
def test_an_answer_names_the_deprecated_views_that_it_read(address: str, count: int) -> None:
    def headers(features: list[str]) -> httpx.Headers:
        body = {"features": features, "entities": {"customer_id": [1] * count}}
        answer = httpx.post(f"{address}/get-online-features", content=json.dumps(body), trust_env=False, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.headers

    found = headers(FEATURES)
    assert found["deprecation"] == "@1798675200"
    assert found["features-deprecated"] == "customer__old=2026-12-31"
    assert "deprecation" not in headers(FEATURES[1:])
    described = httpx.get(f"{address}/feature-views/customer__old", trust_env=False)
    assert described.json()["deprecation_date"] == "2026-12-31"
    page = httpx.get(f"{address}/feature-views/customer__old", headers={"accept": "text/html"}, trust_env=False)
    assert "as of 2026-12-31" in page.text


@pytest.mark.parametrize("over_http", [False, True])
def test_a_client_warns_once_a_view(rows: OnlineRows, valkey: str, address: str, over_http: bool) -> None:
    url = address if over_http else valkey

    async def awaited() -> None:
        async with AsyncFeatureClient(url) as client:
            for _ in range(3):
                await client.get_many(FEATURES, customer_id=[1])

    with warnings.catch_warnings(record=True) as seen, FeatureClient(url) as client:
        warnings.simplefilter("always")
        for _ in range(3):
            client.get(FEATURES[1:], customer_id=1)
        assert not seen
        for _ in range(3):
            client.get(FEATURES, customer_id=1)
        assert [(w.category, str(w.message)) for w in seen] == [
            (FutureWarning, "feature view customer__old is deprecated as of 2026-12-31: read another")
        ]
        asyncio.run(awaited())
    assert len(seen) == 2


def test_headers_say_the_earliest_date_and_are_read_back() -> None:
    dates = {"a__b@v1": "2026-12-31", "a__c": "2026-06-30T12:00:00+00:00"}
    headers = deprecation_headers(dates)
    assert headers["deprecation"] == "@1782820800"
    assert deprecated_in(headers) == dates
    assert deprecation_headers({}) == deprecated_in({}) == {}
    many = {f"a__v{i}": "2026-12-31" for i in range(1_000)}
    assert len(deprecation_headers(many)["features-deprecated"]) < 2_000


def test_registries_without_dates_are_the_bytes_of_before() -> None:
    assert b"deprecation" not in Registry(project="p", feature_views=(OTHER,)).to_json()
