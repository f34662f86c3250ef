"""What `features init` takes from dbt's own reading of a project: expressions, hooks, folders, the profile meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from feature_server.project.package import package_version
from feature_server.scaffold.project import PACKAGE, Planned, plan_edits
from feature_server.scaffold.vendored import SUMS
from tests.scaffold.shop import write_shop
from tests.support.tiny_project import features, write_project
from tests.support.typed import Typed

BEGUN = 'name: jaffle\nversion: "1.0"\nprofile: jaffle\n'
PROFILE = "{type: duckdb, path: own.duckdb}"
PROFILES = f"jaffle:\n  target: dev\n  outputs:\n    dev: {PROFILE}\nother:\n  outputs:\n    default: {PROFILE}\n"


def planned(folder: Path, project: str, files: dict[str, str] | None = None) -> Planned:
    write_project(folder, {"dbt_project.yml": project, "profiles.yml": PROFILES} | (files or {}))
    return plan_edits(folder, upgrade=False)


def after(plan: Planned, path: str) -> dict[str, object]:
    [text] = [edit.after for edit in plan.edits if edit.path == path]
    assert text is not None
    return dict(yaml.safe_load(text))


HOOKS = """\
vars: {jaffle: {as_of: now}}
models:
  jaffle:
    +pre-hook: "{{feature_warehouse.before_model( )}}"  # of this project's models alone
    features:
      post_hook: [select 1, {sql: "{{ feature_warehouse.after_model() }}"}]
seeds:
  +post-hook: "{# {{ feature_warehouse.after_seed() }} #} select 2"
"""


def test_hooks_are_known_wherever_they_stand_and_in_comments_they_are_none(tmp_path: Path) -> None:
    plan = planned(tmp_path, BEGUN + HOOKS)
    project = after(plan, "dbt_project.yml")
    assert project["models"] == yaml.safe_load(HOOKS)["models"]
    assert project["vars"] == {"jaffle": {"as_of": "now"}}
    assert project["seeds"] == {
        "+post-hook": [yaml.safe_load(HOOKS)["seeds"]["+post-hook"], "{{ feature_warehouse.after_seed() }}"]
    }
    assert [line for line in plan.left if "models.jaffle.features alone" in line]


def test_the_profile_is_the_one_that_dbt_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = BEGUN.replace("profile: jaffle", "profile: \"{{ env_var('SHOP_PROFILE', 'other') }}\"")
    zone = {"type": "duckdb", "path": "own.duckdb", "settings": {"TimeZone": "UTC"}}
    profiles = after(planned(tmp_path, project), "profiles.yml")
    assert profiles == yaml.safe_load(PROFILES) | {"other": {"outputs": {"default": zone}}}
    monkeypatch.setenv("DBT_PROFILE", "jaffle")
    profiles = after(planned(tmp_path, project), "profiles.yml")
    assert profiles["jaffle"] == {"target": "dev", "outputs": {"dev": zone}}
    monkeypatch.setenv("DBT_PROFILE", "nobody")
    left = planned(tmp_path, project).left
    assert [line for line in left if "Could not find profile named 'nobody'" in line]


def test_outputs_are_rendered_and_what_is_merged_into_others_is_written_once(tmp_path: Path) -> None:
    profiles = (
        "jaffle:\n  target: dev\n  outputs:\n"
        "    dev: &dev\n      type: \"{{ env_var('SHOP_KIND', 'duckdb') }}\"\n      path: own.duckdb\n"
        "    prod:\n      <<: *dev\n      path: prod.duckdb\n"
        "    away: {type: \"{{ env_var('SHOP_AWAY') }}\", path: away.duckdb}\n"
        "    zoned: {type: duckdb, path: z.duckdb, config_options: {timezone: UTC}}\n"
    )
    outputs = after(planned(tmp_path, BEGUN, {"profiles.yml": profiles}), "profiles.yml")["jaffle"]["outputs"]
    assert outputs["dev"]["settings"] == outputs["prod"]["settings"] == {"TimeZone": "UTC"}
    assert ("settings" in outputs["away"], "settings" in outputs["zoned"]) == (False, False)


def test_folders_outside_the_project_are_left_to_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "dbt"
    project = BEGUN + f'model-paths: ["../models"]\nmacro-paths: ["{tmp_path}/macros", "{folder}/jinja"]\n'
    plan = planned(folder, project)
    paths = {edit.path for edit in plan.edits}
    assert "jinja/should_full_refresh.sql" in paths
    assert not any("groups" in path or path.startswith("..") for path in paths)
    [left] = plan.left
    assert left.startswith(f"{folder}/../models/groups.yml, outside the project")
    assert "groups:\n  - name: jaffle\n" in left
    write_project(tmp_path, {"models/groups.yml": "groups: [{name: ours, owner: {name: We}}]"})
    assert planned(folder, project).left == ()


@pytest.mark.parametrize(
    ("project", "files", "words"),
    [
        ("model-paths: transform\n", {}, "at path ['model-paths']: 'transform' is not valid"),
        ("vars: as_of\n", {}, "at path ['vars']: 'as_of' is not valid"),
        ("models: [a]\n", {}, "at path ['models']: ['a'] is not of type 'object'"),
        ("", {"packages.yml": "packages: dbt_utils\n"}, "the project's packages cannot be read"),
        ("", {"packages.yml": "packages: [dbt_utils]\n"}, "the project's packages cannot be read"),
        ("", {"packages.yml": "packages:\n"}, "the project's packages cannot be read"),
        ("name: twice\n", {}, "a key stands twice"),
    ],
)
def test_what_dbt_does_not_take_is_said_and_nothing_is_written(
    tmp_path: Path, project: str, files: dict[str, str], words: str
) -> None:
    write_project(tmp_path, {"dbt_project.yml": BEGUN + project, "profiles.yml": PROFILES} | files)
    before = sorted(tmp_path.rglob("*"))
    for command in ("init", "check") if "twice" not in project else ("init",):
        run = features(command, cwd=tmp_path)
        assert (run.returncode, words in run.stderr, "Traceback" in run.stderr) == (1, True, False), run.stderr
        if command == "init":
            assert sorted(tmp_path.rglob("*")) == before


ODD = {
    "dags/old.py": "# café: feature_server.airflow is for later\n",
    "macros/old.sql": "{# {% macro should_full_refresh() %}{% endmacro %} #}\n",
    "packages.yml": "",
    "dependencies.yml": "projects: []\npackages:\n- package: dbt-labs/dbt_utils  # ours\n  version: 1.3.0\n",
    ".gitignore": "# dbt_packages/\n/.features\n",
}


def test_what_stands_in_comments_is_not_there_and_other_encodings_are_read(tmp_path: Path) -> None:
    write_project(
        tmp_path, {"dbt_project.yml": BEGUN + "models:\t# ours\n  +enabled: true\n", "profiles.yml": PROFILES}
    )
    write_project(tmp_path, ODD)
    (tmp_path / "dags" / "old.py").write_bytes(f"# coding: latin-1\n{ODD['dags/old.py']}".encode("latin-1"))
    plan = plan_edits(tmp_path, upgrade=False)
    edits = {edit.path: edit.after or "" for edit in plan.edits}
    assert {"dags/feature_dags.py", "macros/should_full_refresh.sql"} <= edits.keys()
    assert "packages.yml" not in edits
    assert edits["dependencies.yml"] == ODD["dependencies.yml"] + f"- local: {PACKAGE}\n"
    assert edits[".gitignore"] == ODD[".gitignore"] + "dbt_packages/\n"
    assert "models:\t# ours\n" in edits["dbt_project.yml"]
    (tmp_path / "dags" / "old.py").write_bytes(
        "# coding: latin-1\n# é\nfrom feature_server import airflow".encode("latin-1")
    )
    assert "dags/feature_dags.py" not in {edit.path for edit in plan_edits(tmp_path, upgrade=False).edits}


def test_a_file_of_our_name_that_holds_something_else_is_told(tmp_path: Path) -> None:
    names = ("models/groups.yml", "macros/should_full_refresh.sql", "dags/feature_dags.py")
    plan = planned(tmp_path, BEGUN, dict.fromkeys(names, ""))
    assert [line.partition(" is there, and lacks this")[0] for line in plan.left] == [names[1], names[2], names[0]]
    assert {edit.path for edit in plan.edits}.isdisjoint(names)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(write_shop(tmp_path), {}, monkeypatch, capsys)


def test_an_upgrade_loses_nothing_that_somebody_wrote_in_the_package(shop: Typed) -> None:
    assert shop.features("init")[0] == 0
    macro = shop.folder / PACKAGE / "macros" / "as_of.sql"
    macro.write_bytes(macro.read_bytes().replace(b"\n", b"\r\n"))  # git's doing
    code, said = shop.features("init", "--upgrade", "--json")
    assert (code, json.loads(said)["edits"]) == (0, []), said
    macro.write_text(macro.read_text() + "-- mine\n")
    (shop.folder / PACKAGE / "macros" / "mine.sql").write_text("-- mine\n")
    code, said = shop.features("init", "--upgrade")
    assert (code, "changed by hand, so nothing is written" in said) == (1, True), said
    assert "got: macros/as_of.sql, macros/mine.sql" in said
    assert macro.read_text().endswith("-- mine\n")
    assert shop.features("init")[0] == 0  # that leaves the copy as it is


def test_a_later_package_is_not_replaced_by_an_earlier_one(shop: Typed) -> None:
    assert shop.features("init")[0] == 0
    own = shop.folder / PACKAGE / "dbt_project.yml"
    own.write_text(own.read_text().replace('\nversion: "0.', '\nversion: "99.'))
    later = f"install version {package_version(own.parent)} of this program"
    assert "99." in later
    code, said = shop.features("init", "--upgrade")
    assert (code, "is of a later version than this program" in said, later in said) == (1, True, True), said
    code, said = shop.features("check")
    assert (code, "is of another version than this program" in said, later in said) == (1, True, True), said
    assert (shop.folder / PACKAGE / SUMS).is_file()
