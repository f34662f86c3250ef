"""A macro is edited and dbt built plainly: what it changed is not published, until it was undone and built anew."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from tests.dbt_project.conftest import STEPS
from tests.dbt_project.world import World, view_rows
from tests.support.example import INSTALLED, copy_example

pytestmark = pytest.mark.heavy
SELECTED = ("--select", "+merchant__risk", "+airport__weather")


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """The project in a folder of its own, built for the first step, applied and published."""
    root = tmp_path / "project"
    copy_example(root)
    copied = replace(world, root=root)
    copied.run(*SELECTED, as_of=STEPS[0])
    for arguments in (("apply",), ("publish", "merchant__risk", "airport__weather")):
        done = copied.features(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return copied


def changed_from(world: World, view: str) -> list[bool]:
    """Of each build of a view, whether it appended."""
    with world.connect() as connection:
        log = connection.sql(
            f"select changed_from is not null from feature_builds where model = '{view}' order by rowid"
        )
        return [appended for (appended,) in log.fetchall()]


def test_an_edited_macro_reaches_no_offline_table_and_is_built_anew_once_undone(copied: World, full: World) -> None:
    macro = copied.root / INSTALLED / "macros" / "window_ticks.sql"
    before = macro.read_text()
    window = "interval '{{ window }}'\n        and {{ events }}.occurred_at <="
    assert before.count(window) == 1
    macro.write_text(before.replace(window, f"interval '5 days' + {window}"))
    copied.run(*SELECTED, as_of=STEPS[1])
    refused = copied.features("publish", "merchant__risk", "airport__weather")
    assert refused.returncode == 3
    assert "published airport__weather version=1" in refused.stdout
    said = refused.stderr.splitlines()
    assert said[0] == (
        "failed merchant__risk: the view was built by other SQL than is in force, so it is not published"
    )
    assert "got: model.example.merchant__risk, with" in said[2]
    assert "INTERVAL '5' DAYS" in refused.stderr
    planned = copied.features("plan")
    assert "merchant__risk: package feature_warehouse: macro in_window" in planned.stdout, planned.stdout
    assert "airport__weather" not in planned.stdout

    macro.write_text(before)
    for step in (2, 3):
        copied.run(*SELECTED, as_of=STEPS[step])
    published = copied.features("publish", "merchant__risk", "airport__weather")
    assert published.returncode == 0, published.stderr
    assert changed_from(copied, "merchant__risk") == [False, True, False, True]
    assert changed_from(copied, "airport__weather") == [False, True, True, True]
    with copied.connect() as mended, full.connect() as rebuilt:
        assert view_rows(mended, "merchant__risk") == view_rows(rebuilt, "merchant__risk")


def test_a_new_meaning_is_built_whole_and_then_published(copied: World) -> None:
    model = next(copied.root.rglob("merchant__risk.sql"))
    text, counted = model.read_text(), "count(*) filter (where {}activity.is_fraud_report) as fraud_reports_30d"
    assert text.count(counted.format("")) == 1
    model.write_text(text.replace(counted.format(""), counted.format("not ")))
    assert copied.features("apply").returncode == 0
    early = copied.features("publish", "merchant__risk")
    assert (early.returncode, "built by other SQL" in early.stderr) == (3, True)
    for step in ("copy", "build", "put"):
        with duckdb.connect(str(copied.warehouse)) if step == "build" else nullcontext():  # as another build holds it
            done = copied.features("rebuild", "--step", step)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (
        f"put into the warehouse merchant__risk as_of={STEPS[0]}\npublish them: features publish merchant__risk\n"
    )
    assert copied.features("publish", "merchant__risk").returncode == 0
    copied.run(*SELECTED, as_of=STEPS[1])
    assert changed_from(copied, "merchant__risk") == [False, False, True]
    assert copied.features("publish", "merchant__risk").returncode == 0
    again = copied.features("rebuild", "merchant__risk")
    assert (again.returncode, "does not wait to be made anew" in again.stderr) == (1, True)


def test_a_build_that_is_not_whole_reaches_no_offline_table_whatever_is_built_after_it(
    copied: World, full: World
) -> None:
    profiles = copied.root / "profiles" / "profiles.yml"
    local = "      settings:\n        TimeZone: UTC\n"
    other = f"    other:\n      type: duckdb\n      path: {copied.warehouse}\n      schema: other\n{local}"
    profiles.write_text(profiles.read_text().replace("    # For sqlfluff", f"{other}    # For sqlfluff"))
    weather = "+airport__weather"
    copied.run("--target", "other", "--select", weather, as_of=STEPS[0])
    state = copied.home / "state"
    state.mkdir()
    shutil.copy(copied.home / "target" / "manifest.json", state)
    sources = copied.root / "models/staging/flights/_flights__sources.yml"
    named = "      - name: weather\n"
    assert sources.read_text().count(named) == 1
    sources.write_text(sources.read_text().replace(named, f"{named}        config: {{event_time: time_hour}}\n"))

    def published() -> str:
        return copied.features("publish", "airport__weather").stderr

    empty = ("--empty", "--select", weather)
    sample = ("--sample", "{'start': '2013-12-19', 'end': '2013-12-20'}", "--full-refresh", "--select", weather)
    defer = ("--defer", "--favor-state", "--state", str(state), "--select", "airport__weather")
    for options, step in ((empty, 1), (sample, 2), (defer, 2)):
        copied.run(*options, as_of=STEPS[step])
        if options is sample:
            with copied.connect() as sampled:
                assert 0 < len(view_rows(sampled, "airport__weather")) <= 3 * 25
        assert f"dbt's last build was made with {options[0]}" in published()
        copied.run("--select", "merchants", as_of=STEPS[step])  # so that dbt's own results do not tell it any more
        assert "failed airport__weather: the view was built by other SQL than is in force" in published()
    copied.run("--select", weather, as_of=STEPS[3])
    assert published() == ""
    with copied.connect() as mended, full.connect() as rebuilt:
        assert view_rows(mended, "airport__weather") == view_rows(rebuilt, "airport__weather")
