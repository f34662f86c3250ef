"""`features init` in a dbt project that there is: it writes what is missing, and nothing over what is there."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from feature_server.project.package import SHIPPED, package_version
from feature_server.project.process import dbt_command
from feature_server.scaffold.project import PACKAGE, TEST_ARGUMENTS, plan_edits
from feature_server.scaffold.vendored import package_edits
from tests.scaffold.shop import FILES, write_shop
from tests.support.tiny_project import features, write_project
from tests.support.typed import Typed

ROOT = Path(__file__).parents[2]
WRITTEN = (
    "packages.yml",
    "dags/feature_dags.py",
    "jinja/should_full_refresh.sql",
    "transform/groups.yml",
    f"{PACKAGE}/dbt_project.yml",
)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(write_shop(tmp_path), {}, monkeypatch, capsys)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "logs" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_project_gets_what_it_lacks_once(shop: Typed) -> None:
    code, said = shop.features("init")
    assert code == 0, said
    assert f"wrote {PACKAGE}/: the dbt package" in said
    assert all((shop.folder / path).is_file() for path in WRITTEN)
    for path, text in FILES.items():
        now = (shop.folder / path).read_text()
        missing = [line for line in text.splitlines() if line not in now and "dev: {type" not in line]
        assert missing == [], path  # comments and spaces too
    project = yaml.safe_load((shop.folder / "dbt_project.yml").read_text())
    assert project["vars"] == {"as_of": "now", "cents": 100}
    assert project["models"]["+pre-hook"] == "{{ feature_warehouse.before_model() }}"
    assert project["models"]["jaffle"]["+post-hook"] == ["select 1"]
    assert (TEST_ARGUMENTS in project["flags"]) == version("dbt-core").startswith("1.10.")
    before = contents(shop.folder)
    assert "nothing was missing" in shop.features("init")[1]
    assert contents(shop.folder) == before
    subprocess.run([*dbt_command(), "build", "--quiet"], check=True, capture_output=True)
    code, said = shop.features("check")
    assert (code, "features new view" in said) == (0, True), said


def test_a_dry_run_writes_nothing_and_shows_a_diff(shop: Typed) -> None:
    before = contents(shop.folder)
    code, said = shop.features("init", "--dry-run", "--target", "prod")
    assert code == 0, said
    assert contents(shop.folder) == before
    assert "--- /dev/null\n+++ b/packages.yml\n" in said
    assert '+  +pre-hook: "{{ feature_warehouse.before_model() }}"' in said
    assert "+    dev: {type: duckdb, path: data/jaffle.duckdb, threads: 2, settings: {TimeZone: UTC}}" in said


OWN = """\
name: jaffle
profile: jaffle
vars:
  jaffle: {as_of: "2024-01-01T00:00:00Z"}
models:
  pre-hook: "select 2"
  +post-hook:
    - "select 3"
seeds: {}
"""


def test_hooks_groups_packages_and_instants_that_are_there_stay(tmp_path: Path) -> None:
    write_project(tmp_path, {
        "dbt_project.yml": OWN,
        "packages.yml": "packages:\n- package: dbt-labs/dbt_utils  # ours\n  version: 1.3.0\n",
        "models/all.yml": "groups: [{name: ours, owner: {name: We}}]\n",
        "macros/full.sql": "{%- macro should_full_refresh() -%}{{ return(false) }}{%- endmacro -%}",
    })  # fmt: skip
    edits = {edit.path: edit.after for edit in plan_edits(tmp_path, upgrade=False).edits}
    assert {"macros/should_full_refresh.sql", "models/groups.yml"}.isdisjoint(edits)
    assert edits["packages.yml"] == (
        "packages:\n- package: dbt-labs/dbt_utils  # ours\n  version: 1.3.0\n- local: feature_warehouse\n"
    )
    project = yaml.safe_load(edits["dbt_project.yml"])
    assert project["vars"] == {"jaffle": {"as_of": "2024-01-01T00:00:00Z"}}
    assert project["models"] == {
        "pre-hook": ["select 2", "{{ feature_warehouse.before_model() }}"],
        "+post-hook": ["select 3", "{{ feature_warehouse.after_model() }}"],
    }
    assert project["seeds"] == {"+post-hook": "{{ feature_warehouse.after_seed() }}"}


def test_the_page_says_how_many_files_the_package_has(tmp_path: Path) -> None:
    files = list(package_edits(tmp_path, "the dbt package"))
    page = (ROOT / "docs" / "init.md").read_text()
    assert f"wrote {PACKAGE}/: the dbt package, version {package_version(SHIPPED)} ({len(files)} files)" in page


def test_what_dbt_makes_is_ignored_where_nothing_was(tmp_path: Path) -> None:
    write_project(tmp_path, {"dbt_project.yml": "name: jaffle\nprofile: jaffle\ntarget-path: build\n"})
    [edit] = [edit for edit in plan_edits(tmp_path, upgrade=False).edits if edit.path == ".gitignore"]
    assert edit.after == ".features/\ndbt_packages/\nbuild/\nlogs/\n"
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    [edit] = [edit for edit in plan_edits(tmp_path, upgrade=False).edits if edit.path == ".gitignore"]
    assert edit.after == "*.tmp\n.features/\ndbt_packages/\n"


def write_sums(folder: Path) -> None:
    """The checksums of another version, which has these files."""
    named = [line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    sums = [subprocess.check_output(["sha256sum", name], cwd=folder, text=True) for name in named]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_the_copy_of_the_package_is_replaced_when_that_is_asked_for(shop: Typed) -> None:
    shop.features("init")
    own, macro = shop.folder / PACKAGE / "dbt_project.yml", shop.folder / PACKAGE / "macros" / "as_of.sql"
    was = macro.read_text()
    own.write_text(own.read_text().replace('version: "', 'version: "0.0.'))
    macro.write_text("{% macro as_of() %}null{% endmacro %}")
    write_sums(shop.folder / PACKAGE)
    code, said = shop.features("init")
    assert (code, "`features init --upgrade`" in said, "nothing was missing" in said) == (0, True, False), said
    assert shop.features("check")[0] == 1
    code, said = shop.features("init", "--upgrade")
    assert (code, f"changed {PACKAGE}/: the dbt package" in said, "(3 files)" in said) == (0, True, True), said
    assert macro.read_text() == was
    assert shop.features("check")[0] == 0


def test_a_profile_elsewhere_is_left_to_its_owner(
    shop: Typed, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    profiles = shop.folder / "profiles.yml"
    (home / "profiles.yml").write_text(profiles.read_text())
    profiles.unlink()
    monkeypatch.setenv("DBT_PROFILES_DIR", str(home))
    code, said = shop.features("init")
    assert code == 0, said
    assert f"left to you: {home / 'profiles.yml'}: give target dev of jaffle `settings: {{TimeZone: UTC}}`" in said
    assert "TimeZone" not in (home / "profiles.yml").read_text()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no dbt project"),
        ({"dbt_project.yml": "name: [\n"}, "cannot be read, so nothing is written"),
        ({"dbt_project.yml": "name: a\n", "packages.yml": "- a\n- b\n"}, "no mapping of keys"),
        ({"dbt_project.yml": "name: a\n", "feature_warehouse/dbt_project.yml": "name: b\n"}, "is not the dbt package"),
    ],
)
def test_what_cannot_be_read_is_left_as_it_is(files: dict[str, str], words: str, tmp_path: Path) -> None:
    before = contents(write_project(tmp_path, files))
    run = features("init", cwd=tmp_path)
    assert (run.returncode, words in run.stderr, "Traceback" in run.stderr) == (1, True, False), run.stderr
    assert contents(tmp_path) == before


HOOKS = """\
name: jaffle\r
profile: jaffle\r
models:\r
    +post-hook: |\r
        select 2\r
        -- ours\r
    +pre-hook:\r
        sql: select 1  # one\r
        transaction: false\r
    jaffle:\r
        +materialized:   table   # as it is\r
"""


def test_lines_that_did_not_change_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_bytes(b"\xef\xbb\xbf" + HOOKS.encode())
    [edit] = [edit for edit in plan_edits(tmp_path, upgrade=False).edits if edit.path == "dbt_project.yml"]
    assert edit.after is not None
    assert edit.after.startswith("\ufeffname: jaffle\r\n")
    assert "        +materialized:   table   # as it is\r\n" in edit.after
    assert "\n" not in edit.after.replace("\r\n", "")
    models = yaml.safe_load(edit.after.removeprefix("\ufeff"))["models"]
    assert models["+post-hook"] == ["select 2\n-- ours\n", "{{ feature_warehouse.after_model() }}"]
    assert models["+pre-hook"] == [
        {"sql": "select 1", "transaction": False}, "{{ feature_warehouse.before_model() }}",
    ]  # fmt: skip


def test_rights_and_links_of_files_stay(shop: Typed, tmp_path_factory: pytest.TempPathFactory) -> None:
    profiles, shared = shop.folder / "profiles.yml", tmp_path_factory.mktemp("shared") / "dbt_project.yml"
    profiles.chmod(0o600)
    (shop.folder / "dbt_project.yml").rename(shared)
    (shop.folder / "dbt_project.yml").symlink_to(shared)
    assert shop.features("init")[0] == 0
    assert profiles.stat().st_mode & 0o777 == 0o600
    assert (shop.folder / "dbt_project.yml").is_symlink()
    assert "before_model" in shared.read_text()


def test_a_folder_of_the_name_that_is_something_else_stays(shop: Typed) -> None:
    (shop.folder / PACKAGE).mkdir()
    (shop.folder / PACKAGE / "README.md").write_text("mine")
    code, said = shop.features("init")
    assert (code, "is not the dbt package" in said) == (1, True), said
    assert (shop.folder / PACKAGE / "README.md").read_text() == "mine"
    assert not (shop.folder / "packages.yml").exists()


def test_a_package_that_is_named_by_git_is_not_named_twice(tmp_path: Path) -> None:
    packages = (
        "packages:\n  - {git: https://example.com/a.git, subdirectory: feature_server/dbt_package, revision: '1'}\n"
    )
    write_project(tmp_path, {"dbt_project.yml": "name: jaffle\nprofile: jaffle\n", "packages.yml": packages})
    paths = {edit.path for edit in plan_edits(tmp_path, upgrade=False).edits}
    assert "packages.yml" not in paths
    assert not any(path.startswith(PACKAGE) for path in paths)


@pytest.mark.parametrize(
    "name", ["Doe, Jane", "[bot] x", "A: B", "# x", "123", "null", "__email__", "O'Neil", 'say "hi"']
)
def test_whoever_works_here_is_named_as_git_has_it(shop: Typed, name: str) -> None:
    shop.patch.setenv("GIT_CONFIG_COUNT", "1")
    shop.patch.setenv("GIT_CONFIG_KEY_0", "user.name")
    shop.patch.setenv("GIT_CONFIG_VALUE_0", name)
    [edit] = [edit for edit in plan_edits(shop.folder, upgrade=False).edits if edit.path == "transform/groups.yml"]
    assert edit.after is not None
    assert yaml.safe_load(edit.after)["groups"][0]["owner"]["name"] == name


def test_json_says_what_was_written(shop: Typed) -> None:
    code, said = shop.features("init", "--json")
    assert code == 0, said
    assert "dbt_project.yml" in {edit["path"] for edit in json.loads(said)["edits"]}
