"""Projects without feature YAML, as owners type it: tables and files as sources, and nothing of theirs written."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.support.typed import Typed

PAGE = (Path(__file__).parents[2] / "docs" / "leaktest.md").read_text()
BANK = {
    "dbt_project.yml": """
        name: bank
        version: "1.0"
        profile: bank
        flags: {send_anonymous_usage_stats: false}
        models: {+materialized: view}
        on-run-start: ["create table if not exists runs (ran_at timestamptz)", "insert into runs values (now())"]
        """,
    "profiles/profiles.yml": """
        bank:
          target: dev
          outputs:
            dev:
              type: duckdb
              path: bank.duckdb
              external_root: exports
              settings: {TimeZone: UTC, temp_directory: spill}
              attach: [{path: lake.duckdb, alias: lake}]
        """,
    "seeds/rates.csv": "currency,rate\nEUR,1.0\nUSD,0.9\n",
    "models/sources.yml": """
        sources:
          - name: raw
            schema: raw
            tables:
              - {name: payments, config: {loaded_at_field: loaded_at}}
          - name: lake
            database: lake
            schema: main
            tables: [{name: accounts}]
          - name: files
            config: {meta: {external_location: "landing/{name}.parquet"}}
            tables: [{name: visits}]
        """,
    "models/exported.sql": "{{ config(materialized='external') }} select * from {{ source('raw', 'payments') }}",
    "models/payments.sql": """
        {{ config(database='lake') }}
        select p.*, r.rate, a.limit_eur from {{ ref('exported') }} as p
        left join {{ ref('rates') }} as r using (currency)
        left join {{ source('lake', 'accounts') }} as a using (account)
        """,
    "models/payments.yml": """
        models:
          - name: payments
            columns: [{name: payment, data_tests: [unique]}]
        """,
    "models/visits.sql": """
        select account, visited_at, pages from {{ source('files', 'visits') }} where visited_at <= '{{ var('as_of') }}'
        """,
    "models/hard_coded.sql": "select *, now() as loaded_at from 'landing/visits.parquet'",
}


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Ten payments an hour apart; limits of accounts that were raised; visits of two days."""
    typed = Typed(tmp_path, BANK, monkeypatch, capsys)
    (tmp_path / "landing").mkdir()
    (tmp_path / "exports").mkdir()
    at = "timestamp '2024-03-01 00:00:00' + interval '1 hour' *"
    with duckdb.connect(str(tmp_path / "bank.duckdb")) as own:
        own.execute("create schema raw")
        own.execute(
            f"create table raw.payments as select range as payment, range % 3 as account, 'EUR' as currency,"
            f" {at} range as loaded_at from range(10)"
        )
    with duckdb.connect(str(tmp_path / "lake.duckdb")) as lake:
        lake.execute(
            f"create table accounts as select range as account, 100 as limit_eur, {at} 0 as changed_at from range(3)"
        )
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (select range % 3 as account, {at} range as visited_at, range as pages from range(48))"
            f" to '{tmp_path}/landing/visits.parquet'"
        )
    return typed


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_project_without_feature_yaml_is_tested_and_nothing_of_it_is_written(bank: Typed) -> None:
    before = contents(bank.folder)
    instants = ("--as-of", "2024-03-01T05:30:00", "--then", "2024-03-01T08:00:00")
    status, printed = bank.features(
        "leaktest", "payments", "--known-at", "loaded_at", *instants, "--landed", "changed_at"
    )
    assert (status, printed.splitlines()) == (
        0,
        ["payments: clean; 6 rows compared at 1 pair of instants, by payment", "1 clean"],
    )
    assert contents(bank.folder) == before


def test_a_limit_that_was_raised_later_is_hindsight(bank: Typed) -> None:
    with duckdb.connect(str(bank.folder / "lake.duckdb")) as lake:
        lake.execute("insert into accounts values (3, 5, timestamp '2024-03-01 00:00:00')")
        lake.execute("update accounts set limit_eur = 500, changed_at = '2024-03-01 07:00:00' where account = 1")
    (command,) = re.findall(r"^features (leaktest payments .+)$", PAGE, re.MULTILINE)
    status, printed = bank.features(*command.split())
    assert f"```text\n{printed}```" in PAGE
    assert (status, printed.splitlines()) == (
        1,
        [
            "payments: leaks; 6 rows compared at 1 pair of instants, by payment",
            "  as of 2024-03-01T05:30:00Z and as of 2024-03-01T08:00:00Z: rows with loaded_at by the first instant",
            "    limit_eur: 33.33% of rows (2) differ; payment 1: null, later 500",
            "1 leaks",
        ],
    )


def test_without_a_landing_time_it_is_untestable_and_what_differs_is_told_all_the_same(bank: Typed) -> None:
    options = ("--known-at", "loaded_at", "--as-of", "2024-03-01T05:30:00", "--then", "2024-03-01T08:00:00")
    status, printed = bank.features("leaktest", "payments", *options)
    assert status == 4
    assert "payments: untestable; 6 rows compared" in printed
    assert "  source lake.accounts says of no row when it landed" in printed
    assert "--landed lake.accounts=COLUMN" in printed


def test_rows_without_keys_are_told_apart_by_a_column_that_no_two_share(bank: Typed) -> None:
    status, printed = bank.features(
        "leaktest", "visits", "--known-at", "visited_at", "--landed", "visited_at", "--pairs", "2", "--json"
    )
    assert status == 0
    (view,) = json.loads(printed)["views"]
    # 48 visits, chosen so that 40 % and 80 % of the rows before the last have landed
    assert [(pair["first"], pair["later"], pair["found"]["rows"]) for pair in view["pairs"]] == [
        ("2024-03-01T18:00:00Z", "2024-03-02T23:00:00Z", 19),
        ("2024-03-02T13:00:00Z", "2024-03-02T23:00:00Z", 38),
    ]
    assert (view["verdict"], view["keys"]) == ("clean", [])
    assert [pair["found"]["by"] for pair in view["pairs"]] == [["visited_at"], ["visited_at"]]


def test_a_file_that_is_no_source_cannot_be_told_as_of_a_time(bank: Typed) -> None:
    options = ("--known-at", "loaded_at", "--as-of", "2024-03-01T05:30:00", "--then", "2024-03-01T08:00:00")
    status, printed = bank.features("leaktest", "hard_coded", *options)
    assert status == 4
    assert "hard_coded: untestable; 0 rows compared" in printed
    assert "declare a file that is read as a source" in printed


def test_instants_that_cannot_be_compared_are_refused_before_dbt_starts(bank: Typed) -> None:
    turned = ("--as-of", "2024-03-02", "--then", "2024-03-01T08:00:00")
    status, printed = bank.features("leaktest", "visits", *turned)
    assert (status, "the first instant is not before the later one" in printed) == (1, True)
    status, printed = bank.features("leaktest", "visits", "--as-of", "2024-03-01", "--pairs", "2")
    assert (status, "the first instants are given, so none are chosen" in printed) == (1, True)
    status, printed = bank.features("leaktest", "visits", "--landed", "a", "--landed", "b")
    assert (status, "two columns for the same sources" in printed) == (1, True)


def test_without_any_landing_time_instants_have_to_be_given(bank: Typed) -> None:
    status, printed = bank.features("leaktest", "visits", "--known-at", "visited_at")
    assert (status, "nothing says when the rows of a source landed" in printed) == (1, True)


def test_a_column_that_the_model_lacks_is_refused_with_the_nearest(bank: Typed) -> None:
    status, printed = bank.features("leaktest", "visits", "--known-at", "visited", "--landed", "visited_at")
    assert (status, "did you mean visited_at?" in printed) == (1, True)


def test_a_hook_that_would_write_elsewhere_fails_and_is_told(bank: Typed) -> None:
    project = bank.folder / "dbt_project.yml"
    project.write_text(
        project.read_text().replace("on-run-start: [", "on-run-start: [\"copy (select 1) to 'exports/one.csv'\", ")
    )
    options = ("--known-at", "visited_at", "--landed", "visited_at")
    status, printed = bank.features("leaktest", "visits", *options)
    assert (status, "on-run-start-0 failed" in printed, "Permission Error" in printed) == (4, True, True)
    assert list((bank.folder / "exports").iterdir()) == []


def test_a_table_that_another_process_holds_is_told(bank: Typed) -> None:
    code = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(bank.folder / "bank.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        options = ("--known-at", "loaded_at", "--as-of", "2024-03-01T05:30:00", "--then", "2024-03-01T08:00:00")
        status, printed = bank.features("leaktest", "payments", *options)
        chosen = bank.features("leaktest", "payments", "--known-at", "loaded_at", "--landed", "changed_at")
        holder.stdin.close()
    assert chosen == (status, printed)
    assert (status, printed.splitlines()) == (
        1,
        [
            f"error: {bank.folder / 'bank.duckdb'}: the warehouse is being built by process {holder.pid}",
            "  expected: a file that no other process has opened to write",
            f"  got: lock held by {Path(sys.executable).resolve()}",
            "  remedy: wait until it has closed the file, then test again",
        ],
    )


INSTANTS = ("--as-of", "2024-03-01T05:30:00", "--then", "2024-03-01T08:00:00")


def test_a_column_that_holds_no_times_is_refused_with_its_type(bank: Typed) -> None:
    status, printed = bank.features(
        "leaktest", "payments", "--known-at", "account", "--landed", "changed_at", *INSTANTS
    )
    assert (status, "got: account BIGINT\n" in printed) == (1, True)
    assert "the column that says when a row was known holds no times" in printed
    status, printed = bank.features("leaktest", "payments", "--known-at", "currency", *INSTANTS)
    assert (status, "got: currency VARCHAR\n" in printed) == (1, True)


def test_a_landing_column_that_no_source_has_is_refused_with_the_nearest(bank: Typed) -> None:
    options = ("--known-at", "loaded_at", "--landed", "chnged_at", *INSTANTS)
    status, printed = bank.features("leaktest", "payments", *options)
    assert (status, printed.splitlines()) == (
        1,
        [
            "error: --landed: no source has such a column",
            "  expected: a column of lake.accounts, raw.payments",
            "  got: chnged_at",
            "  remedy: did you mean changed_at?",
        ],
    )


def test_a_source_without_rows_is_told_as_one(bank: Typed) -> None:
    with duckdb.connect(str(bank.folder / "bank.duckdb")) as own:
        own.execute("delete from raw.payments")
    status, printed = bank.features("leaktest", "exported", "--known-at", "loaded_at")
    assert (status, printed.splitlines()) == (
        1,
        [
            "error: raw.payments: the sources have no rows",
            "  expected: rows to build of",
            "  remedy: land rows of them, then test",
        ],
    )
    with duckdb.connect(str(bank.folder / "bank.duckdb")) as own:
        own.execute("insert into raw.payments values (1, 1, 'EUR', null)")
    status, printed = bank.features("leaktest", "exported", "--known-at", "loaded_at")
    assert (status, "no row says when it landed" in printed, "than loaded_at" in printed) == (1, True, True)


def test_variables_are_dbts_beside_as_of(bank: Typed) -> None:
    model = bank.folder / "models" / "visits.sql"
    model.write_text(model.read_text() + "{{ ' and pages < ' ~ var('most') }}")
    options = ("leaktest", "visits", "--known-at", "visited_at", "--landed", "visited_at", "--json")
    status, printed = bank.features(*options)
    assert (status, "Required var 'most' not found" in printed) == (4, True)
    status, printed = bank.features(*options, "--vars", "{most: 7}")
    (view,) = json.loads(printed)["views"]
    assert (status, view["pairs"][0]["found"]["rows"]) == (0, 7)
    for wrong, said in (
        ("{as_of: 2024-01-01}", "each build has its own as_of"),
        ("most", "the variables cannot be read"),
    ):
        status, printed = bank.features(*options, "--vars", wrong)
        assert (status, said in printed) == (1, True)


def test_an_error_of_dbt_names_no_log_that_another_run_wrote(bank: Typed) -> None:
    (bank.folder / "logs").mkdir()
    (bank.folder / "logs" / "dbt.log").write_text("of another run")
    (bank.folder / "models" / "wrong.sql").write_text("select {{")
    status, printed = bank.features("leaktest", "visits", "--known-at", "visited_at", *INSTANTS)
    assert (status, "dbt cannot parse the project" in printed, "dbt.log" in printed) == (1, True, False)
