"""Which views and models a schedule leaves as they are until they are applied."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from feature_server.definitions.facts import Entity, Feature, FeatureView, JoinKey
from feature_server.definitions.held import Held, held_back
from feature_server.definitions.models import Model
from feature_server.definitions.registry import Registry
from feature_server.dtypes import DType

NUMBER = DType("int64")
KEY = JoinKey("customer_id", NUMBER)


def model(name: str, meaning: str, *reads: str) -> Model:
    return Model(
        unique_id=f"model.shop.{name}", package="shop", path=f"models/{name}.sql", relation=f'"shop"."{name}"',
        sql="select 1", reads={f'"{one}"': f"model.shop.{one}" for one in reads}, meaning=meaning,
    )  # fmt: skip


def view(name: str, meaning: str) -> FeatureView:
    return FeatureView(
        name=name, entities=("customer",), join_keys=(KEY,), features=(Feature(name="amount", dtype=NUMBER),),
        unique_id=f"model.shop.{name}", meaning=meaning, fingerprint=f"{name} {meaning}",
    )  # fmt: skip


STAGING, SPEND, VISITS = model("stg", "s1"), model("spend", "a1", "stg"), model("visits", "b1")
IN_FORCE = Registry(
    project="shop", entities=(Entity(name="customer", join_keys=(KEY,)),),
    feature_views=(view("spend", "a1"), view("visits", "b1")), models=(SPEND, STAGING, VISITS),
)  # fmt: skip
OTHER = "its definition in the project is not the one in force"


def test_what_is_in_force_holds_nothing_back() -> None:
    assert held_back(IN_FORCE, IN_FORCE) == Held()


def test_a_view_is_held_with_every_model_that_means_something_else() -> None:
    changed = replace(
        IN_FORCE, feature_views=(view("spend", "a2"), view("visits", "b1")),
        models=(replace(SPEND, meaning="a2"), replace(STAGING, meaning="s2"), VISITS),
    )  # fmt: skip
    assert held_back(IN_FORCE, changed) == Held(views={"spend": OTHER}, models=("model.shop.spend", "model.shop.stg"))


def test_a_new_view_and_all_where_nothing_was_applied_are_held() -> None:
    new = replace(IN_FORCE, feature_views=(IN_FORCE.feature_views[1],), models=(VISITS,))
    never = "it has never been applied"
    assert held_back(new, IN_FORCE) == Held(
        views={"spend": never}, new=("spend",), models=("model.shop.spend", "model.shop.stg")
    )
    nothing = held_back(None, IN_FORCE)
    assert (nothing.views, nothing.new) == ({"spend": never, "visits": never}, ("spend", "visits"))


def test_a_view_that_is_gone_from_the_project_is_named_and_holds_nothing_back() -> None:
    gone = replace(IN_FORCE, feature_views=IN_FORCE.feature_views[1:], models=(STAGING, VISITS))
    assert held_back(IN_FORCE, gone) == Held(gone=("spend",))


@pytest.mark.parametrize("field", [{"description": "Other words."}, {"ttl_us": 3_600_000_000}, {"online": False}])
def test_what_changes_no_rows_holds_nothing_back(field: dict[str, object]) -> None:
    spend, visits = IN_FORCE.feature_views
    assert held_back(IN_FORCE, replace(IN_FORCE, feature_views=(replace(spend, **field), visits))) == Held()


def test_a_view_of_other_columns_is_held_though_its_sql_means_the_same() -> None:
    spend, visits = IN_FORCE.feature_views
    retyped = replace(IN_FORCE, feature_views=(replace(spend, fingerprint="spend as text"), visits))
    assert held_back(IN_FORCE, retyped) == Held(views={"spend": OTHER}, models=("model.shop.spend",))
