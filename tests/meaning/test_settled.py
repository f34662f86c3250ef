"""Which meanings stay in force, told on registries that no dbt wrote."""

from __future__ import annotations

import msgspec
import pytest

from feature_server.definitions.facts import Feature, FeatureView, JoinKey
from feature_server.definitions.models import Model, SameMeaning
from feature_server.definitions.registry import Registry
from feature_server.dtypes import DType
from feature_server.errors import RequestError
from feature_server.meaning.settled import accept, settle

STAGING = Model(unique_id="model.p.staging", package="p", path="staging.sql", relation='"d"."s"."staging"',
                sql="select id, at, amount from 'files/*.parquet'", reads={"": "source.p.events"})  # fmt: skip
TOTAL = Model(unique_id="model.p.total", package="p", path="total.sql", relation='"d"."s"."total"',
              sql='select id, at, sum(amount) as total from "d"."s"."staging" group by all',
              reads={'"d"."s"."staging"': "model.p.staging"})  # fmt: skip
VIEW = FeatureView(
    name="total", entities=("thing",), join_keys=(JoinKey("id", DType("int64")),), event_timestamp="at",
    features=(Feature(name="total", dtype=DType("float64")), Feature(name="more", dtype=DType("int64"))),
    unique_id="model.p.total",
)  # fmt: skip


def registry(*models: Model, view: FeatureView = VIEW) -> Registry:
    return Registry(project="p", feature_views=(view,), models=models)


def changed(model: Model, old: str, new: str) -> Model:
    assert old in model.sql
    return msgspec.structs.replace(model, sql=model.sql.replace(old, new))


IN_FORCE = settle(None, registry(STAGING, TOTAL))


def renamed(text: str) -> Registry:
    """The registry in force as another version might have written it: its meanings are other texts."""
    models = tuple(msgspec.structs.replace(model, meaning=f"{text}{model.unique_id}") for model in IN_FORCE.models)
    views = (msgspec.structs.replace(IN_FORCE.feature_views[0], meaning=models[1].meaning, fingerprint=text),)
    return msgspec.structs.replace(IN_FORCE, models=models, feature_views=views)


def test_the_same_project_has_the_same_meanings_wherever_it_is_applied() -> None:
    assert settle(None, registry(STAGING, TOTAL)) == IN_FORCE == settle(IN_FORCE, registry(STAGING, TOTAL))


@pytest.mark.parametrize(
    "rewriting", [("sum(amount) as total", "(sum(amount)) total"), ("select id, at", "select at, id")]
)
def test_another_version_of_what_reads_sql_is_no_change(rewriting: tuple[str, str]) -> None:
    before = renamed("by-an-older-version-")
    assert settle(before, registry(STAGING, TOTAL)) == before
    after = settle(before, registry(STAGING, changed(TOTAL, *rewriting)))
    assert after.feature_views == before.feature_views


def test_a_change_of_what_is_read_changes_all_that_read_it() -> None:
    after = settle(IN_FORCE, registry(changed(STAGING, "amount", "-amount as amount"), TOTAL))
    pairs = zip(IN_FORCE.models, after.models, strict=True)
    assert all(before.meaning != model.meaning for before, model in pairs)
    assert after.feature_views[0].fingerprint != IN_FORCE.feature_views[0].fingerprint
    assert settle(after, registry(STAGING, TOTAL)).feature_views == IN_FORCE.feature_views


def test_another_warehouse_or_place_of_files_is_no_change() -> None:
    staging = changed(STAGING, "files/", "/other/files/")
    staging = msgspec.structs.replace(staging, relation='"dev"."s"."staging"')
    total = changed(TOTAL, '"d"."s"', '"dev"."s"')
    total = msgspec.structs.replace(total, reads={'"dev"."s"."staging"': "model.p.staging"})
    assert settle(IN_FORCE, registry(staging, total)).feature_views == IN_FORCE.feature_views


def test_features_in_another_order_keep_theirs() -> None:
    view = msgspec.structs.replace(VIEW, features=VIEW.features[::-1])
    assert settle(IN_FORCE, registry(STAGING, TOTAL, view=view)) == IN_FORCE


def test_what_is_vouched_for_keeps_its_meaning_until_it_changes_again() -> None:
    new = registry(changed(STAGING, "amount", "amount + 0 as amount"), TOTAL)
    same = accept(IN_FORCE, settle(IN_FORCE, new), ["total"], "nothing is added", 7)
    meaning = IN_FORCE.feature_views[0].meaning
    assert same == (SameMeaning(view="total", meaning=str(meaning), reason="nothing is added", applied_at_us=7),)
    after = settle(IN_FORCE, new, same)
    assert (after.feature_views, after.same_meanings) == (IN_FORCE.feature_views, same)
    assert settle(after, new) == after
    assert settle(after, registry(STAGING, TOTAL)).feature_views == IN_FORCE.feature_views
    again = settle(after, registry(changed(STAGING, "amount", "amount + 1 as amount"), TOTAL))
    assert (again.feature_views[0].meaning != meaning, again.same_meanings) == (True, ())
    with pytest.raises(RequestError, match="means what it meant"):
        accept(after, settle(after, new), ["total"], "again", 8)


def test_a_registry_that_was_loaded_without_sql_stays_as_it_is() -> None:
    plain = registry()
    assert settle(IN_FORCE, plain) is plain
    assert plain.with_meanings_of(IN_FORCE).feature_views == IN_FORCE.feature_views
