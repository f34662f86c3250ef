"""`features lint` on projects: what is under views, where it was written, what is allowed, what could not be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from feature_server.errors import FeatureStoreError, Problem
from feature_server.lint.rules import RULES
from feature_server.lint.run import lint, problems
from tests.support.linted import SHOP, VIEWS, linted, places
from tests.support.tiny_project import write_project

ROOT = Path(__file__).parents[2]


def test_each_finding_is_where_it_was_written_in_models_and_macros_under_views(tmp_path: Path) -> None:
    found = linted(tmp_path)
    assert places(found) == [
        ("macros/money.sql", 8, "random", ("spend",)),
        ("transform/stg_payments.sql", 2, "present_time", ("spend",)),
        ("transform/visits_v2.sql", 1, "random", ("visits_v2",)),
    ]
    assert (found.views, found.models, found.not_looked_at) == (3, 4, ())
    said = str(found.findings[1])
    assert said.startswith("transform/stg_payments.sql:2: present_time: now() (under spend)\n  why: ")


def test_a_rule_is_broken_on_purpose_with_a_reason(tmp_path: Path) -> None:
    allowed = VIEWS + "  - {name: stg_payments, config: {meta: {lint: {allow: present_time, reason: it is a test}}}}\n"
    found = linted(tmp_path, **{"transform/views.yml": allowed})
    assert [rule for _, _, rule, _ in places(found)] == ["random", "random"]
    unknown = allowed.replace("present_time", "presnt_time")
    with pytest.raises(FeatureStoreError, match="allows no rule that there is") as raised:
        linted(tmp_path, **{"transform/views.yml": unknown})
    assert raised.value.where == "transform/views.yml:9: meta.lint"
    assert raised.value.remedy == "did you mean present_time?"
    for said in ("{allow: random}", "random", "{allow: random, reason: ' '}"):
        wrong = allowed.replace("{allow: present_time, reason: it is a test}", said)
        with pytest.raises(FeatureStoreError, match=r"cannot be read|does not say why") as raised:
            linted(tmp_path, **{"transform/views.yml": wrong})
        assert str(raised.value.where).startswith("transform/views.yml:9: ")


def test_what_only_dbt_could_say_is_unknown_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    text = (
        "{% for one in dbt_utils.get_column_values(ref('stg_payments'), 'kind') %}{{ one }}{% endfor %}"
        "{% set found = run_query('select 1') %}{% if execute %}{{ found.columns[0] }}{% endif %}"
        "select {{ dbt_utils.star(ref('stg_payments')) }}, now() as a from {{ this }} where {{ target.name }} = 1"
    )
    found = linted(tmp_path, **{"transform/spend.sql": text})
    (guess,) = found.not_looked_at
    assert str(guess).startswith(
        "transform/spend.sql: looked at by a guess: its text depends on dbt_utils, run_query, execute"
    )
    assert ("transform/spend.sql", 1, "present_time", ("spend",)) in places(found)


def test_a_package_and_what_a_database_has_of_its_own(tmp_path: Path) -> None:
    package = {
        "dbt_packages/money/dbt_project.yml": "name: money\n",
        "dbt_packages/money/macros/m.sql": "{% macro eur() %}{{ return(adapter.dispatch('eur', 'money')()) }}"
        "{% endmacro %}{% macro default__eur() %}1{% endmacro %}{% macro duckdb__eur() %}\nrandom(){% endmacro %}",
        "transform/spend.sql": "select {{ money.eur() }}",
    }
    found = linted(tmp_path, **package)
    assert ("dbt_packages/money/macros/m.sql", 2, "random", ("spend",)) in places(found)


@pytest.mark.parametrize("got", ["list(a)", "string_agg(a, ',')", "max_by(a, b)", "first(a)", "array_agg(a)"])
def test_a_function_has_the_name_that_it_is_written_with(tmp_path: Path, got: str) -> None:
    found = linted(
        tmp_path, **{"transform/stg_payments.sql": f"select {got} from {{{{ source('bank', 'payments') }}}}"}
    )
    assert [one.got.split(", and")[0] for one in found.findings if one.file.endswith("stg_payments.sql")] == [
        f"{got}, without an order" if got != "max_by(a, b)" else got
    ]


ENTITY = "  - {name: people, meta: {entity: {name: customer, join_keys: [customer_id]}}}\n"


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ("grain: {arguments: {columns: [customer_id, paid_at]}}", False),
        ("grain: {arguments: {columns: [customer_id]}}", False),
        ("grain: {arguments: {columns: [Customer_ID, PAID_AT]}}", False),
        ("grain: {arguments: {columns: [paid_at, euros]}}", True),
        ("grain: {arguments: {columns: [paid_at]}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at, euros]}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {where: euros > 0}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {severity: WARN}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {enabled: false}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {error_if: '> 10'}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {error_if: '!= 0', limit: 9}}", False),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {limit: 0}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {fail_calc: max(n) - 3}}", True),
        ("grain: {arguments: {columns: [customer_id, paid_at]}, config: {warn_if: '> 10'}}", False),
    ],
)
def test_a_test_is_of_a_grain_where_no_two_rows_of_keys_and_times_pass_it(
    tmp_path: Path, test: str, found: bool
) -> None:
    yaml = VIEWS.replace("grain: {arguments: {columns: [customer_id, paid_at]}}", test) + ENTITY
    named = ("transform/views.yml", 2, "no_grain_test", ("spend",))
    assert (named in places(linted(tmp_path, **{"transform/views.yml": yaml}))) == found


def test_tests_that_dbt_project_yml_makes_warnings_are_none(tmp_path: Path) -> None:
    for said, count in (("+severity: warn", 1), ("shop: {+enabled: false}", 1), ("other: {+severity: warn}", 0)):
        found = linted(tmp_path, **{"dbt_project.yml": SHOP["dbt_project.yml"] + f"data_tests: {{{said}}}\n"})
        assert [rule for _, _, rule, _ in places(found)].count("no_grain_test") == count


def test_a_model_that_dbt_project_yml_disables_is_no_view(tmp_path: Path) -> None:
    found = linted(tmp_path, **{"dbt_project.yml": SHOP["dbt_project.yml"] + "models: {shop: {+enabled: false}}\n"})
    assert (found.views, found.findings) == (0, ())


@pytest.mark.parametrize(
    ("tests", "found"),
    [
        ("data_tests: [{grain: {columns: [customer_id, paid_at]}}]", False),
        ("tests: [{dbt_utils.unique_combination_of_columns: {combination_of_columns: [customer_id, paid_at]}}]", False),
        ("data_tests: [{grain: {arguments: {columns: [customer_id]}}}, fresh]", True),
        ("data_tests: [{in_range: {arguments: {min: 0}}}]", True),
        ("description: none", True),
    ],
)
def test_a_view_whose_grain_no_test_holds_is_named(tmp_path: Path, tests: str, found: bool) -> None:
    yaml = VIEWS.replace("data_tests: [{grain: {arguments: {columns: [customer_id, paid_at]}}}]", tests)
    named = ("transform/views.yml", 2, "no_grain_test", ("spend",))
    assert (named in places(linted(tmp_path, **{"transform/views.yml": yaml}))) == found


def test_a_folder_without_a_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="there is no dbt project"):
        lint(tmp_path)


def test_the_example_has_no_finding() -> None:
    found = lint(ROOT)
    assert (found.findings, found.not_looked_at) == ((), ())
    assert (found.views, found.models) == (13, 31)


def test_the_page_says_what_the_command_says_and_names_every_rule() -> None:
    page = (ROOT / "docs" / "lint.md").read_text()
    (command,) = re.findall(r"```bash\n(.*?)\n```", page, re.S)
    printed = subprocess.run([sys.executable, "-m", "feature_server", *command.split()[1:]], cwd=ROOT,
                             env=os.environ | {"FEATURES_PROJECT_DIR": str(ROOT)}, capture_output=True, text=True,
                             check=True).stdout  # fmt: skip
    assert f"```text\n{printed}```" in page
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == [rule.name for rule in RULES]
    allowed = (
        'lint: {allow: look_ahead, reason: "superseded_at is what it says: of the row, until it was known better"}'
    )
    assert allowed in page
    assert allowed in (ROOT / "models/staging/payments/stg_payments__transactions.yml").read_text()


def test_the_command_ends_with_1_and_says_it_as_json_too(tmp_path: Path) -> None:
    write_project(tmp_path, SHOP)
    command = [sys.executable, "-m", "feature_server", "lint", "--project-dir", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "")
    assert told.stdout.splitlines()[-1] == "3 feature views, 4 models: 3 findings"
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    found = json.loads(as_json.stdout)
    assert [each["rule"] for each in found["findings"]] == ["random", "present_time", "random"]
    assert found["findings"][0]["instead"]
    write_project(tmp_path, {"transform/views.yml": "models: []\n"})
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_findings_are_problems_of_a_check_too(tmp_path: Path) -> None:
    warned = list[Problem]()
    untested = VIEWS.replace("    data_tests: [{grain: {arguments: {columns: [customer_id, paid_at]}}}]\n", "")
    write_project(tmp_path, SHOP | {"transform/spend.sql": "select from where (", "transform/views.yml": untested})
    unread, found = problems(tmp_path, warned.append)
    assert (unread.file, unread.line, unread.key_path) == ("transform/spend.sql", 1, "spend: unreadable")
    assert str(found).splitlines() == [
        "transform/visits_v2.sql:1: visits_v2: random: each build gives other values, so training and serving read "
        "different ones",
        "  expected: a value of the row, such as hash(…) of its keys, where rows are to be told apart or sampled",
        "  got: random()",
        "  remedy: config.meta.lint: {allow: random, reason: …} of visits_v2 where it is on purpose",
    ]
    assert [(one.file, one.key_path) for one in warned] == [("transform/views.yml", "spend: no_grain_test")]


def test_dbts_own_clock_is_a_clock(tmp_path: Path) -> None:
    for written in (
        "dbt.current_timestamp()",
        "current_timestamp()",
        "dbt.datediff('paid_at', dbt.current_timestamp(), 'day')",
    ):
        found = linted(tmp_path, **{"transform/stg_payments.sql": f"select 1,\n{{{{ {written} }}}}"})
        assert ("transform/stg_payments.sql", 2, "present_time", ("spend",)) in places(found), written


def test_a_keyword_of_the_clock_is_found_on_its_line(tmp_path: Path) -> None:
    sql = "select\n  1, -- current_date\n  paid_at,\n  current_date as a,\n  now() as b,\n\n  current_timestamp\nfrom p"
    found = linted(tmp_path, **{"transform/stg_payments.sql": sql})
    assert [line for file, line, *_ in places(found) if file == "transform/stg_payments.sql"] == [4, 5, 7]


def test_a_view_says_so_in_its_own_config_too(tmp_path: Path) -> None:
    sql = "{{ config(meta={'feature_view': {'entities': ['customer']}}) }}\nselect random()"
    found = linted(tmp_path, **{"transform/alone.sql": sql})
    assert ("transform/alone.sql", 2, "random", ("alone",)) in places(found)
    assert ("transform/alone.sql", 1, "no_grain_test", ("alone",)) in places(found)


def test_what_a_view_says_in_its_own_config_is_as_if_its_yaml_did(tmp_path: Path) -> None:
    source = "sources: [{name: bank, tables: [{name: payments, loaded_at_field: landed_at}]}]\n"
    view = "'entities': ['customer'], 'created_timestamp': 'landed_at'"
    sql = "{{ config(meta={'feature_view': {%s}, 'lint': {'allow': 'random', 'reason': 'a test'}}) }}\n"
    body = "select landed_at, random() as a from {{ source('bank', 'payments') }}"
    for meta, rules in ((view, ["no_grain_test"]), ("'entities': ['customer']", ["known_time", "no_grain_test"])):
        found = linted(tmp_path, **{"transform/alone.sql": sql % meta + body, "transform/source.yml": source})
        assert [rule for file, _, rule, _ in places(found) if file == "transform/alone.sql"] == rules


def test_what_is_disabled_is_no_view(tmp_path: Path) -> None:
    off = {"transform/spend.sql": "{{ config(enabled=false) }}" + SHOP["transform/spend.sql"]}
    assert [place[0] for place in places(linted(tmp_path, **off))] == ["transform/visits_v2.sql"]
    in_yaml = VIEWS.replace("config: {meta", "config: {enabled: false, meta")
    found = linted(tmp_path, **{"transform/views.yml": in_yaml})
    assert [place[0] for place in places(found)] == ["transform/visits_v2.sql"]


def test_a_version_is_the_latest_that_its_yaml_says_in_the_file_it_names(tmp_path: Path) -> None:
    versions = (
        "  - name: rate\n    latest_version: {latest}\n    versions: [{v: 9}, {v: 10}, {v: 2, defined_in: odd}]\n"
    )
    files = {
        "transform/rate_v9.sql": "select random() as a", "transform/rate_v10.sql": "select uuid() as a",
        "transform/odd.sql": "select now() as a", "transform/stg_payments.sql": "select * from {{ ref('rate') }}",
    }  # fmt: skip
    for latest, file in (("9", "rate_v9.sql"), ("10", "rate_v10.sql")):
        found = linted(tmp_path, **files, **{"transform/views.yml": VIEWS + versions.replace("{latest}", latest)})
        assert {f"transform/{file}"} == {place[0] for place in places(found) if "rate" in place[0]}
