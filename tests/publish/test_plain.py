"""A project without the macros of the build log: what dbt's run says is what is known of how a view was built."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from unittest.mock import ANY

import pytest
from msgspec.structs import replace

from feature_server.dbt.build import LastRun
from feature_server.dbt.compiled import AS_OF
from feature_server.errors import NotApplied, NotFit
from feature_server.offline.store import PublishedState
from feature_server.publish.built import BuiltBy, BuiltOtherwise, check_run
from feature_server.publish.groups import not_together
from feature_server.publish.run import look
from feature_server.warehouse.relations import open_warehouse
from tests.support.relations import Relations, run_of
from tests.support.spending import MODELS as SPENDING
from tests.support.spending import NAME, PART, REFUNDS, REWRITTEN, STAGED, STAGING, VIEW, WHOLE
from tests.support.typed import SHOP, Typed, view_yaml

MODELS = SPENDING | {NAME: replace(SPENDING[NAME], settings={"materialized": "incremental"})}
DAY = "2013-05-01T00:00:00Z"
CHANGED = PublishedState(view=replace(VIEW, fingerprint="another"), grain="day", hash_check="")


@pytest.fixture
def spend(tmp_path: Path) -> Relations:
    relations = Relations(tmp_path)
    relations.execute(
        "create table spend as select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 as "
        "spend_eur"
    )
    return relations


@pytest.mark.parametrize(
    ("ran", "args", "state", "refused"),
    [
        ({NAME: WHOLE, STAGING: STAGED}, {}, None, None),
        ({NAME: PART.replace(AS_OF, DAY), STAGING: REWRITTEN}, {}, None, None),
        ({NAME: WHOLE, STAGING: REFUNDS}, {}, None, f"{STAGING}, with"),
        ({NAME: WHOLE}, {"full_refresh": True}, CHANGED, None),
        ({NAME: PART.replace(AS_OF, DAY)}, {}, CHANGED, "to which `dbt build` appended"),
    ],
)
def test_what_dbt_ran_is_compared(
    ran: dict[str, str], args: dict[str, object], state: PublishedState | None, refused: str | None
) -> None:
    if refused is None:
        check_run(VIEW, MODELS, state, run_of(ran, **args), DAY)
        return
    with pytest.raises(BuiltOtherwise) as caught:
        check_run(VIEW, MODELS, state, run_of(ran, **args), DAY)
    assert refused in str(caught.value.got)
    assert "dbt build --full-refresh --select +spend" in str(caught.value.remedy) or STAGING in refused


BOTH = {NAME: WHOLE, STAGING: STAGED}


@pytest.mark.parametrize(
    ("run", "got"),
    [
        (None, "no run of dbt"),
        (run_of({}, which="test"), f"`dbt test`, which did not make {NAME}, {STAGING}"),
        (run_of(BOTH, which="compile"), f"`dbt compile`, which did not make {NAME}, {STAGING}"),
        (run_of({NAME: WHOLE}), f"`dbt build`, which did not make {STAGING}"),
    ],
)
def test_rows_of_a_build_that_is_not_known_are_not_published(spend: Relations, run: LastRun | None, got: str) -> None:
    with pytest.raises(NotApplied, match="not known by which SQL") as caught:
        spend.publish(VIEW, built_by=BuiltBy(MODELS, run))
    assert (caught.value.got, "dbt build --select +spend" in str(caught.value.remedy)) == (got, True)
    assert spend.publish(VIEW, built_by=BuiltBy(MODELS, run_of(BOTH))).committed
    assert not spend.publish(VIEW, built_by=BuiltBy(MODELS, run)).committed, "nothing has changed"
    spend.execute("update spend set spend_eur = 4")
    with pytest.raises(NotApplied, match="not known by which SQL"):
        spend.publish(VIEW, built_by=BuiltBy(MODELS, run))


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_a_view_whose_build_failed_keeps_what_was_published(spend: Relations, status: str) -> None:
    run = run_of({STAGING: STAGED}, failed={NAME: status})
    with pytest.raises(NotFit, match="last build or a test of it failed"):
        spend.publish(VIEW, built_by=BuiltBy(MODELS, run))


def test_bound_views_are_of_one_run(spend: Relations) -> None:
    visits = replace(VIEW, name="visits", relation='"warehouse"."main"."visits"', unique_id="model.shop.visits")
    models = MODELS | {visits.unique_id: replace(MODELS[NAME], unique_id=visits.unique_id, relation="visits")}
    spend.execute("create table visits as from spend")
    views = {view.id: view for view in (VIEW, visits)}

    def kept(*ran: str, invocation: str) -> set[str]:
        built_by = BuiltBy(models, run_of(dict.fromkeys(ran, WHOLE) | {STAGING: STAGED}, invocation))
        with open_warehouse(spend.path) as warehouse:
            found = not_together(
                views, [tuple(views)], lambda view: look(view, warehouse, spend.store, built_by, False)
            )
        for view in views.values():
            if view.id not in found:
                spend.publish(view, built_by=built_by)
        return set(found)

    assert kept(NAME, visits.unique_id, invocation="first") == set()
    spend.execute("update spend set spend_eur = 4")
    assert kept(NAME, invocation="second") == {"spend", "visits"}
    assert kept(NAME, visits.unique_id, invocation="third") == set()


PROJECT = SHOP | {
    "macros/rate.sql": "{% macro rate() %} * 2 {% endmacro %}",
    "models/spend.sql": """
        {{ config(materialized='table') }}
        select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, 3 {{ rate() }}::integer as eur
        """,
    "models/spend.yml": view_yaml("spend", "eur", "integer", ", data_tests: [{accepted_values: {values: [6, 9]}}]"),
}


@pytest.mark.heavy
def test_a_macro_that_was_edited_reaches_no_offline_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, macro = Typed(tmp_path, PROJECT, monkeypatch, capsys), tmp_path / "macros" / "rate.sql"
    shop.dbt("build")
    assert shop.features("apply") == (0, ANY)
    assert shop.features("publish") == (0, ANY)
    macro.write_text(macro.read_text().replace("2", "3"))
    shop.dbt("build")
    code, said = shop.features("publish")
    assert (code, "built by other SQL" in said, "+ 3 * CAST(3 AS INT)" in said) == (3, True, True), said
    results = tmp_path / "target" / "run_results.json"
    kept = results.read_bytes()
    shop.dbt("test")
    code, said = shop.features("publish")
    assert (code, "not known by which SQL" in said) == (3, True), said
    assert shop.published("spend", "eur") == [(6,)]
    assert shop.features("apply") == (0, ANY)
    (tmp_path / "build.json").write_bytes(kept)
    assert shop.features("publish", "--run-results", "build.json") == (0, ANY)
    assert shop.published("spend", "eur") == [(9,)]


@pytest.mark.heavy
def test_a_failed_test_of_the_build_keeps_its_view_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop, macro = Typed(tmp_path, PROJECT, monkeypatch, capsys), tmp_path / "macros" / "rate.sql"
    macro.write_text(macro.read_text().replace("2", "4"))
    assert shop.features("apply") == (0, ANY)
    with pytest.raises(subprocess.CalledProcessError):
        shop.dbt("build")
    code, said = shop.features("publish")
    assert (code, "accepted_values_spend_eur__6__9 failed" in said) == (3, True), said
    assert json.loads((tmp_path / "target" / "run_results.json").read_text())["args"]["which"] == "build"
