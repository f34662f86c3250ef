"""A view is published only where the SQL that built its rows, and those it is made from, is what was applied."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from feature_server.dbt.compiled import AS_OF
from feature_server.definitions.models import Model
from feature_server.errors import WarehouseError
from feature_server.publish.built import BuiltOtherwise
from feature_server.warehouse.relations import open_warehouse
from tests.support.relations import BUILD_LOG, Relations
from tests.support.spending import MODELS, NAME, PART, REFUNDS, REWRITTEN, STAGED, STAGING, VIEW, WHOLE


@pytest.fixture
def spend(tmp_path: Path) -> Relations:
    """A warehouse whose builds record what they ran, with a relation of one row."""
    relations = Relations(tmp_path)
    relations.execute(
        BUILD_LOG,
        "alter table feature_builds add column made_from varchar",
        "create table built_sql(hash varchar, text varchar)",
        "create table spend as select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 as "
        "spend_eur",
    )
    return relations


def build(relations: Relations, invocation: str, own: str, staged: str = STAGED, *, whole: bool = False) -> None:
    """An entry of the log, as the macros write it."""
    hashes = {NAME: f"{hash(own):x}", STAGING: f"{hash(staged):x}"}
    quoted = [(hashes[name], text.replace("'", "''")) for name, text in ((NAME, own), (STAGING, staged))]
    made_from = ",".join(f"{name} {found}" for name, found in hashes.items())
    changed_from = "null" if whole else "timestamptz '2013-01-01'"
    relations.execute(
        *(f"insert into built_sql values ('{found}', '{text}')" for found, text in quoted),
        f"insert into feature_builds values ('spend', now(), now(), {changed_from}, '{invocation}', '{made_from}')",
    )


def refused(relations: Relations) -> BuiltOtherwise:
    with pytest.raises(BuiltOtherwise, match="built by other SQL than is in force") as caught:
        relations.publish(VIEW, models=MODELS)
    assert caught.value.where == "spend"
    return caught.value


def test_what_was_applied_is_published_and_its_sql_is_kept_with_it(spend: Relations) -> None:
    build(spend, "first", WHOLE, whole=True)
    assert spend.publish(VIEW, models=MODELS).committed
    assert spend.store.table("spend").state.models == (MODELS[NAME], MODELS[STAGING])
    build(spend, "second", PART)
    spend.execute("insert into spend values (2, timestamptz '2013-01-02', 4)")
    assert spend.publish(VIEW, models=MODELS).rows == 2


def test_sql_that_is_only_written_otherwise_is_that_of_the_definition(spend: Relations) -> None:
    build(spend, "first", WHOLE, REWRITTEN, whole=True)
    assert spend.publish(VIEW, models=MODELS).committed


def test_other_sql_of_the_view_or_of_a_model_under_it_is_refused_and_said(spend: Relations) -> None:
    build(spend, "first", WHOLE, REFUNDS, whole=True)
    error = refused(spend)
    assert str(error.got).splitlines()[0] == f"{STAGING}, with"
    assert [line.strip() for line in str(error.got).splitlines()[1:]] == ["- NOT is_refund", "+ is_refund"]
    assert error.invocation == "first"
    assert not spend.store.exists("spend")


def test_a_build_of_other_sql_is_refused_until_the_whole_relation_was_built_anew(spend: Relations) -> None:
    build(spend, "first", WHOLE, whole=True)
    spend.publish(VIEW, models=MODELS)
    build(spend, "second", PART.replace("spend_eur", "-spend_eur as spend_eur"))
    spend.execute("insert into spend values (2, timestamptz '2013-01-02', -4)")
    build(spend, "third", PART)
    assert refused(spend).invocation == "third"
    assert spend.store.table("spend").rows == 1
    build(spend, "fourth", WHOLE, whole=True)
    spend.execute("update spend set spend_eur = 4 where customer_id = 2")
    assert spend.publish(VIEW, models=MODELS).rows == 2
    spend.assert_published(VIEW)


def test_a_whole_build_has_not_run_the_sql_of_an_incremental_one(spend: Relations) -> None:
    build(spend, "first", PART, whole=True)
    refused(spend)


def test_what_was_published_is_built_anew_where_another_meaning_was_applied(spend: Relations) -> None:
    build(spend, "first", WHOLE, REFUNDS, whole=True)
    before = MODELS | {STAGING: replace(MODELS[STAGING], sql=REFUNDS)}
    spend.publish(VIEW, models=before)
    applied = replace(VIEW, fingerprint="another")
    with pytest.raises(BuiltOtherwise):
        spend.publish(applied, models=MODELS)
    build(spend, "second", WHOLE, whole=True)
    assert spend.publish(applied, models=MODELS).committed


def test_sql_that_was_vouched_for_is_good_beside_that_which_was_published(spend: Relations) -> None:
    build(spend, "first", WHOLE, whole=True)
    spend.publish(VIEW, models=MODELS)
    build(spend, "second", PART)  # which brought nothing: there is no commit that knows of it
    assert not spend.publish(VIEW, models=MODELS).committed
    vouched = MODELS | {STAGING: replace(MODELS[STAGING], sql="select * from orders where is_refund is false")}
    assert not spend.publish(VIEW, models=vouched).committed
    build(spend, "third", PART, REFUNDS)
    with pytest.raises(BuiltOtherwise):
        spend.publish(VIEW, models=vouched)


def test_rows_of_other_sql_in_an_appended_model_upstream_are_refused(spend: Relations) -> None:
    up = replace(MODELS[STAGING], relation='"warehouse"."main"."stg_orders"', settings={"materialized": "incremental"})
    models = MODELS | {STAGING: up, NAME: replace(MODELS[NAME], reads={'"warehouse"."main"."stg_orders"': STAGING})}
    build(spend, "first", WHOLE, whole=True)
    for part, (text, changed_from) in enumerate([(STAGED, "null"), (REFUNDS, "now()")]):
        made = f"'up {part}', '{STAGING} {hash(text):x}'"
        spend.execute(
            f"insert into built_sql values ('{hash(text):x}', '{text}')",
            f"insert into feature_builds values ('stg_orders', now(), now(), {changed_from}, {made})",
        )
    with pytest.raises(BuiltOtherwise, match=STAGING):
        spend.publish(VIEW, models=models)
    spend.execute(
        f"insert into feature_builds values ('stg_orders', now(), now(), null, 'up 2', '{STAGING} {hash(STAGED):x}')"
    )
    assert spend.publish(VIEW, models=models).committed


def test_builds_from_before_the_sql_was_recorded_are_refused_with_the_remedy(spend: Relations) -> None:
    spend.execute("insert into feature_builds values ('spend', now(), now(), null, 'old', null)")
    error = refused(spend)
    assert error.got == f"a build of {NAME} before the SQL that ran was recorded"
    assert "dbt build --select +spend" in str(error.remedy)


def test_nothing_is_refused_where_nothing_is_in_force(spend: Relations) -> None:
    build(spend, "first", WHOLE, REFUNDS, whole=True)
    assert spend.publish(VIEW, models={}).committed


def test_a_literal_that_is_the_instant_of_the_run_by_chance_is_no_other_sql(spend: Relations) -> None:
    chance = (
        "select * from orders where known_at <> '2013-05-01T00:00:00Z' and note <> '2013-99-01T00:00:00Z' and "
        "known_at <= '{}'"
    )
    models = MODELS | {STAGING: replace(MODELS[STAGING], sql=chance.format(AS_OF))}
    for number, as_of in enumerate(("2013-04-01T00:00:00Z", "2013-05-01T00:00:00Z", "2013-06-01T00:00:00Z")):
        build(spend, f"{number}", WHOLE, chance.format(as_of).replace(as_of, AS_OF), whole=True)
        spend.execute(f"update feature_builds set as_of = timestamptz '{as_of}' where invocation_id = '{number}'")
        spend.publish(VIEW, models=models)
    build(spend, "3", WHOLE, "select * from orders where known_at <= '2013-05-01T00:00:00Z'", whole=True)
    with pytest.raises(BuiltOtherwise):
        spend.publish(VIEW, models=models)


SEED = "seed.shop.rates"
SEEDED = MODELS | {
    NAME: replace(MODELS[NAME], reads={"stg_orders": STAGING, "rates": SEED}),
    SEED: Model(
        unique_id=SEED, package="shop", path="seeds/rates.csv", relation="rates", rows="as defined", loaded="applied"
    ),
}  # fmt: skip


def test_rows_of_a_seed_that_were_not_applied_are_refused(spend: Relations) -> None:
    for invocation, loaded in (("first", "applied"), ("second", "other")):
        build(spend, invocation, WHOLE, whole=True)
        spend.execute(
            f"update feature_builds set made_from = made_from || ',{SEED} {loaded}'"
            f" where invocation_id = '{invocation}'"
        )
        if loaded == "applied":
            assert spend.publish(VIEW, models=SEEDED).committed
    with pytest.raises(BuiltOtherwise) as caught:
        spend.publish(VIEW, models=SEEDED)
    assert caught.value.got == f"{SEED}, with other rows than seeds/rates.csv had"
    unknown = SEEDED | {SEED: replace(SEEDED[SEED], loaded="")}  # applied before its hash was
    assert not spend.publish(VIEW, models=unknown).committed


def test_a_view_without_a_relation_has_no_log(spend: Relations) -> None:
    build(spend, "first", WHOLE, whole=True)
    view = replace(VIEW, relation="")
    with open_warehouse(spend.path) as warehouse:
        assert warehouse.builds(view) == warehouse.built_from(view) == warehouse.failed_tests(view) == ()


def test_it_is_a_warehouse_error() -> None:
    assert issubclass(BuiltOtherwise, WarehouseError)
