"""Models of every kind that dbt has, built as of two instants: what can be told of them, and why not."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from feature_server.leaktest.run import Found, leaktest
from feature_server.settings import load_settings
from tests.support.tiny_project import write_project

FILES = {
    "dbt_project.yml": """
name: kinds
version: "1.0"
profile: kinds
flags: {send_anonymous_usage_stats: false}
vars: {as_of: "2024-03-05T00:00:00Z"}
""",
    "profiles/profiles.yml": """
kinds:
  target: dev
  outputs:
    dev: {type: duckdb, path: ":memory:", attach: [{path: other.duckdb, alias: other}]}
""",
    "models/sources.yml": """
sources:
  - name: files
    loaded_at_field: landed
    config: {meta: {external_location: "read_parquet('landing/{name}.parquet')"}}
    tables: [{name: events}]
snapshots:
  - name: kept
    relation: source('files', 'events')
    config: {unique_key: id, strategy: timestamp, updated_at: landed}
""",
    "seeds/labels.csv": "id,label\n1,a\n2,b\n",
    "models/elsewhere.sql": """
{{ config(materialized='view', database='other') }}
select e.*, l.label, now() as seen_at
from {{ source('files', 'events') }} as e left join {{ ref('labels') }} as l using (id)
""",
    "models/inlined.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('elsewhere') }}",
    "models/top.sql": "{{ config(materialized='ephemeral') }} select id, landed, label from {{ ref('inlined') }}",
    "models/grown.sql": "{{ config(materialized='incremental') }} select id, landed, seen_at from {{ ref('inlined') }}",
    "models/on_snapshot.sql": "select id, landed from {{ ref('kept') }}",
    "models/in_python.py": "def model(dbt, session):\n    return dbt.ref('top')\n",
    "models/asked.sql": """
{% set newest = run_query('select max(id) from ' ~ source('files', 'events')).rows[0][0] if execute else 0 %}
select id, landed, {{ newest }} as newest from {{ ref('inlined') }}
""",
    "models/wrong.sql": "select id, landed, no_such from {{ ref('inlined') }}",
    "models/on_wrong.sql": "select * from {{ ref('wrong') }}",
    "models/sums.sql": """
select id % 7 as id, max(landed) as landed, sum(value) as value_sum from {{ ref('elsewhere') }}
where landed < '2024-03-02' group by all
""",
    "models/years.sql": "pivot (select id, landed, label from {{ ref('top') }}) on label in ('a', 'b') using count(*)",
}
NAMES = [Path(name).stem for name in FILES if name.startswith("models/") and not name.endswith("yml")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    folder = write_project(tmp_path_factory.mktemp("kinds"), FILES)
    (folder / "landing").mkdir()
    with duckdb.connect() as connection:
        connection.execute(
            "copy (select range as id, timestamp '2024-03-01' + interval 20 minute * range as landed,"
            " 0.1 * range + 1 / (1 + range) as value from range(300)) to '" + f"{folder}/landing/events.parquet'"
        )
    done = leaktest(load_settings(project_dir=folder), NAMES, known_at="landed", keys=["id"])
    return {view.view: view for view in done.views}


def test_views_in_another_database_and_ephemeral_models_are_told_as_tables_are(found: dict[str, Found]) -> None:
    assert [found[name].verdict for name in ("top", "years")] == ["clean", "clean"]
    assert found["top"].pairs[0].found.rows == 231
    for name, column in (("elsewhere", "seen_at"), ("inlined", "seen_at"), ("grown", "seen_at"), ("asked", "newest")):
        assert [each.column for each in found[name].pairs[0].found.columns] == [column]


def test_floats_that_differ_by_rounding_are_the_same(found: dict[str, Found]) -> None:
    assert (found["sums"].verdict, found["sums"].pairs[0].found.rows) == ("clean", 7)


def test_what_no_build_can_make_again_is_untestable(found: dict[str, Found]) -> None:
    assert (found["on_snapshot"].verdict, found["on_snapshot"].reasons) == (
        "untestable",
        (
            "snapshot kept holds what former runs saw, which no build makes again: what reads every change from a"
            " source with `loaded_at_field` can be tested",
        ),
    )  # fmt: skip
    assert (found["in_python"].verdict, found["in_python"].reasons) == (
        "untestable", ("in_python is a Python model: what it reads, and its clock, cannot be told",),
    )  # fmt: skip


def test_a_model_that_fails_is_told_with_the_first_that_did(found: dict[str, Found]) -> None:
    for name in ("wrong", "on_wrong"):
        (reason,) = found[name].reasons
        assert (found[name].verdict, found[name].pairs) == ("untestable", ())
        assert reason.startswith("wrong failed: Runtime Error in model wrong")
        assert 'Referenced column "no_such" not found' in reason
