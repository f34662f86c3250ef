"""Feature views with `stream`: the meta keys, and what is wrong with them, from dbt's own compiled manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from feature_server.dbt.compiled import dbt_manifest
from feature_server.definitions.changes import plan
from feature_server.definitions.registry import Registry
from feature_server.errors import DefinitionError, Problem
from feature_server.manifest.load import load_registry
from feature_server.settings import load_settings
from tests.support.stream_project import FILES
from tests.support.tiny_project import write_project

VIEW = "model.tiny.customer__payments"
STAGING = "model.tiny.stg_payments__transactions"
SOURCE = "source.tiny.payments.transactions"
SEED = """
seeds:
  - name: merchants
    config: {column_types: {merchant: varchar, category: varchar, risk: "decimal(4,2)"}}
  - name: visits
    config: {column_types: {visit: bigint, seen_at: timestamp, pages: integer}}
"""
MACROS = """
{% macro late(column) %}{% if recent_only() %} where {{ column }} > current_date {% endif %}{% endmacro %}
{% macro recent_only() %}{{ return(is_incremental()) }}{% endmacro %}
{% macro note_build() %}{% if is_incremental() %}select 1{% else %}select 2{% endif %}{% endmacro %}
"""
PROJECT = FILES | {
    "macros/late.sql": MACROS,
    "dbt_project.yml": FILES["dbt_project.yml"] + "seed-paths: [seeds]\n",
    "seeds/merchants.csv": 'merchant,category,risk\nbakery,food,0.10\n"Käse, Wein",food,\ncasino,games,0.90\n',
    "seeds/visits.csv": "visit,seen_at,pages\n1,2024-01-01,3\n",
    "seeds/seeds.yml": SEED,
    "models/stg_payments__transactions.sql": FILES["models/stg_payments__transactions.sql"]
    .replace("    merchant,", "    transactions.merchant, merchants.category,")
    .replace("qualify", "left join {{ ref('merchants') }} as merchants using (merchant)\nqualify"),
    "models/customer__payments.sql": "{{ config(post_hook=['{{ note_build() }}']) }} {# is_incremental() #}"
    + FILES["models/customer__payments.sql"].replace("merchant as last_merchant", "category as last_merchant"),
}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("stream"), PROJECT)
    with duckdb.connect(str(folder / "tiny.duckdb")):  # as a build does, which compiling need not wait for
        parsed = dbt_manifest(load_settings(project_dir=folder))
    manifest = json.loads((folder / "target" / "manifest.json").read_text())
    for name, node in parsed.whole.nodes.items():
        manifest["nodes"][name]["compiled_code"] = node.compiled_code
    macros = {name: macro for name, macro in manifest["macros"].items() if name.startswith("macro.tiny.")}
    (folder / "target" / "sound.json").write_text(json.dumps(manifest | {"macros": macros}))
    return folder


def load(project: Path, change: Change = lambda manifest: None) -> Registry:
    manifest = json.loads((project / "target" / "sound.json").read_text())
    change(manifest)
    changed = project / "changed"
    changed.mkdir(exist_ok=True)
    (changed / "manifest.json").write_text(json.dumps(manifest))
    return load_registry(project, changed)


def problem(project: Path, change: Change) -> Problem:
    with pytest.raises(DefinitionError) as raised:
        load(project, change)
    (found,) = raised.value.problems
    return found


def test_a_view_with_a_stream_is_compiled_down_to_the_files_of_its_source(project: Path) -> None:
    registry = load(project)
    (source,) = registry.sources
    assert (source.name, source.event_id) == ("payments.transactions", "transaction_id")
    assert (source.event_timestamp, source.created_timestamp) == ("occurred_at", "ingested_at")
    assert source.relation == "'landing/transactions/*.parquet'"
    assert [str(column.dtype) for column in source.columns][3:5] == ["string", "decimal(12,2)"]
    stream = registry.feature_view("customer__payments").stream
    assert stream is not None
    assert (stream.source, stream.versioned, stream.known_by_build) == ("payments.transactions", True, True)
    assert [output.feature for output in stream.outputs][-1] == "last_merchant"
    assert registry.feature_view("customer__country").stream is None


def test_a_new_feature_over_the_same_arguments_needs_no_new_rows(project: Path) -> None:
    def more(manifest: dict[str, Any]) -> None:
        view = manifest["nodes"][VIEW]
        view["compiled_code"] = view["compiled_code"].replace(
            "count(*) over lifetime", "max(amount_eur) over lifetime as largest, count(*) over lifetime"
        )
        view["columns"]["largest"] = view["columns"]["spent_eur_1d"] | {"name": "largest", "data_type": "decimal(12,2)"}

    def other(manifest: dict[str, Any]) -> None:
        view = manifest["nodes"][VIEW]
        view["compiled_code"] = view["compiled_code"].replace("sum(amount_eur)", "sum(amount_eur + 1)")

    before, grown, changed = load(project), load(project, more), load(project, other)
    (change,) = plan(before, grown)
    assert (change.name, change.details, change.new_rows) == ("customer__payments", ("largest added",), False)
    (change,) = plan(before, changed)
    assert (change.details, change.new_rows) == (("SQL of spent_eur_1d",), True)


def set_meta(block: str, node: str, **keys: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        found = manifest["sources" if node == SOURCE else "nodes"][node]["config"]["meta"][block]
        found.update(keys)
        for key in [key for key, value in keys.items() if value is None]:
            del found[key]

    return change


def set_type(column: str, data_type: str | None) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["sources"][SOURCE]["columns"][column]["data_type"] = data_type

    return change


def test_an_unknown_source_is_reported_with_the_nearest_name(project: Path) -> None:
    found = problem(project, set_meta("feature_view", VIEW, stream="payments.transaction"))
    assert found.file == "models/features.yml"
    assert (
        found.line
        == FILES["models/features.yml"]
        .lstrip()
        .splitlines()
        .index("        feature_view: {entities: [customer], ttl: 30d, refresh: hourly, stream: payments.transactions}")
        + 1
    )
    assert (found.what, found.nearest) == ("unknown event source 'payments.transaction'", "payments.transactions")


@pytest.mark.parametrize("relation", ['"tiny"."payments"."transactions"', "'landing/transactions.parquet'"])
def test_a_source_of_live_events_that_reads_no_pattern_of_files_is_reported(project: Path, relation: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest)
        assert "'landing/transactions/*.parquet'" in text
        manifest.update(json.loads(text.replace("'landing/transactions/*.parquet'", json.dumps(relation)[1:-1])))

    found = problem(project, change)
    assert found.file == "models/sources.yml"
    assert found.line is not None
    assert found.key_path == "sources[payments.transactions].config.meta.external_location"
    assert (found.what, found.got) == ("live events cannot be kept where the dbt source would read them", relation)


def test_a_source_that_is_no_event_source_is_reported(project: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        del manifest["sources"][SOURCE]["config"]["meta"]["event_stream"]

    found = problem(project, change)
    assert found.what == "source 'payments.transactions' is not an event source"
    assert found.remedy == (
        "declare event_stream in config.meta of the source's table, or of the seed, in models/sources.yml"
    )


@pytest.mark.parametrize(
    ("change", "key_path", "what"),
    [
        (set_meta("event_stream", SOURCE, event_id="id"), "config.meta.event_stream.event_id", "is not a column"),
        (set_meta("event_stream", SOURCE, event_id=None), "config.meta.event_stream", "event_id is missing"),
        (set_meta("event_stream", SOURCE, evnt_id="x"), "config.meta.event_stream.evnt_id", "unknown key 'evnt_id'"),
        (set_meta("event_stream", SOURCE, event_timestamp="kind"), "columns[kind].data_type", "cannot have"),
        (set_meta("event_stream", SOURCE, event_id="amount_eur"), "columns[amount_eur].data_type", "cannot have"),
        (set_type("merchant", None), "columns[merchant].data_type", "the type of column 'merchant' is not known"),
        (set_type("merchant", "json"), "columns[merchant].data_type", "a type that features cannot have"),
    ],
)  # fmt: skip
def test_mistakes_in_an_event_source_are_reported(project: Path, change: Change, key_path: str, what: str) -> None:
    found = problem(project, change)
    assert (found.file, found.key_path) == ("models/sources.yml", f"sources[payments.transactions].{key_path}")
    assert what in found.what
    assert found.line is not None


def set_code(node: str, old: str, new: str, key: str = "compiled_code") -> Change:
    def change(manifest: dict[str, Any]) -> None:
        assert old in manifest["nodes"][node][key]
        manifest["nodes"][node][key] = manifest["nodes"][node][key].replace(old, new)

    return change


def test_a_model_that_takes_an_event_twice_that_was_sent_twice_is_warned_of(project: Path) -> None:
    def warned(change: Change) -> list[Problem]:
        found = list[Problem]()
        load(project, change)
        load_registry(project, project / "changed", found.append)
        return [one for one in found if "twice" in one.what]

    assert warned(lambda manifest: None) == []
    qualify = "qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1"
    (warning,) = warned(set_code(STAGING, qualify, ""))
    assert (warning.file, warning.key_path.rpartition(".")[2]) == ("models/features.yml", "stream")
    assert warning.expected == f"in a staging model: {qualify}"


def test_what_cannot_be_kept_in_real_time_is_reported_with_the_models_sql_file(project: Path) -> None:
    found = problem(project, set_code(VIEW, "count(*) over lifetime", "count(distinct merchant) over lifetime"))
    assert (found.file, found.key_path) == ("models/customer__payments.sql", "models[customer__payments]")
    assert found.what.startswith("count_distinct over a lifetime: COUNT(DISTINCT ")
    assert str(found.remedy).startswith("write instead: at most 90 days")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            set_code(VIEW, "count(distinct merchant)", "count(distinct no_function(merchant))"),
            "DuckDB refuses the query",
        ),
        (set_code(STAGING, "'refund'", "refunds"), "a column that cannot be resolved"),
    ],
)
def test_sql_that_cannot_be_a_stream_is_reported(project: Path, change: Change, what: str) -> None:
    found = problem(project, change)
    assert found.file == "models/customer__payments.sql"
    assert what in found.what
    assert found.remedy or found.expected


@pytest.mark.parametrize(
    ("node", "written", "shown"),
    [
        (VIEW, "{% if is_incremental() %}", ""),
        (VIEW, "{% if execute %}{{ tiny.late('x') }}{% endif %}", " (by late() → recent_only() → is_incremental())"),
        (STAGING, "{%- set late = recent_only() -%}", " (by recent_only() → is_incremental())"),
    ],
)
def test_is_incremental_is_refused_wherever_the_sql_calls_it(
    project: Path, node: str, written: str, shown: str
) -> None:
    found = problem(project, set_code(node, "select", f"{written}\nselect", "raw_code"))
    assert found.file == f"models/{node.rpartition('.')[2]}.sql"
    assert found.what == f"is_incremental() under a feature view with a stream{shown}"
    assert str(found.remedy).startswith("leave is_incremental() out")


def test_a_manifest_without_compiled_sql_says_how_to_get_it(project: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["nodes"][VIEW]["compiled_code"] = None

    found = problem(project, change)
    assert found.what == "the manifest does not hold the model's compiled SQL"
    assert "dbt compile --full-refresh" in str(found.remedy)


def test_a_query_at_compile_time_is_a_problem_while_a_build_holds_the_warehouse_too(tmp_path: Path) -> None:
    querying = "{{ run_query('select 1').columns[0].values()[0] if execute }} as one,"
    staging = PROJECT["models/stg_payments__transactions.sql"].replace("    customer_id,", f"customer_id, {querying}")
    folder = write_project(tmp_path, PROJECT | {"models/stg_payments__transactions.sql": staging})
    with duckdb.connect(str(folder / "tiny.duckdb")):
        parsed = dbt_manifest(load_settings(project_dir=folder))
    with pytest.raises(DefinitionError) as raised:
        load_registry(folder, folder / "target", parsed=parsed)
    [found] = raised.value.problems
    assert found.what == "the model's SQL depends on a query that its Jinja asks while it is compiled"
    assert (found.file, found.got) == ("models/stg_payments__transactions.sql", "select 1")


def test_an_event_stream_stands_on_a_sources_table(project: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["nodes"][STAGING]["config"]["meta"] = {"event_stream": {"event_id": "x"}}

    found = problem(project, change)
    assert found.what == "a model cannot hold event_stream"
    assert found.expected == "event_stream in config.meta of a source's table or a seed"


@pytest.mark.parametrize(
    ("types", "key_path", "what"),
    [
        ({"seen_at": "date"}, "seeds[visits].config.column_types.seen_at", "event_timestamp 'seen_at' has a type"),
        ({"pages": "interval"}, "seeds[visits].config.column_types.pages", "has a type that features cannot have"),
        ({"pages": None}, "seeds[visits].config.column_types", "an event source with a column 'pages' whose type dbt"),
    ],
)
def test_a_seed_in_which_events_arrive_has_its_types_where_dbt_loads_it_by_them(
    project: Path, types: dict[str, str | None], key_path: str, what: str
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        config = manifest["nodes"]["seed.tiny.visits"]["config"]
        config["meta"] = {"event_stream": {"event_id": "visit", "event_timestamp": "seen_at"}}
        given = config["column_types"] | types
        config["column_types"] = {name: type_ for name, type_ in given.items() if type_ is not None}

    found = problem(project, change)
    assert (found.file, found.key_path, found.line) == ("seeds/seeds.yml", key_path, 5)
    assert what in found.what


def test_a_seed_of_the_name_that_a_view_streams_is_said_to_be_no_event_source(project: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["nodes"][VIEW]["config"]["meta"]["feature_view"]["stream"] = "merchants"

    found = problem(project, change)
    assert found.what == "seed 'merchants' is not an event source"
    assert str(found.remedy).endswith("or of the seed, in seeds/seeds.yml")


@pytest.fixture
def seed(project: Path) -> Iterator[Path]:
    """The seed's file, which a test may write."""
    path = project / "seeds" / "merchants.csv"
    text = path.read_text()
    yield path
    path.write_text(text)


def test_a_seed_that_staging_looks_up_becomes_part_of_the_view(project: Path, seed: Path) -> None:
    before = load(project)
    stream = before.feature_view("customer__payments").stream
    assert stream is not None
    for text in ('\'["food","food","games"]\'', "Käse, Wein"):
        assert text in stream.row_sql
    seed.write_text(seed.read_text().replace("games", "gambling"))
    (change,) = plan(before, load(project))
    assert (change.name, change.new_rows) == ("customer__payments", True)
    assert change.details == ("staging SQL or rows that it looks up",)


@pytest.mark.parametrize(
    ("text", "types", "what", "remedy"),
    [
        ("merchant,category,risk\na,x,1\na,y,1\n", {}, "one key (merchants.merchant = 'a')", "one row a key"),
        ("merchant,category,risk\na,x,high\n", {}, "a seed that DuckDB cannot load", "rows that fit"),
        ("merchant,category,risk\na,x,1\n", {"risk": "gold"}, "a seed that DuckDB cannot load", "rows that fit"),
        ("merchant,category\n" + "".join(f"m{i},x\n" for i in range(5001)), {}, "5,001 rows", "at most 5,000 rows"),
        ("merchant,kind\na,x\n", {}, "a column of a seed whose type dbt would guess: merchants.kind",
         "config: {column_types: {merchant: varchar, kind: varchar}} for seed merchants"),
        ("merchant,category,risk\na,x,1\n", {"merchant": "integer"}, "DuckDB cannot load", "in seeds/merchants.csv"),
    ],
)  # fmt: skip
def test_a_seed_that_cannot_be_looked_up_is_reported(
    project: Path, seed: Path, text: str, types: dict[str, str], what: str, remedy: str
) -> None:
    seed.write_text(text)
    found = problem(
        project, lambda manifest: manifest["nodes"]["seed.tiny.merchants"]["config"]["column_types"].update(types)
    )
    assert found.file == "models/customer__payments.sql"
    assert what in found.what
    assert remedy in str(found.remedy)
