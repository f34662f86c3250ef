"""features check reads what files alone do not show as dbt compiles it."""

from __future__ import annotations

import json
from pathlib import Path

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
