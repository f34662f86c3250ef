"""A registry that is lost: what was published says by which definitions."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from feature_server.definitions.facts import FeatureView
from feature_server.definitions.models import Model
from feature_server.definitions.registry import Registry
from feature_server.meaning.settled import settle
from feature_server.publish.built import BuiltBy
from feature_server.publish.restored import restored
from tests.support.relations import Relations, run_of, view_of

STAGING = Model(
    unique_id="model.shop.stg", package="shop", path="stg.sql", relation='"warehouse"."main"."stg"',
    sql="select * from orders", reads={"orders": "source.shop.orders"},
)  # fmt: skip
NAMES = ("spend", "visits")


def model(name: str, sql: str) -> Model:
    relation = f'"warehouse"."main"."{name}"'
    return Model(
        unique_id=f"model.shop.{name}", package="shop", path=f"{name}.sql", relation=relation, sql=sql,
        reads={STAGING.relation: STAGING.unique_id},
    )  # fmt: skip


def view(name: str) -> FeatureView:
    found = view_of(name, {"customer_id": "bigint"}, {"amount": "integer"})
    return replace(found, unique_id=f"model.shop.{name}")


def project(staging: Model = STAGING, **sql: str) -> Registry:
    texts = {
        name: f'select customer_id, event_timestamp, amount from "warehouse"."main"."stg" -- {name}' for name in NAMES
    }
    models = [model(name, sql.get(name, text)) for name, text in texts.items()]
    return Registry(project="shop", feature_views=tuple(map(view, NAMES)), models=(*models, staging))


def publish(relations: Relations, registry: Registry, *names: str) -> None:
    models = {model.unique_id: model for model in registry.models}
    for name in names:
        relations.execute(
            f"create or replace table {name} as select 1::bigint as customer_id, "
            "timestamptz '2013-01-01' as event_timestamp, 3 as amount"
        )
        run = run_of({name: model.sql for name, model in models.items()})
        relations.publish(registry.feature_view(name), built_by=BuiltBy(models, run))


def older(registry: Registry) -> Registry:
    """As another version of what reads SQL has settled it: its meanings are other texts."""
    models = tuple(replace(model, meaning=f"older {model.unique_id}") for model in registry.models)
    views = tuple(
        replace(view, meaning=f"older {view.unique_id}", fingerprint=f"older {view.id}")
        for view in registry.feature_views
    )
    return replace(registry, models=models, feature_views=views)


def test_nothing_is_restored_where_nothing_was_published(tmp_path: Path) -> None:
    assert restored("shop", Relations(tmp_path).store) is None


def test_what_means_the_same_keeps_the_meaning_that_it_was_published_by(tmp_path: Path) -> None:
    relations, before = Relations(tmp_path), older(settle(None, project()))
    publish(relations, before, *NAMES)
    assert settle(restored("shop", relations.store), project()).feature_views == before.feature_views
    changed = settle(restored("shop", relations.store), project(spend='select 1 from "warehouse"."main"."stg"'))
    spend, visits = changed.feature_views
    assert visits == before.feature_view("visits")
    assert spend.meaning != before.feature_view("spend").meaning


def test_of_two_definitions_of_what_both_read_the_last_published_counts(tmp_path: Path) -> None:
    relations, first = Relations(tmp_path), settle(None, project())
    publish(relations, first, "visits")
    other = project(replace(STAGING, sql="select * from orders where amount > 0"))
    second = settle(first, other)
    publish(relations, second, "spend")
    found = settle(restored("shop", relations.store), other)
    assert found.feature_view("spend") == second.feature_view("spend")
    assert found.feature_view("visits").fingerprint == second.feature_view("visits").fingerprint
    assert found.feature_view("visits").fingerprint != first.feature_view("visits").fingerprint
