"""features sync and features get, as a user types them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from feature_server.cli.main import NOT_FIT
from feature_server.definitions.facts import FeatureRef, FeatureService
from feature_server.definitions.registry import Registry, write_registry
from feature_server.settings import load_settings
from tests.support.ran import Ran, Typing
from tests.support.sync_project import Tables, at, make_view

SPEND = make_view(features={"spend": "float64", "card": "string"}, refresh="hourly")
PAIR = make_view("pair__late", {"carrier": "string", "day": "date"}, {"late": "int8"}, ttl="1h", refresh="daily")
FRAUD = FeatureService(
    name="fraud_v1",
    features=(
        FeatureRef(SPEND.id, "spend", f"{SPEND.id}:spend"),
        FeatureRef(SPEND.id, "card", f"{SPEND.id}:card"),
    ),
)


@pytest.fixture
def features(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs `features` in a home with two views published."""
    for name in ("FEATURES_OFFLINE", "FEATURES_WAREHOUSE", "FEATURES_PROJECT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATURES_HOME", str(tmp_path))
    monkeypatch.setenv("FEATURES_REDIS_URL", valkey)
    monkeypatch.setenv("FEATURES_CLOCK", at(90).isoformat())
    settings = load_settings()
    tables = Tables(settings.offline)
    tables.commit(SPEND, [[(42, at(5), 12.5, "visa"), (43, at(80), float("inf"), None)]])
    tables.commit(PAIR, [[("UA", datetime(2013, 12, 31, tzinfo=UTC).date(), at(10), 3)]])
    registry = Registry(project="test", feature_views=(SPEND, PAIR), feature_services=(FRAUD,))
    write_registry(settings.registry_path, registry)

    return Typing(monkeypatch, capsys)


def test_sync_says_in_one_line_what_it_did_to_each_view(features: Callable[..., Ran]) -> None:
    ran = features("sync")
    assert ran.code == 0
    assert [re.sub(r"seconds=\S+", "seconds=…", line) for line in ran.out.splitlines()] == [
        "synced customer__spend rows=2 deleted=0 seconds=… newest=2024-01-01T01:20:00Z version=0",
        "synced pair__late rows=1 deleted=0 seconds=… newest=2024-01-01T00:10:00Z version=0",
    ]
    assert ran.err == ""


def test_sync_of_one_cadence_as_json(features: Callable[..., Ran]) -> None:
    ran = features("sync", "--refresh", "daily", "--json")
    (result,) = json.loads(ran.out)["results"]
    assert (ran.code, result["view"], result["mode"], result["rows"]) == (0, "pair__late", "full", 1)


def test_sync_goes_on_after_a_view_that_was_never_published_and_exits_3(
    features: Callable[..., Ran], tmp_path: Path
) -> None:
    (tmp_path / "offline" / SPEND.id).rename(tmp_path / "gone")
    ran = features("sync")
    assert ran.code == NOT_FIT
    assert ran.out.startswith("synced pair__late ")
    assert "failed " in ran.err
    assert "has no offline table" in ran.err
    assert "features publish customer__spend" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sync", "customer__spent"), 1, "did you mean 'customer__spend'?"),
        (("sync", "--refresh", "weekly"), 1, "expected: one of daily, hourly"),
        (("sync", "customer__spend", "--refresh", "daily"), 2, "name views or a cadence"),
        (("get", "fraud_v2", "customer_id=42"), 1, "did you mean 'fraud_v1'?"),
        (("get", "fraud_v1", "customer_id"), 2, "customer_id=42"),
        (("get", "fraud_v1", "customer_id=forty"), 1, "send customer_id as an integer"),
        (("get", "fraud_v1", "customer=42"), 1, "customer_id"),
        (("get", "fraud_v1"), 2, "Missing argument"),
    ],
)
def test_what_is_typed_wrong_is_said_with_the_remedy(
    features: Callable[..., Ran], arguments: tuple[str, ...], code: int, said: str
) -> None:
    if arguments[0] == "get":
        features("sync")
    ran = features(*arguments)
    assert ran.code == code
    assert said in re.sub(r"\s*│\s*│?\s*", " ", ran.err)
    assert "Traceback" not in ran.err


def test_get_before_any_sync_says_what_to_run(features: Callable[..., Ran]) -> None:
    ran = features("get", "fraud_v1", "customer_id=42")
    assert (ran.code, ran.err) == (1, "error: the online store is empty\n  remedy: run `features sync`\n")


def test_get_prints_values_statuses_and_times(features: Callable[..., Ran]) -> None:
    features("sync")
    assert features("get", "fraud_v1", "customer_id=42").out == (
        "spend  12.5                      PRESENT          2024-01-01T00:05:00Z\n"
        "card   visa                      PRESENT          2024-01-01T00:05:00Z\n"
    )
    assert features("get", "customer__spend:card", "customer_id=7").out == "card                            NOT_FOUND\n"


def test_get_as_json_tells_infinity_from_null(features: Callable[..., Ran]) -> None:
    features("sync")
    assert json.loads(features("get", "fraud_v1", "customer_id=43", "--json").out) == {
        "entity": {"customer_id": 43},
        "features": {
            "spend": {"value": "Infinity", "status": "PRESENT", "event_timestamp": "2024-01-01T01:20:00Z"},
            "card": {"value": None, "status": "NULL_VALUE", "event_timestamp": "2024-01-01T01:20:00Z"},
        },
    }


def test_get_of_a_service_whose_views_share_a_feature_name_is_read_by_full_names(
    features: Callable[..., Ran], tmp_path: Path
) -> None:
    other = msgspec.structs.replace(SPEND, name="customer__other")
    Tables(load_settings().offline).commit(other, [[(42, at(5), 7.5, "visa")]])
    both = FeatureService(
        name="both", features=tuple(FeatureRef(view.id, "spend", f"{view.id}:spend") for view in (SPEND, other))
    )
    registry = Registry(project="test", feature_views=(SPEND, other), feature_services=(both,))
    write_registry(load_settings().registry_path, registry)
    features("sync")
    refused = features("get", "both", "customer_id=42")
    assert (refused.code, "--full-feature-names" in refused.err) == (1, True)
    assert features("get", "both", "customer_id=42", "--full-feature-names").out == (
        "customer__spend__spend  12.5                      PRESENT          2024-01-01T00:05:00Z\n"
        "customer__other__spend  7.5                       PRESENT          2024-01-01T00:05:00Z\n"
    )


def test_get_of_several_join_keys_after_the_ttl_gives_no_value(features: Callable[..., Ran]) -> None:
    features("sync")
    ran = features("get", "pair__late:late", "carrier=UA", "day=2013-12-31", "--json")
    assert json.loads(ran.out)["features"]["late"] == {
        "value": None,
        "status": "OUTSIDE_MAX_AGE",
        "event_timestamp": "2024-01-01T00:10:00Z",
    }


def test_without_a_redis_url_sync_and_get_share_the_embedded_store(
    features: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATURES_REDIS_URL")
    assert features("sync").code == 0
    assert "12.5" in features("get", "fraud_v1", "customer_id=42").out


def test_a_file_that_the_system_refuses_is_named(features: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "registry.json").unlink()
    (tmp_path / "registry.json").mkdir()
    ran = features("status")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {tmp_path}/registry.json: the system refuses a file\n  got: Is a directory\n")
    assert "Traceback" not in ran.err


def test_status_shows_versions_as_such(features: Callable[..., Ran]) -> None:
    features("sync", SPEND.id)
    header, line, *_ = features("status").out.splitlines()
    cells = dict(zip(re.split(r"  +", header), re.split(r"  +", line), strict=True))
    assert (cells["rows"], cells["version"], cells["version online"]) == ("2", "v0", "v0")
    (view, _) = json.loads(features("status", "--json").out)["views"]
    assert (view["published_version"], view["synced_version"], view["online_rows"]) == (0, 0, 2)


def test_an_integer_too_large_for_its_key_is_called_an_integer(features: Callable[..., Ran]) -> None:
    features("sync", SPEND.id)
    ran = features("get", "fraud_v1", f"customer_id={'9' * 40}")
    assert ran.code == 1
    assert f"got: {'9' * 40} (int)" in ran.err
