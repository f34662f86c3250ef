"""Looking definitions up, reading and writing them, and what differs between two registries."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from feature_server.definitions.changes import Change, plan
from feature_server.definitions.facts import (
    Entity,
    Feature,
    FeatureRef,
    FeatureService,
    FeatureView,
    JoinKey,
    Owner,
    parse_duration,
)
from feature_server.definitions.registry import Registry, read_registry, write_registry
from feature_server.dtypes import DType
from feature_server.errors import FeatureStoreError, RequestError, UnknownNameError

CUSTOMER = JoinKey("customer_id", DType("int64"))


def view(name: str, *features: str, version: str | None = None, latest: bool = True) -> FeatureView:
    return FeatureView(
        name=name, version=version, latest=latest, entities=("customer",), join_keys=(CUSTOMER,),
        features=tuple(Feature(name=feature, dtype=DType("float64")) for feature in features),
        fingerprint=f"{name}{version}{features}",
    )  # fmt: skip


PROFILE = view("profile", "country", "age")
ACTIVITY_V1 = view("activity", "transactions_1h", version="1", latest=False)
ACTIVITY_V2 = view("activity", "transactions_1h", "amount_1h", version="2")
FRAUD = FeatureService(
    name="fraud_v1",
    features=(
        FeatureRef("activity@v2", "amount_1h", "activity:amount_1h"),
        FeatureRef("profile", "age", "profile:age"),
    ),
)
REGISTRY = Registry(
    project="tiny",
    entities=(Entity(name="customer", join_keys=(CUSTOMER,)),),
    feature_views=(ACTIVITY_V1, ACTIVITY_V2, PROFILE),
    feature_services=(FRAUD,),
)


@pytest.mark.parametrize(
    ("name", "found"),
    [("profile", PROFILE), ("activity", ACTIVITY_V2), ("activity@v1", ACTIVITY_V1), ("activity@v2", ACTIVITY_V2)],
)
def test_a_view_is_found_by_id_and_its_latest_version_by_name(name: str, found: FeatureView) -> None:
    assert REGISTRY.feature_view(name) == found


def test_an_unknown_name_says_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError) as raised:
        REGISTRY.feature_view("profil")
    assert raised.value.as_dict() == {
        "error": "UnknownNameError", "what": "unknown feature_view 'profil'", "got": "profil",
        "expected": "one of activity, activity@v1, activity@v2, profile",
        "remedy": "did you mean 'profile'? Else: what is new needs `features apply`, and `features sync` before it can "
        "be read online",
    }  # fmt: skip
    with pytest.raises(UnknownNameError, match="remedy: what is new needs `features apply`"):
        REGISTRY.feature_view("basket")
    with pytest.raises(UnknownNameError, match="did you mean 'customer'"):
        REGISTRY.entity("custmer")
    with pytest.raises(UnknownNameError, match="did you mean 'fraud_v1'"):
        REGISTRY.feature_service("fraud")


def test_a_view_where_a_service_is_meant_is_told_how_to_ask_for_its_features() -> None:
    with pytest.raises(RequestError, match="remedy: ask for its features, such as activity:") as refused:
        REGISTRY.resolve("activity")
    assert REGISTRY.resolve([str(refused.value.remedy).rpartition(" ")[2]])


def test_features_resolve_in_the_order_asked_for() -> None:
    assert REGISTRY.resolve(["profile:age", "activity:amount_1h", "activity@v1:transactions_1h"]) == (
        FeatureRef("profile", "age", "profile:age"),
        FeatureRef("activity@v2", "amount_1h", "activity:amount_1h"),
        FeatureRef("activity@v1", "transactions_1h", "activity@v1:transactions_1h"),
    )
    assert REGISTRY.resolve("fraud_v1") == FRAUD.features


@pytest.mark.parametrize(
    ("features", "error", "what"),
    [
        ([], RequestError, "no features are asked for"),
        (["profile"], RequestError, "'profile' is not a feature reference"),
        (["profile:"], RequestError, "'profile:' is not a feature reference"),
        (["a:b:c"], RequestError, "'a:b:c' is not a feature reference"),
        (["profile:age", "profile:age"], RequestError, "'profile:age' is asked for twice"),
        (["activity:amount_1h", "activity@v2:amount_1h"], RequestError, "'activity@v2:amount_1h' is asked for twice"),
        (["activity@v1:amount_1h"], UnknownNameError, "unknown feature 'amount_1h'"),
        (["activity@v3:amount_1h"], UnknownNameError, "unknown feature_view 'activity@v3'"),
    ],
)
def test_features_that_cannot_be_resolved_are_errors(
    features: list[str], error: type[FeatureStoreError], what: str
) -> None:
    with pytest.raises(error) as raised:
        REGISTRY.resolve(features)
    assert raised.value.what == what


def test_services_are_found_by_the_views_they_read() -> None:
    assert REGISTRY.services_using("activity@v2") == (FRAUD,)
    assert REGISTRY.services_using("activity@v1") == ()


def test_a_written_registry_reads_back_the_same_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "registry.json"
    write_registry(path, Registry(project="older"))
    write_registry(path, REGISTRY)
    assert read_registry(path) == REGISTRY
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_or_damaged_registry_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    with pytest.raises(FeatureStoreError, match="no registry has been applied"):
        read_registry(path)
    for damaged in (REGISTRY.to_json()[:-20], REGISTRY.to_json().replace(b'"name"', b'"\xff"', 1)):
        path.write_bytes(damaged)
        with pytest.raises(FeatureStoreError, match="the registry cannot be read"):
            read_registry(path)


def changed(**changes: object) -> Registry:
    """REGISTRY with a change in its view `profile`."""
    profile = msgspec.structs.replace(PROFILE, **changes)
    return msgspec.structs.replace(REGISTRY, feature_views=(ACTIVITY_V1, ACTIVITY_V2, profile))


def test_equal_registries_have_no_plan() -> None:
    assert plan(REGISTRY, msgspec.json.decode(REGISTRY.to_json(), type=Registry)) == ()


def test_with_no_registry_in_force_everything_is_added() -> None:
    found = [(change.action, change.kind, change.name, change.new_rows) for change in plan(None, REGISTRY)]
    assert found == [
        ("added", "entity", "customer", False),
        ("added", "feature_view", "activity@v1", True),
        ("added", "feature_view", "activity@v2", True),
        ("added", "feature_view", "profile", True),
        ("added", "feature_service", "fraud_v1", False),
    ]


def test_a_removed_definition_is_named() -> None:
    without = msgspec.structs.replace(REGISTRY, feature_services=())
    expected = Change(
        action="removed", kind="feature_service", name="fraud_v1", details=("2 features of activity@v2, profile",)
    )
    assert plan(REGISTRY, without) == (expected,)


@pytest.mark.parametrize(
    ("changes", "details", "new_rows"),
    [
        ({"ttl_us": parse_duration("7d")}, ("ttl: none → 7d",), False),
        ({"refresh": "daily", "owner": Owner(name="Risk")}, ("refresh: none → daily", "owner: none → Risk"), False),
        ({"description": "Customers."}, ("description",), False),
        ({"online": False}, ("online: true → false",), False),
        ({"features": PROFILE.features[:1], "fingerprint": "other"}, ("age removed",), True),
        ({"features": PROFILE.features[::-1], "fingerprint": "other"}, ("features in another order",), True),
        (
            {"features": (PROFILE.features[0], Feature(name="age", dtype=DType("int8"))), "fingerprint": "other"},
            ("type of age: float64 → int8",),
            True,
        ),
        ({"event_timestamp": "since", "fingerprint": "other"}, ("event_timestamp: event_timestamp → since",), True),
    ],
)
def test_a_changed_view_says_what_changed_and_whether_rows_are_written_anew(
    changes: dict[str, object], details: tuple[str, ...], new_rows: bool
) -> None:
    expected = Change(action="changed", kind="feature_view", name="profile", details=details, new_rows=new_rows)
    assert plan(REGISTRY, changed(**changes)) == (expected,)


def test_a_view_that_comes_online_gets_new_rows() -> None:
    (change,) = plan(changed(online=False), REGISTRY)
    assert (change.details, change.new_rows) == (("online: false → true",), True)


def test_a_service_says_when_a_plain_name_means_another_version() -> None:
    service = msgspec.structs.replace(
        FRAUD, features=(FeatureRef("activity@v3", "amount_1h", "activity:amount_1h"), FRAUD.features[1])
    )
    (change,) = plan(REGISTRY, msgspec.structs.replace(REGISTRY, feature_services=(service,)))
    assert change.details == ("activity:amount_1h now reads activity@v3, before activity@v2",)
