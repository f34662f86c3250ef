"""Models rendered without dbt: endless templates end, marks of editors are none, what YAML configures is known."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from feature_server.written.rendering import Rendered, Rendering, Unrendered, macros_of, merged

LASTS = "{% macro lasts() %}{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endmacro %}"
NOTHING: Mapping[str, Any] = {}


def rendered(folder: Path, text: str, macros: str = "", configured: Mapping[str, Any] = NOTHING) -> Rendered:
    (folder / "model.sql").write_text(text, encoding="utf-8")
    (folder / "macros").mkdir(exist_ok=True)
    (folder / "macros" / "m.sql").write_text(macros, encoding="utf-8")
    rendering = Rendering(folder, "shop", {}, {"shop": macros_of([folder / "macros"])})
    return rendering.render(folder / "model.sql", configured)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{% for i in range(10 ** 9) %}select 1{% endfor %}", "range is longer than 100000"),
        ("{{ range(0, 10 ** 12, 7) | list }}", "range is longer than 100000"),
        ("{% for i in range(50000) %}{% for j in range(50000) %}{% set x = i %}{% endfor %}{% endfor %}", "than 2 s"),
        ("{{ lasts() }}", "more than 2 s"),
        ("{% set b = namespace(s='a') %}{% for i in range(60) %}{% set b.s = b.s ~ b.s %}{% endfor %}", "memory"),
        ("{% set all = [] %}{% for i in range(90000) %}{% do all.append('x' * (900000 + i)) %}{% endfor %}", "memory"),
        ("{{ 'x' * 10 ** 13 }}", "memory"),
        ("{{ 'x'.ljust(10 ** 13) }}", "memory"),
        ("select 1 {{ '+ 1' * 10 ** 6 }}", "has 3000009 characters"),
    ],
)  # fmt: skip
def test_what_is_endless_or_huge_ends(tmp_path: Path, text: str, why: str) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    began = time.process_time()
    with pytest.raises(Unrendered, match=why):
        rendered(tmp_path, text, LASTS)
    assert time.process_time() - began < 5
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getsignal(signal.SIGVTALRM) == handler
    assert rendered(tmp_path, "select {{ range(99999) | sum }}").written.sql == "select 4999850001"


def test_a_mark_of_the_encoding_is_no_text(tmp_path: Path) -> None:
    found = rendered(tmp_path, "\ufeffselect {{ one() }}", "\ufeff{% macro one() %}1{% endmacro %}")
    assert found.written.sql == "select 1"


def test_what_is_configured_is_known_and_what_is_not_is_unknown(tmp_path: Path) -> None:
    text = (
        "{{ config(meta={'a': 1}, alias='x') }}{% for tag in config.get('tags') %}{{ tag }};{% endfor %}"
        "{{ config.get('alias') }} {{ config.get('schema', 'main') }} {{ config.get('meta').b }} "
        "{{ config.meta_get('a') }}"
        "{% if config.get('unsaid') is not none %}never{% endif %}{{ config.require('materialized') }}"
        "{% for each in config.get('grants') %}never{% endfor %} {{ config.get('enabled') }}"
    )
    configured = {"tags": ["daily", "bank"], "meta": {"b": 2}, "materialized": "table"}
    found = rendered(tmp_path, text, configured=configured)
    assert found.written.sql == "daily;bank;x main 2 1table True"
    assert found.materialized == "table"


def test_places_are_merged_as_dbt_does() -> None:
    first = {"tags": "daily", "meta": {"a": 1, "b": 1}, "alias": "x"}
    then = {"tags": ["bank"], "meta": {"b": 2}, "alias": "y"}
    assert merged(first, then) == {"tags": ["daily", "bank"], "meta": {"a": 1, "b": 2}, "alias": "y"}
    assert merged({}, {"alias": "y"}) == {"alias": "y"}
