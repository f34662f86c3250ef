"""What dbt says where it cannot begin or dies: its own words, and where they lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_server.dbt.parse import dbt_parse
from feature_server.errors import FeatureStoreError
from feature_server.project.process import own_words
from tests.support.tiny_project import DBT_PROJECT, FILES, write_project

DIED = """12:00:01  Running with dbt=1.11.0
12:00:02  Encountered an error:
Traceback (most recent call last):
  File "/lib/dbt/cli/requires.py", line 178, in wrapper
    result, success = func(*args, **kwargs)
                      ^^^^^^^^^^^^^^^^^^^^^
  File "/lib/dbt/adapters/duckdb.py", line 3, in open
    raise IOError("no")

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/lib/dbt/adapters/duckdb.py", line 9, in open
    connect(path)
    ~~~~~~~^^^^^^
dbt.adapters.exceptions.FailedToConnect: cannot open it
  because of that
"""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DBT_PROFILES_DIR", "DBT_TARGET", "DBT_LOG_PATH"):
        monkeypatch.delenv(name, raising=False)


def words(folder: Path, files: dict[str, str]) -> str:
    """What is told of a project that dbt cannot parse."""
    write_project(folder, files)
    with pytest.raises(FeatureStoreError, match="dbt cannot parse the project") as failed:
        dbt_parse(folder, folder / "target")
    return str(failed.value)


def test_a_project_that_dbt_cannot_begin_with_is_told_without_colours_or_a_clock(tmp_path: Path) -> None:
    told = words(tmp_path, FILES | {"dbt_project.yml": "name: [\n"})
    assert "  got: Runtime Error\n    Syntax error near line 2\n" in told
    assert told.endswith("line 2, column 1\n  remedy: correct the project until `dbt parse` succeeds")


@pytest.mark.parametrize("profile", [None, "other"])
def test_without_a_profile_it_is_told_where_one_is_read(tmp_path: Path, profile: str | None) -> None:
    files = {name: text for name, text in FILES.items() if profile or name != "profiles/profiles.yml"}
    told = words(tmp_path, files | {"dbt_project.yml": DBT_PROJECT.replace("profile: tiny", f"profile: {profile}")})
    assert "write the profile that dbt_project.yml names into profiles/profiles.yml, or set DBT_PROFILES_DIR" in told


def test_of_a_stack_trace_of_dbt_its_last_words_are_kept() -> None:
    assert own_words(DIED) == "dbt.adapters.exceptions.FailedToConnect: cannot open it\n    because of that"
