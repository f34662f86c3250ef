"""`unreadable`: what cannot be looked at is a finding, and read as dbt compiled it where it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.errors import Problem
from feature_server.lint.run import lint, problems
from feature_server.written.marks import Place, Written
from feature_server.written.rendering import Rendered
from tests.support.linted import SHOP, VIEWS, linted, places
from tests.support.tiny_project import write_project


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("select {{ 1 + 'a' }}", "unsupported operand"),
        ("select {% if %}", "Expected an expression"),
        ("{{ exceptions.raise_compiler_error('no such window') }}", "no such window"),
        ("select from where (", ""),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ again() }}", "again and again"),
    ],
)
def test_what_cannot_be_read_is_said_and_the_others_are_looked_at(tmp_path: Path, text: str, why: str) -> None:
    again = "{% macro again() %}{{ again() }}{% endmacro %}"
    found = linted(tmp_path, **{"transform/spend.sql": text, "macros/again.sql": again})
    assert places(found) == [
        ("transform/spend.sql", 1, "unreadable", ("spend",)), ("transform/visits_v2.sql", 1, "random", ("visits_v2",)),
    ]  # fmt: skip
    assert why in found.findings[0].got
    assert found.not_looked_at == ()
    warned = list[Problem]()
    refused = [one.key_path for one in problems(tmp_path, warned.append)]
    assert (refused, warned) == (["spend: unreadable", "visits_v2: random"], [])


def test_what_is_no_sql_model_under_a_view_is_named(tmp_path: Path) -> None:
    read = ("told", "kept", "dim", "rates", "nobody", "gone")
    sql = " union all ".join(f"select a from {{{{ ref('{name}') }}}}" for name in read)
    found = linted(tmp_path, **{
        "transform/stg_payments.sql": sql,
        "transform/told.py": "def model(dbt, session): ...",
        "snapshots/kept.sql": "{% snapshot kept %} select 1 as a {% endsnapshot %}",
        "snapshots/dim.yml": "snapshots:\n  - {name: dim, relation: ref('spend')}\n",
        "seeds/rates.csv": "a\n1\n",
        "transform/nobody.sql/left.txt": "a folder",
        "transform/gone.sql": "{{ config(enabled=false) }} select 1 as a",
    })  # fmt: skip
    file = "transform/stg_payments.sql"
    assert [(each.file, each.got) for each in found.findings if each.rule == "unreadable"] == [
        (file, "it reads 'told', a Python model, of which no SQL says what is in it"),
        (file, "it reads 'nobody': the project has no model, seed or snapshot of that name"),
    ]
    taken = "a snapshot that it reads, and what is under that: rows as they were when it was taken"
    assert [str(each) for each in found.not_looked_at] == [
        f"{file}: not looked at: 'kept', {taken}", f"{file}: not looked at: 'dim', {taken}",
    ]  # fmt: skip


@pytest.mark.parametrize("named", ["told", "stg_payments"])
def test_a_python_model_under_a_view_is_allowed_where_it_or_its_reader_says_why(tmp_path: Path, named: str) -> None:
    files = {
        "transform/stg_payments.sql": "select a from {{ ref('told') }}",
        "transform/told.py": "def model(dbt, session): ...",
    }
    assert "unreadable" in [rule for _, _, rule, _ in places(linted(tmp_path, **files))]
    allowed = f"  - {{name: {named}, meta: {{lint: {{allow: unreadable, reason: a forecast of its own}}}}}}\n"
    found = linted(tmp_path, **files, **{"transform/views.yml": VIEWS + allowed})
    assert "unreadable" not in [rule for _, _, rule, _ in places(found)]
    (left_out,) = found.not_looked_at
    assert left_out.why == "it reads 'told', a Python model, of which no SQL says what is in it"


def test_a_view_that_is_no_sql_file_is_named(tmp_path: Path) -> None:
    views = "models:\n" + "".join(f"  - {{name: {name}, meta: {{feature_view: {{}}}}}}\n" for name in ("told", "none"))
    found = linted(tmp_path, **{"transform/told.py": "def model(dbt, session): ...", "transform/more.yml": views})
    unread = [(each.line, each.model, each.got) for each in found.findings if each.rule == "unreadable"]
    assert unread == [(2, "told", "it is a Python model"), (3, "none", "no SQL file is named none")]
    views = views.replace("feature_view: {}", "feature_view: {}, lint: {allow: unreadable, reason: a test}")
    found = linted(tmp_path, **{"transform/more.yml": views})
    assert [each.model for each in found.not_looked_at] == ["told", "none"]
    assert "unreadable" not in [each.rule for each in found.findings]


def test_a_view_that_dbt_knows_is_looked_at_or_found(tmp_path: Path) -> None:
    hidden = "{% if target.name == 'prod' %}{{ config(meta={'feature_view': {}}) }}{% endif %} select now() as a"
    write_project(tmp_path, SHOP | {"transform/hidden.sql": hidden})
    known = {"spend": "transform/spend.sql", "hidden": "transform/hidden.sql", "far": "models/far.sql"}
    found = [place for place in places(lint(tmp_path, known)) if place[3][0] in ("hidden", "far")]
    assert found == [
        ("models/far.sql", 1, "unreadable", ("far",)),
        ("transform/hidden.sql", 1, "no_grain_test", ("hidden",)),
        ("transform/hidden.sql", 1, "present_time", ("hidden",)),
    ]


def test_what_files_do_not_show_is_read_in_the_sql_that_dbt_compiled(tmp_path: Path) -> None:
    texts = {
        "spend": 'select * from "model"."ref"."stg_payments", "model"."ref"."priced" where random() < 1',
        "priced": "select from where (",
    }
    read = {"spend": (("stg_payments", None), ("priced", None))}

    def compiled(name: str) -> Rendered | None:
        written = Written(texts.get(name, ""), (0,), (Place(f"transform/{name}.sql", 1),))
        return Rendered(written, read.get(name, ()), ()) if name in texts else None

    write_project(tmp_path, SHOP | {"transform/spend.sql": "select {{ graph.nodes['a'] + 1 }}",
                                    "transform/priced.sql": "select {{ 1 / 0 }}"})  # fmt: skip
    assert [place[:3] for place in places(lint(tmp_path, compiled=compiled))] == [
        ("transform/priced.sql", 1, "unreadable"),
        ("transform/spend.sql", 1, "random"),
        ("transform/stg_payments.sql", 2, "present_time"),
        ("transform/visits_v2.sql", 1, "random"),
    ]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select a\nfrom t\nwhere", "3: something is missing at 'where'"),
        ("select\nfrom where (", "2: expected table name at 'where'"),
        ("select case when a\nfrom t", "2: something is missing at 'from'"),
        ("select {{ twice('euros') }}\nfrom (select 1", "2: expecting ) at '1'"),
        ("select 'a", "1: a quoted text, a name or a comment does not end"),
    ],
)
def test_where_sql_cannot_be_read_is_said_in_its_own_words(tmp_path: Path, sql: str, said: str) -> None:
    found = linted(tmp_path, **{"transform/spend.sql": sql})
    (one,) = [each for each in found.findings if each.rule == "unreadable"]
    line, why = said.split(": ")
    assert (one.file, str(one.line)) == ("transform/spend.sql", line)
    assert one.got == f"its SQL cannot be read: {why}"


@pytest.mark.parametrize(
    "sql",
    [
        f"select {'coalesce(a, ' * 100}1{')' * 100} as a",
        f"select {' + '.join(['a'] * 900)} as a",
        " union all ".join(["select random() as a"] * 600),
    ],
)
def test_long_sql_is_read(tmp_path: Path, sql: str) -> None:
    found = linted(tmp_path, **{"transform/stg_payments.sql": f"{sql}\n-- {{{{ 100 // ([] | length) if false }}}}"})
    assert "unreadable" not in [each.rule for each in found.findings]


def test_what_the_jinja_of_a_model_divides_by_is_no_crash(tmp_path: Path) -> None:
    found = linted(tmp_path, **{"transform/stg_payments.sql": "select {{ 1 / 0 }}"})
    assert [(one.model, one.got) for one in found.findings if one.rule == "unreadable"] == [
        ("stg_payments", "its Jinja cannot be rendered without dbt: division by zero")
    ]
