"""A small project with findings, for tests of `features lint`."""

from pathlib import Path

from feature_server.lint.run import Linted, lint
from tests.support.tiny_project import write_project

VIEWS = """
models:
  - name: spend
    config: {meta: {feature_view: {entities: [customer], event_timestamp: paid_at}}}
    data_tests: [{grain: {arguments: {columns: [customer_id, paid_at]}}}]
  - name: visits
    meta: {feature_view: {entities: [customer], stream: bank.visits}}
    versions: [{v: 1}, {v: 2}]
  - name: report
"""
SHOP = {
    "dbt_project.yml": 'name: shop\nmodel-paths: [transform]\nvars: {since: "2013-01-01", shop: {rate: 2}}\n',
    "transform/views.yml": VIEWS,
    "transform/stg_payments.sql": "select * from {{ source('bank', 'payments') }}\nwhere paid_at < now()\n",
    "transform/spend.sql": "{{ config(materialized='table') }}\nselect\n    customer_id,\n    {{ twice('euros') }}\n"
    "from {{ ref('stg_payments') }}\nwhere paid_at >= '{{ var('since') }}' and rate = {{ var('rate') }}\n",
    "transform/visits_v1.sql": "select 1 as a",
    "transform/visits_v2.sql": "select a, random() as b from {{ ref('visits', v=1) }}",
    "transform/report.sql": "select now()",
    "macros/money.sql": "{% macro half(x) %}\n{{ return(x ~ ' / 2') }}\n{% endmacro %}\n\n"
    "{% macro twice(x) -%}\n{{ half(x) }} as a,\n2 * {{ x }} *\n    random()\n{%- endmacro %}\n"
    "{% test positive(model, column_name) %} select now() {% endtest %}\n",
}


def linted(folder: Path, **changed: str) -> Linted:
    return lint(write_project(folder, SHOP | {name.replace("__", "/"): text for name, text in changed.items()}))


def places(found: Linted) -> list[tuple[str, int, str, tuple[str, ...]]]:
    return [(each.file, each.line, each.rule, each.views) for each in found.findings]
