"""features check reads what files alone do not show as dbt compiles it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.tiny_project import FILES, features, write_project


def test_a_view_that_dbt_alone_sees_is_looked_at_as_dbt_compiles_it(tmp_path: Path) -> None:
    view = "{'feature_view': {'entities': ['customer'], 'refresh': 'manual'}}"
    hidden = f"{{% if target.name == 'local' %}}{{{{ config(group='risk', meta={view}) }}}}{{% endif %}}\nselect now()"
    columns = "\n".join(
        f"      - {{name: {name}, data_type: {kind}, description: Told.}}"
        for name, kind in (("customer_id", "bigint"), ("event_timestamp", "timestamp"), ("calls", "bigint"))
    )
    yaml = f"models:\n  - name: customer__calls\n    description: Calls of a customer.\n    columns:\n{columns}\n"
    folder = write_project(tmp_path, FILES | {"models/customer__calls.sql": hidden, "models/calls.yml": yaml})
    result = features("check", "--json", cwd=folder)
    assert result.returncode == 1, result.stdout
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["file"], problem["line"], problem["got"]) == ("models/customer__calls.sql", 1, "now()")


_GUESSES = {
    "{% for one in range(2) %}{% if execute %}, random() as a{{ one }}{% endif %}{% endfor %}": (["random()"], True),
    "{% if target.name == 'elsewhere' %}, 1 as a{% else %}, random() as a{% endif %}": (["random()"], True),
    "{% if target.type == 'duckdb' %}, random() as a{% endif %}": (["random()"], True),
    "{% if target.type == 'duckdb' %}, 1 as a{% else %}, 2 as a{% endif %}": ([], True),
    "{% if execute %}{% for one in run_query('select 7 as a').columns[0].values() %}, random() as a"
    "{% endfor %}{% endif %}": (["random()"], True),
    "\n, now() as b{% if target.type == 'duckdb' %}, random() as a{% endif %}": (["random()", "now()"], True),
    "{% if is_incremental() or var('none_such', false) or var('null', none) or env_var('NONE_SUCH', '') %}, 1 as a"
    "{% endif %}": ([], False),
}  # fmt: skip


@pytest.mark.parametrize("jinja", _GUESSES)
def test_a_model_rendered_by_a_guess_is_looked_at_as_dbt_compiles_it_too(tmp_path: Path, jinja: str) -> None:
    got, is_guess = _GUESSES[jinja]
    sql = {
        "models/customer_shop__visits.sql": "select 1 from {{ ref('told') }}",
        "models/told.sql": f"select 1 as n{jinja}",
    }
    folder = write_project(tmp_path, FILES | sql)
    told = [
        one
        for one in json.loads(features("check", "--json", cwd=folder).stdout)["problems"]
        if one["file"] == "models/told.sql" and one["key_path"].startswith("told: ")
    ]
    assert [one["got"].split(" (under")[0] for one in told] == got, told
    assert [one["line"] for one in told] == [1, 2][: len(got)]
    alone = features("lint", cwd=folder)
    assert ("told.sql: looked at by a guess" in alone.stderr) == is_guess, alone.stderr


def test_a_model_that_dbt_alone_renders_is_looked_at_as_dbt_compiles_it(tmp_path: Path) -> None:
    source = "select '{{ model.name + '!' }}' as name"
    files = {"models/customer_shop__visits.sql": "select 1 from {{ ref('told') }}"}
    for sql, found in ((f"\n{source}, random() as a", ["told: random"]), (source, [])):
        folder = write_project(tmp_path, FILES | files | {"models/told.sql": sql})
        result = features("check", "--json", cwd=folder)
        told = json.loads(result.stdout)["problems"]
        assert (result.returncode, [one["key_path"] for one in told]) == (len(found), found), result.stdout
        alone = features("lint", "--json", cwd=folder)
        unread = [one for one in json.loads(alone.stdout)["findings"] if one["rule"] == "unreadable"]
        assert (alone.returncode, [one["file"] for one in unread]) == (1, ["models/told.sql"])
        assert all(
            "told.sql" not in one["file"] or (one["file"], one["line"]) == ("models/told.sql", 1) for one in told
        )
