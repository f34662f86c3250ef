"""What is kept of an earlier `features check` is what would be reckoned anew: the same edits with and without it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from feature_server.dbt.compiled import parsing
from feature_server.definitions.registry import Registry
from feature_server.kept import Kept, digest
from feature_server.manifest.load import load_registry
from feature_server.meaning.settled import settle
from feature_server.project.package import SHIPPED
from feature_server.settings import load_settings
from tests.support.stream_project import FILES
from tests.support.tiny_project import DBT_PROJECT, PROFILES, write_project

COUNTRY = """
{{ config(materialized='incremental', tags=tagged()) }}
select /* {{ config.get('tags') }} {{ dbt.last_day('event_timestamp', 'month') }} */
    customer_id, event_timestamp,
    {{ shouted('country') }} || '{{ var("suffix", "") }}{{ env_var("KEPT_SUFFIX", "") }}{{ target.name }}' as country
from {{ ref('recent') }}
left join {{ ref('regions') }} using (country)
where event_timestamp < {{ feature_warehouse.as_of() }}
{% if is_incremental() %}and event_timestamp > '{{ latest() }}'{% endif %}
"""
MACROS = """
{% macro tagged() %}{{ return(['one', var('suffix')]) }}{% endmacro %}
{% macro duckdb__date_trunc(datepart, date) %}trunc({{ datepart }}, {{ date }}){% endmacro %}
{% macro shouted(column) %}{{ adapter.dispatch('shout')(column) }}{% endmacro %}
{% macro default__shout(column) %}upper({{ column }}){% endmacro %}
{% macro generate_schema_name(name, node) %}{{ env_var('KEPT_SCHEMA', 'main') }}{{ name or '' }}{% endmacro %}
{% macro latest() %}{{ var('as_of', '2024-01-01T00:00:00Z') }}{% endmacro %}
"""
RECENT = "select 1::bigint as customer_id, timestamptz '2024-01-01' as event_timestamp, 'NL' as country"
PROJECT = FILES | {
    "dbt_project.yml": DBT_PROJECT
    + "seed-paths: [seeds]\nvars: {suffix: '!'}\n"
    + "models: {tiny: {+tags: [\"{{ env_var('KEPT_TAG', 'one') }}\"]}}\n",
    "profiles/profiles.yml": PROFILES.replace("target: local", "target: \"{{ env_var('KEPT_TARGET', 'local') }}\"")
    + "    other: {type: duckdb, path: tiny.duckdb, schema: other, threads: 1, settings: {TimeZone: UTC}}\n",
    "models/features.yml": FILES["models/features.yml"].replace("30d", "\"{{ env_var('KEPT_TTL', '30d') }}\""),
    "models/sources.yml": FILES["models/sources.yml"].replace("landing/", "landing/{{ env_var('KEPT_PLACE', '') }}"),
    "models/entities.yml": FILES["models/entities.yml"].replace(
        "{name: Risk", "{name: \"{{ env_var('KEPT_OWNER', '') }}\""
    ),
    "models/services.yml": FILES["models/services.yml"].replace("Scores", "Scores{{ env_var('KEPT_SERVICE', '') }}"),
    "macros/text.sql": MACROS,
    "seeds/regions.csv": "country,region\nNL,EU\n",
    "models/recent.sql": "{{ config(materialized='ephemeral') }}" + RECENT,
    "models/customer__country.sql": COUNTRY,
}
PACKAGE = "dbt_packages/feature_warehouse/"
PROJECT |= {
    PACKAGE + path.relative_to(SHIPPED).as_posix(): path.read_text()
    for path in (SHIPPED / "dbt_project.yml", *(SHIPPED / "macros").glob("*.sql"))
}
KILLS = 6
Edit = Callable[[Path, pytest.MonkeyPatch, str], None]


def put(name: str, old: str, new: str) -> Edit:
    """An edit that takes `old` out of a file for a text that differs each time, or puts it back."""

    def edit(folder: Path, patch: pytest.MonkeyPatch, token: str) -> None:
        text, after = PROJECT[name], new.format(token)
        assert old in text
        path = folder / name
        path.write_text(text.replace(old, after) if path.read_text() == text else text)

    return edit


def set_variable(name: str, value: str) -> Edit:
    return lambda folder, patch, token: patch.setenv(name, value.format(token))


def unset_variable(name: str) -> Edit:
    return lambda folder, patch, token: patch.delenv(name, raising=False)


def add(name: str, text: str) -> Edit:
    def edit(folder: Path, patch: pytest.MonkeyPatch, token: str) -> None:
        path = folder / name
        if path.exists():
            path.unlink()
        else:
            write_project(folder, {name: text.replace("TOKEN", token)})

    return edit


EDITS: dict[str, Edit] = {
    "the view's SQL": put("models/customer__country.sql", "select /*", "select /* {0} */ /*"),
    "an ephemeral model": put("models/recent.sql", "'NL'", "'{0}'"),
    "staging of a stream": put("models/stg_payments__transactions.sql", "'refund'", "'{0}'"),
    "a stream view": put("models/customer__payments.sql", "amount_eur > 0", "amount_eur > {0}"),
    "a macro": put("macros/text.sql", "upper({{ column }})", "upper({{{{ column }}}} || '{0}')"),
    "a macro of the incremental run alone": put("macros/text.sql", "2024-01-01", "2024-02-{0}"),
    "a variable": put("dbt_project.yml", "'!'", "'{0}'"),
    "a variable of the environment": set_variable("KEPT_SUFFIX", "of {0}"),
    "the target": set_variable("KEPT_TARGET", "other"),
    "the target, back": set_variable("KEPT_TARGET", "local"),
    "a seed's rows": put("seeds/regions.csv", "EU", "{0}"),
    "where a model is": put("models/recent.sql", "{{ config(", "{{{{ config(alias='r{0}', "),
    "where the source is": put("models/sources.yml", "landing/", "landing{0}/"),
    "a macro that overrides another": add(
        "macros/more.sql", "{% macro duckdb__shout(column) %}lower({{ column }} || 'TOKEN'){% endmacro %}"
    ),
    "a macro that overrides dbt's": add(
        "macros/ref.sql", "{% macro ref() %}{{ return(builtins.ref(*varargs)) }}{% endmacro %}"
    ),
    "the package's instant": put(PACKAGE + "macros/as_of.sql", "return(value)", "return(value ~ '{0}')"),
    "a macro named as the package's": add(
        "macros/instant.sql", "{% macro instant_of_build() %}{{ run_started_at }} TOKEN{% endmacro %}"
    ),
    "a variable with Jinja": put("dbt_project.yml", "'!'", "\"{{{{ env_var('KEPT_SUFFIX', '') }}}} {0}\""),
    "a macro in a model's config": put("macros/text.sql", "'one'", "'one of {0}'"),
    "a macro that dbt's own calls": put("macros/text.sql", "trunc({{ datepart", "TRUNC{0}({{{{ datepart"),
    "a variable of the environment in YAML": set_variable("KEPT_TTL", "{0}d"),
    "one without a default, gone": unset_variable("KEPT_TTL"),
    "one in the YAML of a source": set_variable("KEPT_PLACE", "{0}"),
    "one in an owner": set_variable("KEPT_OWNER", "{0}"),
    "one in a service": set_variable("KEPT_SERVICE", "of {0}"),
    "one in dbt_project.yml": set_variable("KEPT_TAG", "tag{0}"),
    "one that a macro reads that dbt calls": set_variable("KEPT_SCHEMA", "s{0}"),
    "a schema": put("dbt_project.yml", "models: {tiny: {", "models: {{tiny: {{+schema: 's{0}', "),
}


def described(folder: Path, kept: Kept) -> Registry:
    """What the project says, and the problems where it says nothing."""
    settings = load_settings(project_dir=folder)
    with parsing(settings) as parsed:
        registry = load_registry(settings.project_dir, settings.target_path, parsed=parsed, kept=kept)
        registry = settle(None, registry, kept=kept)
        kept.write()
        return registry


@pytest.mark.heavy
@pytest.mark.parametrize("some", ["odd ones", "even ones", "any"])
def test_after_any_edits_what_is_kept_gives_what_nothing_kept_gives(
    some: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, folder = random.Random(1), write_project(tmp_path / "project", PROJECT)
    every = chance.sample([*EDITS.items()], k=len(EDITS))
    drawn = random.Random(2).choices(every, k=12)
    edits = {"odd ones": every[::2], "even ones": every[1::2], "any": drawn}[some]
    seen = set()
    for number, (name, edit) in enumerate([("nothing", lambda *_: None), *edits]):
        edit(folder, monkeypatch, str(10 + number))
        found = described(folder, Kept(folder / "target" / "checked" / "kept.json"))
        fresh = tmp_path / f"fresh{number}"
        shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns("target", "logs"))
        expected = described(fresh, Kept())
        assert msgspec.to_builtins(found) == msgspec.to_builtins(expected), name
        seen.add(digest(found.models))
    assert len(seen) > 4  # the edits are some


def start_check(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "feature_server", "check"]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, cwd=folder, env=environ, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def assert_as_anew(folder: Path, fresh: Path, why: object) -> None:
    found = described(folder, Kept(folder / "target" / "checked" / "kept.json"))
    shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns("target", "logs"))
    assert msgspec.to_builtins(found) == msgspec.to_builtins(described(fresh, Kept())), why
    shutil.rmtree(fresh)


@pytest.mark.heavy
def test_after_checks_that_were_killed_at_any_instant_the_next_is_as_if_nothing_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, folder = random.Random(3), write_project(tmp_path / "project", PROJECT)
    started = time.monotonic()
    with start_check(folder) as check:
        assert check.wait() == 0
    seconds = time.monotonic() - started
    for number in range(KILLS):
        name, edit = chance.choice([*EDITS.items()])
        edit(folder, monkeypatch, str(10 + number))
        after = chance.uniform(0.1, 1) * seconds
        with start_check(folder) as check:
            with suppress(subprocess.TimeoutExpired):
                check.wait(after)
            with suppress(ProcessLookupError):
                os.killpg(check.pid, signal.SIGKILL)
        if number % 2:  # back, so that what the killed one wrote is of another project
            edit(folder, monkeypatch, str(10 + number))
        assert_as_anew(folder, tmp_path / "fresh", (number, name, after))


@pytest.mark.heavy
def test_two_checks_at_once_and_one_after_dbt_clean_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_project(tmp_path / "project", PROJECT)
    with start_check(folder) as one, start_check(folder) as other:
        said = [check.communicate()[0] for check in (one, other)]
        assert (one.returncode, other.returncode, said[0]) == (0, 0, said[1])
    EDITS["a macro"](folder, monkeypatch, "11")
    shutil.rmtree(folder / "target")  # as `dbt clean` does
    assert_as_anew(folder, tmp_path / "fresh", "clean")
    monkeypatch.setenv("DBT_TARGET_PATH", "elsewhere")
    with start_check(folder) as check:
        assert check.communicate()[0] == said[0]
    assert (folder / "elsewhere" / "checked" / "kept.json").is_file()


def kept_texts(folder: Path) -> set[str]:
    """The models whose SQL is not compiled again where nothing changes."""
    with parsing(load_settings(project_dir=folder)):
        found = msgspec.json.decode((folder / "target" / "checked" / "kept_texts.json").read_bytes())
        return {name.rpartition(".")[2] for name in found["texts"]}


def test_a_model_that_reads_as_of_is_not_compiled_again_but_one_that_reads_the_clock_is(tmp_path: Path) -> None:
    folder = write_project(tmp_path, PROJECT)
    all_ = {"customer__country", "recent", "customer__payments", "stg_payments__transactions"}
    assert kept_texts(folder) == all_
    path = folder / PACKAGE / "macros" / "as_of.sql"
    path.write_text(path.read_text().replace("value == 'now'", "value in ('now', 'today')"))
    assert kept_texts(folder) == all_ - {"customer__country"}


def test_of_what_is_asked_again_nothing_is_made_anew(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return 42

    for _ in range(3):
        kept = Kept(tmp_path / "kept.json")
        assert kept.get(["a", {"x": 1, "y": 2}], int, make) == 42
        kept.write()
    assert len(made) == 1
    kept = Kept(tmp_path / "kept.json")
    assert kept.get(["a", {"y": 2, "x": 2}], int, make) == 42
    assert len(made) == 2
    (tmp_path / "kept.json").write_text("[]")
    assert Kept(tmp_path / "kept.json").get(["a", {"x": 1, "y": 2}], int, make) == 42
    assert len(made) == 3


def test_what_is_of_another_kind_or_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "kept.json")
    assert kept.get("a", int, lambda: 1) == 1
    kept.write()
    assert Kept(tmp_path / "kept.json").get("a", str, lambda: "2") == "2"
    monkeypatch.setattr("feature_server.kept.code", lambda: "another")
    assert Kept(tmp_path / "kept.json").get("a", int, lambda: 3) == 3


def test_nothing_is_kept_of_what_fails_and_what_was_kept_stays_a_while(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"

    def fail() -> int:
        raise ValueError("no")

    kept = Kept(path)
    kept.get("a", int, lambda: 1)
    kept.write()
    kept = Kept(path)
    with pytest.raises(ValueError, match="no"):
        kept.get("b", int, fail)
    kept.get("c", int, lambda: 3)
    kept.write()
    again = Kept(path)
    assert again.get("a", int, fail) == 1
    assert again.get("c", int, fail) == 3
