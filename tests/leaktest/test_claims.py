"""What of a project is compared, and when rows of its sources landed, by its YAML, its tests and what is typed."""

from __future__ import annotations

from typing import Any

import pytest

from feature_server.errors import FeatureStoreError, SettingsError, UnknownNameError
from feature_server.leaktest.claims import Claim, Depends, Node, Project, Tested, claims, landings


def model(name: str, *, version: int | None = None, reads: tuple[str, ...] = (), **meta: Any) -> Node:
    unique_id = f"model.shop.{name}" if version is None else f"model.shop.{name}.v{version}"
    return Node(
        unique_id=unique_id, resource_type="model", name=name, version=version, config={"meta": meta},
        depends_on=Depends(nodes=reads),
    )  # fmt: skip


def data_test(of: str, name: str, **kwargs: Any) -> Node:
    return Node(
        unique_id=f"test.shop.{name}.{of}", resource_type="test", name=name, attached_node=f"model.shop.{of}",
        test_metadata=Tested(name=name, kwargs=kwargs),
    )  # fmt: skip


def source(name: str, config: dict[str, Any], loaded_at_field: str | None = None) -> Node:
    return Node(
        unique_id=f"source.shop.bank.{name}", resource_type="source", source_name="bank", name=name, config=config,
        loaded_at_field=loaded_at_field,
    )  # fmt: skip


def project(*nodes: Node) -> Project:
    listed = {node.unique_id: node for node in nodes}
    sources = {unique_id: node for unique_id, node in listed.items() if node.resource_type == "source"}
    return Project({unique_id: node for unique_id, node in listed.items() if unique_id not in sources}, sources)


CUSTOMERS = model("customers", entity={"name": "customer", "join_keys": ["country", "number"]})
SPEND = model("spend", version=2, feature_view={"entities": ["customer"], "created_timestamp": "known_at"})
VISITS = model("visits", feature_view={"entities": ["customer"], "event_timestamp": "at", "stream": "bank.visits"})
REPORT = model("report")


def test_every_feature_view_is_compared_by_join_keys_and_times_and_claims_by_the_created_one() -> None:
    assert claims(project(CUSTOMERS, SPEND, VISITS, REPORT), (), known_at=None) == [
        Claim(
            id="spend@v2", unique_id="model.shop.spend.v2", known_at="known_at",
            keys=("country", "number", "event_timestamp", "known_at"),
        ),
        Claim(
            id="visits", unique_id="model.shop.visits", known_at="at", keys=("country", "number", "at"),
            stream="bank.visits",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tests", "keys"),
    [
        ((), ()),
        ((data_test("report", "unique", column_name="day"),), ("day",)),
        ((data_test("report", "grain", columns=["day", "country"]),), ("day", "country")),
        (
            (
                data_test("report", "unique_combination_of_columns", combination_of_columns=["a", "b", "c"]),
                data_test("report", "grain", columns=["day", "country"]),
            ),
            ("day", "country"),
        ),
        ((data_test("visits", "unique", column_name="day"), data_test("report", "not_null", column_name="day")), ()),
    ],
)
def test_keys_of_another_model_are_what_its_tests_say_is_there_once(
    tests: tuple[Node, ...], keys: tuple[str, ...]
) -> None:
    (claim,) = claims(project(REPORT, VISITS, *tests), ["report"], known_at="loaded_at")
    assert (claim.keys, claim.known_at) == (keys, "loaded_at")
    (claim,) = claims(project(REPORT, VISITS, *tests), ["report"], known_at="loaded_at", keys=["a"])
    assert claim.keys == ("a",)


def test_a_view_of_an_entity_that_is_not_declared_has_the_keys_of_its_tests() -> None:
    (claim,) = claims(project(VISITS, data_test("visits", "grain", columns=["who", "at"])), (), known_at=None)
    assert claim.keys == ("who", "at")


def test_what_is_not_there_is_refused_with_the_nearest_name_or_the_remedy() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'report'"):
        claims(project(REPORT), ["repotr"], known_at="at")
    with pytest.raises(SettingsError, match="--known-at"):
        claims(project(REPORT), ["report"], known_at=None)
    with pytest.raises(FeatureStoreError, match="no feature views"):
        claims(project(REPORT), (), known_at=None)


def test_a_landing_time_is_typed_or_the_streams_or_dbts() -> None:
    stream = {"meta": {"event_stream": {"created_timestamp": "sent_at"}}, "loaded_at_field": "other"}
    found = project(
        source("events", stream), source("rows", {"loaded_at_field": "own"}), source("old", {}, "old_at"),
        source("files", {}), source("unread", {}), model("all"),
    )  # fmt: skip
    read = [f"source.shop.bank.{name}" for name in ("events", "rows", "old", "files")]
    assert landings(found, read, {}) == dict(zip(read, ["sent_at", "own", "old_at", None], strict=True))
    assert landings(found, read, {"bank.files": "a", "bank": "b"}) == {
        one: "a" if one.endswith("files") else "b" for one in read
    }
    with pytest.raises(SettingsError, match=r"did you mean bank\.files\?"):
        landings(found, read, {"bank.file": "a"})


def test_what_is_under_a_model_is_found_once() -> None:
    top = model("top", reads=("model.shop.left", "model.shop.right"))
    left, right = (model(name, reads=("source.shop.bank.rows",)) for name in ("left", "right"))
    assert project(top, left, right).under(["model.shop.top"]) == [
        "model.shop.top", "model.shop.left", "model.shop.right", "source.shop.bank.rows",
    ]  # fmt: skip
