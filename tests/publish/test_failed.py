"""What failed when it was last built or tested, itself or upstream, is not published."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer

from feature_server.cli.main import NOT_FIT, finish
from feature_server.definitions.models import Model
from feature_server.errors import NotFit, WarehouseError
from feature_server.publish.built import BuiltBy
from tests.support.relations import Relations, run_of, view_of

VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double"})


@pytest.fixture
def spend(tmp_path: Path) -> Relations:
    """One row, published."""
    relations = Relations(tmp_path)
    relations.execute(
        "create table spend as select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, "
        "5::double as spend_eur"
    )
    relations.publish(VIEW)
    return relations


def test_a_view_whose_tests_failed_is_not_published_until_they_pass(spend: Relations) -> None:
    spend.execute(
        "create table failed_tests(model varchar, test varchar)",
        "insert into failed_tests values ('spend', 'grain_spend'), ('other', 'in_range_other')",
        "update spend set spend_eur = -1",
    )
    with pytest.raises(NotFit) as raised:
        spend.publish(VIEW)
    assert raised.value.got == "grain_spend"
    assert spend.store.table("spend").version == 0
    with pytest.raises(typer.Exit) as ended:
        finish({}, "failed", {"spend": raised.value}, json=False)
    assert ended.value.exit_code == NOT_FIT
    with pytest.raises(typer.Exit) as ended:
        finish({}, "failed", {"spend": raised.value, "other": WarehouseError("locked")}, json=False)
    assert ended.value.exit_code == 1
    spend.execute("delete from failed_tests where model = 'spend'")
    assert spend.publish(VIEW).version == 1


def test_a_view_over_a_model_whose_tests_failed_is_not_published_until_they_pass(spend: Relations) -> None:
    view = msgspec.structs.replace(VIEW, unique_id="model.shop.spend")
    models = {
        name: Model(unique_id=name, package="shop", path="", relation=relation, reads=reads)
        for name, relation, reads in (
            ("model.shop.spend", VIEW.relation, {"between": "model.shop.between"}),
            ("model.shop.between", '"warehouse"."main"."between"', {"paid": "seed.shop.paid"}),
            ("seed.shop.paid", '"warehouse"."main"."paid"', {}),
        )
    }
    built_by = BuiltBy(models, run_of({}))
    spend.execute(
        "create table failed_tests(model varchar, test varchar)",
        "insert into failed_tests values ('paid', 'positive_paid'), ('between', 'build: error'), ('other', 'unique')",
        "update spend set spend_eur = -1",
    )
    with pytest.raises(NotFit) as raised:
        spend.publish(view, built_by=built_by)
    assert raised.value.got == "positive_paid of seed.shop.paid, which it reads"
    assert "`dbt build --select +spend`" in str(raised.value.remedy)
    spend.execute("delete from failed_tests where model = 'paid'")  # the model between them is as it was before
    assert spend.publish(view, built_by=built_by).version == 1
