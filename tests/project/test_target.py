"""Which target is meant is dbt's answer: kept in a small file for as long as nothing that it depends on changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feature_server.errors import FeatureStoreError, SettingsError
from feature_server.project import target as module
from feature_server.project.process import saying
from feature_server.project.target import FILE
from feature_server.settings import Settings, load_settings
from tests.support.tiny_project import write_project

FILES = {
    "dbt_project.yml": """
name: shop
version: "1.0"
profile: "{{ env_var('SHOP_PROFILE', 'shop') }}"
target-path: "built/{{ env_var('DBT_TARGET', 'dev') }}"
""",
    "profiles/profiles.yml": """
shop:
  target: "{{ env_var('SHOP_TARGET', 'dev') }}"
  outputs:
    dev:
      type: duckdb
      path: "{{ env_var('SHOP_DATA', 'data') }}/dev.duckdb"
      attach:
        - {path: data/marts.duckdb, alias: marts}
        - {path: "data/plain.duckdb"}
        - {path: "dbname=shop password=hush", type: postgres, alias: sales}
      settings: {TimeZone: UTC, s3_secret_access_key: hush}
    prod: {type: duckdb, path: "prod.duckdb?token=hush", schema: marts}
    away: {type: duckdb, path: "md:shop?motherduck_token=hush"}
other:
  target: prod
  outputs:
    prod: {type: duckdb, path: other.duckdb}
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("shop"), FILES)


def settings_in(project: Path, **environ: str) -> Settings:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("DBT_", "FEATURES_", "SHOP_"))}
    return load_settings(base | environ, project_dir=project)


def test_the_profiles_own_target_has_the_home_of_the_project(project: Path) -> None:
    found = settings_in(project)
    assert found.warehouse == project / "data" / "dev.duckdb"
    assert found.target_path == project / "built" / "dev"
    assert (found.home, found.offline) == (project / ".features", project / ".features" / "offline")
    assert found.attached == {"marts": project / "data/marts.duckdb", "plain": project / "data/plain.duckdb"}
    assert found.target is not None
    assert (found.target.project, found.target.name, found.target.default) == ("shop", "dev", "dev")
    assert settings_in(project, DBT_TARGET="dev").home == project / ".features"


@pytest.mark.heavy
def test_another_target_has_a_home_of_its_own(project: Path) -> None:
    for variables in ({"DBT_TARGET": "prod"}, {"DBT_ENGINE_TARGET": "prod", "DBT_TARGET": "dev"}):
        found = settings_in(project, **variables)
        assert found.home == project / ".features" / "targets" / "prod"
        assert found.warehouse == project / "prod.duckdb"
        assert found.target is not None
        assert found.target.schema == "marts"
    other = settings_in(project, SHOP_PROFILE="other", DBT_TARGET="prod")
    assert (other.home, other.warehouse) == (project / ".features", project / "other.duckdb")
    other = settings_in(project, DBT_PROFILE="other")  # a target of the same name may be in both profiles
    assert (other.home, other.warehouse) == (project / ".features/targets/other.prod", project / "other.duckdb")


@pytest.mark.heavy
def test_the_profiles_own_target_is_the_one_without_dbts_variable(tmp_path: Path) -> None:
    project = write_project(tmp_path, FILES | {
        "profiles/profiles.yml": FILES["profiles/profiles.yml"].replace("SHOP_TARGET", "DBT_TARGET")
    })  # fmt: skip
    homes = {name: settings_in(project, DBT_TARGET=name).home for name in ("dev", "prod")}
    assert homes == {"dev": project / ".features", "prod": project / ".features" / "targets" / "prod"}


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["../..", "a/b"])
def test_a_target_whose_name_is_none_of_a_folder_has_no_home(tmp_path: Path, name: str) -> None:
    prod = '    prod: {type: duckdb, path: "prod'
    profiles = FILES["profiles/profiles.yml"].replace(prod, prod.replace("prod:", f'"{name}":'))
    project = write_project(tmp_path, FILES | {"profiles/profiles.yml": profiles})
    with pytest.raises(SettingsError, match="a target's name that is none of a folder"):
        settings_in(project, DBT_TARGET=name)


def test_dbt_is_asked_again_only_where_its_answer_may_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, FILES)
    assert settings_in(project).known_target is None
    assert settings_in(project).target is not None
    monkeypatch.setattr(module, "run_module", None)  # dbt can no longer be asked
    assert settings_in(project, SOMETHING="else").warehouse == project / "data" / "dev.duckdb"
    for changed in ({"SHOP_DATA": "elsewhere"}, {"SHOP_TARGET": "prod"}):
        assert settings_in(project, **changed).known_target is None
    for name in FILES:
        before = (project / name).read_text()
        (project / name).write_text(f"{before}# changed\n")
        assert settings_in(project).known_target is None
        (project / name).write_text(before)
    assert settings_in(project).known_target is not None
    (project / ".features" / FILE).write_text("{")
    assert settings_in(project).known_target is None


@pytest.mark.heavy
def test_what_is_kept_holds_no_password(project: Path) -> None:
    for target in ("dev", "prod", "away"):
        assert settings_in(project, DBT_TARGET=target, DBT_ENV_SECRET_X="hush").target is not None
    kept = (project / ".features" / FILE).read_text()
    assert "hush" not in kept
    assert '"TimeZone":"UTC"' in kept
    with pytest.raises(SettingsError, match="only files of this machine can be used here"):
        _ = settings_in(project, DBT_TARGET="away", DBT_ENV_SECRET_X="hush").warehouse


@pytest.mark.heavy
def test_what_dbt_refuses_is_told_in_its_words(project: Path) -> None:
    with pytest.raises(FeatureStoreError, match="does not have a target named 'nosuch'") as raised:
        _ = settings_in(project, DBT_TARGET="nosuch")
    assert raised.value.what == "dbt cannot say where it builds"
    assert raised.value.remedy == "name one of these with --target or DBT_TARGET"
    with pytest.raises(FeatureStoreError, match="Could not find profile named 'nosuch'") as raised:
        _ = settings_in(project, DBT_PROFILE="nosuch").warehouse
    assert str(raised.value.remedy).startswith("write the profile that dbt_project.yml names")
    with pytest.raises(SettingsError, match="folder of dbt's profiles does not exist"):
        settings_in(project, DBT_PROFILES_DIR="nowhere", FEATURES_HOME="home")


def test_variables_of_dbt_are_said_by_their_newer_names_too() -> None:
    given = {"DBT_ENGINE_TARGET": "prod", "DBT_TARGET": "dev", "DBT_PROFILE": "shop", "PATH": "/bin"}
    assert saying(given, target="test") == {"DBT_TARGET": "test", "DBT_PROFILE": "shop", "PATH": "/bin"}
    assert saying(given, target=None, profile=None) == {"PATH": "/bin"}
