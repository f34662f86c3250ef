"""A changed meaning as its user meets it: plan, apply, what is accepted as the same, and what check cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_server.dbt.parse import dbt_parse
from feature_server.lint.rules import RANDOM
from tests.support.tiny_project import FILES, features, write_project

pytestmark = pytest.mark.heavy  # each compiles a project several times

STAGING = """
select customer_id, occurred_at, ingested_at, amount from {{ source('shop', 'payments') }}
where kind = '{{ var("kind") }}' and ingested_at <= timestamptz '{{ var("as_of") }}'
"""
ACTIVITY = """
{{ config(materialized='incremental', on_schema_change='fail') }}
with paid as (select * from {{ ref('stg_payments') }})
select customer_id, occurred_at::timestamp as occurred_at, ingested_at, {{ counted() }} as transactions_1h,
    sum(amount)::decimal(18, 2) as amount_eur_sum_1h
from paid
{% if is_incremental() %}where ingested_at > (select max(ingested_at) from {{ this }}){% endif %}
group by all
"""
SOURCES = "sources:\n  - name: shop\n    tables:\n      - name: payments\n"
PROJECT = {
    **FILES,
    "dbt_project.yml": FILES["dbt_project.yml"] + "vars: {kind: paid, as_of: '2024-01-01T00:00:00Z'}\n",
    "models/sources.yml": SOURCES,
    "models/stg_payments.sql": STAGING,
    "models/customer__activity_v2.sql": ACTIVITY,
    "macros/counted.sql": "{% macro counted() %}count(*){% endmacro %}\n",
}
VIEW, MODEL = "customer__activity@v2", "model.tiny.customer__activity.v2"


def good(*arguments: str, cwd: Path) -> str:
    run = features(*arguments, cwd=cwd)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def put(folder: Path, name: str, old: str, new: str) -> None:
    text = PROJECT[name]
    assert old in text
    (folder / name).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A project whose definitions are in force, and what is written of them."""
    folder = write_project(tmp_path_factory.mktemp("tiny"), PROJECT)
    good("apply", cwd=folder)
    return folder, {path.name: path.read_bytes() for path in (folder / ".features").iterdir()}


@pytest.fixture
def project(applied: tuple[Path, dict[str, bytes]]) -> Path:
    """The project as it was applied, with that in force."""
    folder, written = applied
    write_project(folder, PROJECT)
    for name, text in written.items():
        (folder / ".features" / name).write_bytes(text)
    return folder


def tokens(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / ".features" / "definitions.json").read_bytes())
    return found


def test_compare_says_what_a_schedule_leaves_as_it_is(project: Path) -> None:
    before = {path.name: path.read_bytes() for path in (project / ".features").iterdir()}
    put(project, "models/stg_payments.sql", "kind = ", "kind <> ")
    run = features("compare", "--json", cwd=project)
    why = f"held back {VIEW}: its definition in the project is not the one in force"
    assert (run.returncode, run.stderr) == (
        0, f"{why}; `features plan` shows what differs, `features apply` puts it in force\n",
    )  # fmt: skip
    found = json.loads(run.stdout.splitlines()[-1])
    assert list(found["views"]) == [VIEW]
    assert found["models"] == [MODEL, "model.tiny.stg_payments"]
    assert {path.name: path.read_bytes() for path in (project / ".features").iterdir()} == before


def test_plan_says_what_changed_why_who_reads_it_and_what_follows(project: Path) -> None:
    before = tokens(project)
    put(project, "macros/counted.sql", "count(*)", "count(amount)")
    put(project, "models/stg_payments.sql", "kind = ", "kind <> ")
    assert good("plan", cwd=project) == (
        "~ feature_view customer__activity@v2  [new rows online at the next sync]\n"
        "    what its SQL means\n"
        "    customer__activity.v2: macro counted\n"
        "        - COUNT(*) AS transactions_1h,\n"
        "        + COUNT(amount) AS transactions_1h,\n"
        "    stg_payments: models/stg_payments.sql\n"
        "        - kind = 'paid' AND ingested_at <= CAST('2000-01-01T00:00:00Z' AS TIMESTAMPTZ)\n"
        "        + kind <> 'paid' AND ingested_at <= CAST('2000-01-01T00:00:00Z' AS TIMESTAMPTZ)\n"
        "    read by fraud_v1\n"
        "    nothing is published: it is to be built anew (dbt build --full-refresh --select +customer__activity.v2), "
        "published and synced whole\n"
    )
    good("apply", "--no-parse", cwd=project)
    after = tokens(project)
    assert {name for name in before if before[name] != after[name]} == {MODEL, "model.tiny.stg_payments"}
    write_project(project, PROJECT)
    dbt_parse(project, project / "target")
    refused = features("apply", "--no-parse", cwd=project)
    assert refused.returncode == 1
    assert "the project has changed since its SQL was compiled" in refused.stderr
    good("apply", cwd=project)
    assert tokens(project) == before


def test_what_only_an_incremental_run_does_is_part_of_the_meaning(project: Path) -> None:
    put(project, "models/customer__activity_v2.sql", "where ingested_at >", "where ingested_at >=")
    [found] = json.loads(good("plan", "--json", cwd=project))["meanings"]
    assert (found["view"], found["services"]) == (VIEW, ["fraud_v1"])
    [model] = found["models"]
    assert (model["model"], model["why"]) == ("customer__activity.v2", ["models/customer__activity_v2.sql"])
    assert [line[:1] for line in model["diff"]] == ["-", "+"]


def test_a_meaning_that_is_vouched_for_is_kept_and_recorded(project: Path) -> None:
    before = tokens(project)
    put(project, "models/customer__activity_v2.sql", "group by all", "group by customer_id, occurred_at, ingested_at")
    put(project, "dbt_project.yml", "kind: paid", "kind: paid, unread: 1")
    told = good("apply", "--same-meaning", VIEW, "--reason", "all is these three", cwd=project)
    assert f"{VIEW} means the same: all is these three\n" in told
    assert "what its SQL means" not in told
    assert tokens(project) == before
    registry = json.loads((project / ".features" / "registry.json").read_bytes())
    [same] = registry["same_meanings"]
    assert (same["view"], same["reason"]) == (VIEW, "all is these three")
    assert same["meaning"] == before[MODEL].partition(".")[2]
    assert good("plan", cwd=project) == "no changes\n"
    refused = features("apply", "--same-meaning", VIEW, "--reason", "again", cwd=project)
    assert refused.returncode == 1
    assert f"error: --same-meaning: the SQL of '{VIEW}' means what it meant\n" in refused.stderr


def test_the_same_meaning_takes_a_reason(project: Path) -> None:
    run = features("apply", "--same-meaning", VIEW, cwd=project)
    assert (run.returncode, "--reason" in run.stderr) == (2, True)


CLOCK = "the model's SQL depends on var as_of beyond a literal, or on the run itself"
ASKED = "the model's SQL depends on a query that its Jinja asks while it is compiled"


def test_check_finds_sql_that_is_not_one_text(tmp_path: Path) -> None:
    models = {
        "asked": "select {{ run_query('select 42 as x').columns[0].values()[0] if execute else 1 }} as one",
        "named": "select '{{ invocation_id }}' as one",
        "sliced": "select '{{ var(\"as_of\")[:4] }}' as one",
        "whole": "select '{{ var(\"as_of\") }}' as one",
    }
    reads = "".join(f"-- {{{{ ref('{name}') }}}}\n" for name in models)
    files = PROJECT | {"models/stg_payments.sql": reads + STAGING}
    folder = write_project(tmp_path, files | {f"models/{name}.sql": text for name, text in models.items()})
    run = features("check", "--json", cwd=folder)
    assert run.returncode == 1, run.stderr
    problems = json.loads(run.stdout)["problems"]
    assert [(problem["file"], problem["what"]) for problem in problems] == [
        ("models/asked.sql", ASKED), ("models/named.sql", CLOCK), ("models/sliced.sql", CLOCK),
        ("models/named.sql", RANDOM.why),
    ]  # fmt: skip
    assert all(problem["remedy"] for problem in problems)


def test_a_query_of_what_is_not_built_is_told_as_one(tmp_path: Path) -> None:
    asked = "{{ run_query('select x from nowhere').columns[0].values()[0] if execute else 1 }}"
    changed = STAGING.replace("amount from", f"amount, {asked} as extra from")
    run = features("check", "--json", cwd=write_project(tmp_path, PROJECT | {"models/stg_payments.sql": changed}))
    assert run.returncode == 1, run.stderr
    [problem] = json.loads(run.stdout)["problems"]
    assert (problem["what"], problem["got"]) == (ASKED, "select x from nowhere")
