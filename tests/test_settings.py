"""Where things are: what the environment says, and places that are not on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from feature_server.cli.main import main
from feature_server.definitions.stream import EventSource
from feature_server.errors import OnlineStoreError, SettingsError
from feature_server.history.log import landing_folder
from feature_server.limits import HttpLimits
from feature_server.oidc import Oidc
from feature_server.online.address import parse_redis_url
from feature_server.online.embedded import connect
from feature_server.settings import load_settings
from feature_server.training.spine import parquet_spine

PLACES = ("PROJECT_DIR", "TARGET_PATH", "HOME", "WAREHOUSE", "OFFLINE")
ELSEWHERE = (
    "s3://bucket/features", "gs://bucket/x", "az://x", "abfss://x@y/z", "hdfs://h/x", "file:///srv/x", "md:shop",
    "motherduck:shop", "postgres:dbname=shop", "ducklake:x.ducklake", ":memory:",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_place_that_is_not_on_this_machine_is_refused_by_name(place: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"FEATURES_PROJECT_DIR": str(tmp_path), f"FEATURES_{place}": url})
    error = raised.value
    assert (error.where, error.got, error.remedy) == (
        f"FEATURES_{place}", url, f"set FEATURES_{place} to a local path",
    )  # fmt: skip


def test_a_folder_with_a_colon_and_a_home_folder_are_paths(tmp_path: Path) -> None:
    env = {"FEATURES_PROJECT_DIR": str(tmp_path), "FEATURES_OFFLINE": "./2013:2014", "FEATURES_HOME": "~/features"}
    settings = load_settings(env | {"FEATURES_WAREHOUSE": "/srv/a:b.duckdb"})
    assert settings.offline == tmp_path / "2013:2014"
    assert settings.home == Path.home() / "features"
    assert settings.warehouse == Path("/srv/a:b.duckdb")


def test_dbts_artifacts_are_read_where_dbt_writes_them(tmp_path: Path) -> None:
    def target_path(**environ: str) -> Path:
        return load_settings(environ, project_dir=tmp_path).target_path

    assert target_path() == tmp_path / "target"
    project = tmp_path / "dbt_project.yml"
    project.write_text("name: shop\ntarget-path: 'built'  # not target\nclean-targets: [target]\n")
    assert target_path() == tmp_path / "built"
    assert target_path(DBT_TARGET_PATH="/srv/built") == Path("/srv/built")
    project.write_text("target-path: \"{{ env_var('WHERE') }}\"\n")
    assert target_path(FEATURES_TARGET_PATH="there") == tmp_path / "there"
    assert target_path(DBT_TARGET_PATH="old", DBT_ENGINE_TARGET_PATH="new") == tmp_path / "new"


def test_every_command_that_writes_refuses_a_place_elsewhere_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written = [
        ["train", "fraud_v1", "--spine", "spine.parquet", "--out", "s3://bucket/train.parquet"],
        ["reproduce", "s3://bucket/train.parquet", "--out", "again.parquet"],
        ["docs", "--out", "s3://bucket/index.html", "--no-build"],
    ]
    for arguments in written:
        monkeypatch.setattr(sys, "argv", ["features", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr().err
        assert (exit_.value.code, "only files of this machine can be used here" in said) == (1, True), said
    assert list(tmp_path.iterdir()) == []


def test_a_spine_elsewhere_is_refused() -> None:
    with pytest.raises(SettingsError, match="only files of this machine"):
        parquet_spine("s3://bucket/spine.parquet")


def test_live_events_do_not_land_in_a_folder_named_like_a_bucket(tmp_path: Path) -> None:
    source = EventSource(
        name="shop.orders", columns=(), event_id="id", event_timestamp="at", path="models/sources.yml",
        relation="read_parquet('s3://bucket/orders/*.parquet')",
    )  # fmt: skip
    with pytest.raises(SettingsError, match="only files of this machine") as raised:
        landing_folder(source, tmp_path)
    assert raised.value.where == "models/sources.yml"


def test_a_folder_below_the_project_is_in_the_project_as_it_is_for_dbt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\n")
    below = tmp_path / "models" / "orders"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load_settings({}).project_dir == tmp_path
    assert load_settings({}).home == tmp_path / ".features"
    assert load_settings({"DBT_PROJECT_DIR": "orders"}).project_dir == below / "orders"
    assert load_settings({"DBT_ENGINE_PROJECT_DIR": "shop", "DBT_PROJECT_DIR": "old"}).project_dir == below / "shop"
    with pytest.raises(OnlineStoreError) as raised, connect(load_settings({"FEATURES_PROJECT_DIR": "nowhere"})):
        pass
    assert raised.value.remedy is not None
    assert f"FEATURES_PROJECT_DIR={tmp_path}" in raised.value.remedy
    assert list(below.iterdir()) == []


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_clock_outside_the_years_1_to_9999_in_utc_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FEATURES_CLOCK: not a time"):
        load_settings({"FEATURES_CLOCK": text})


@pytest.mark.parametrize("text", [" s3://bucket/x", "'md:shop'", '"s3://bucket/x"'])
def test_a_place_elsewhere_within_blanks_or_quotes_is_no_folder(text: str) -> None:
    with pytest.raises(SettingsError, match="only files of this machine"):
        load_settings({"FEATURES_OFFLINE": text})


@pytest.mark.parametrize("url", ["redis://h/²", "redis://h?db=²", "redis://..:1", f"redis://{'h' * 64}:1"])
def test_a_redis_url_without_a_host_or_a_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="not a Redis URL"):
        parse_redis_url(url)


def test_the_limits_of_http_are_numbers_within_reason() -> None:
    assert load_settings({}).http == HttpLimits(
        head_bytes=65_536, head_seconds=10, body_seconds=60, answer_seconds=60, idle_seconds=75
    )
    given = {"FEATURES_HEAD_BYTES": "8192", "FEATURES_BODY_SECONDS": "0.5", "FEATURES_HEAD_SECONDS": ""}
    assert load_settings(given).http == HttpLimits(head_bytes=8192, body_seconds=0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [("HEAD_BYTES", "4095"), ("HEAD_BYTES", "64k"), ("HEAD_SECONDS", "0"), ("BODY_SECONDS", "nan"),
     ("ANSWER_SECONDS", "inf"), ("ANSWER_SECONDS", "-1"), ("BODY_SECONDS", "10 s")],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match="not a limit") as raised:
        load_settings({f"FEATURES_{name}": text})
    error = raised.value
    assert (error.where, error.got) == (f"FEATURES_{name}", repr(text))
    assert error.expected is not None


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_whose_name_is_not_utf8_is_refused_in_words_that_can_be_written(place: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"FEATURES_PROJECT_DIR": str(tmp_path), f"FEATURES_{place}": "/data/caf\udce9"})
    assert f"FEATURES_{place}: a path that is not UTF-8" in str(raised.value)
    assert "got: /data/caf\\udce9" in str(raised.value).encode().decode()


def test_an_issuer_of_tokens() -> None:
    given = {"FEATURES_OIDC_ISSUER": "https://login.example/realms/shop", "FEATURES_OIDC_AUDIENCE": "features"}
    assert load_settings({}).oidc is None
    assert load_settings(given).oidc == Oidc(issuer="https://login.example/realms/shop", audience="features")
    more = {"FEATURES_OIDC_GROUPS": "roles", "FEATURES_OIDC_JWKS_URL": "http://127.0.0.1:8080/keys"}
    oidc = load_settings(given | more).oidc
    assert oidc is not None
    assert (oidc.groups, oidc.jwks_url) == ("roles", "http://127.0.0.1:8080/keys")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AUDIENCE", ""),
        ("ISSUER", ""),
        ("ISSUER", "http://login.example"),
        ("ISSUER", "login.example"),
        ("JWKS_URL", "http://127.0.0.1.evil.example/keys"),
        ("JWKS_URL", "http://localhost@evil.example/keys"),
        ("JWKS_URL", "file:///etc/keys"),
    ],
)
def test_an_issuer_whose_keys_could_be_anybodys_is_refused(name: str, text: str) -> None:
    given = {"FEATURES_OIDC_ISSUER": "https://login.example", "FEATURES_OIDC_AUDIENCE": "features"}
    with pytest.raises(SettingsError) as error:
        load_settings(given | {f"FEATURES_OIDC_{name}": text})
    assert error.value.where == f"FEATURES_OIDC_{name}"
