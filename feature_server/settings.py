"""Environment → Settings. Nothing else in the package reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .errors import SettingsError


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are. Each field is set by the environment variable named beside it.

    `project_dir` (FEATURES_PROJECT_DIR, default the current folder) holds dbt_project.yml, `target_path`
    (FEATURES_TARGET_PATH) dbt's manifest.json. `home` (FEATURES_HOME) holds what this product writes: the registry, the
    embedded Valkey's data and, unless FEATURES_OFFLINE says otherwise, the offline store. `warehouse`
    (FEATURES_WAREHOUSE) is dbt's DuckDB file. `redis_url` (FEATURES_REDIS_URL) is None for the embedded Valkey. `clock`
    (FEATURES_CLOCK), an ISO time, stops the clock there: for examples, replays and tests. `allowed_hosts`
    (FEATURES_ALLOWED_HOSTS), separated by commas, are further names under which the feature server is asked.
    """

    project_dir: Path
    target_path: Path
    home: Path
    warehouse: Path
    offline: Path
    redis_url: str | None = None
    clock: datetime | None = None
    allowed_hosts: tuple[str, ...] = ()

    @property
    def registry_path(self) -> Path:
        return self.home / "registry.json"

    @property
    def index_path(self) -> Path:
        """Local indexes of offline tables: a cache, safe to delete."""
        return self.home / "index"

    @property
    def environment(self) -> dict[str, str]:
        """What gives another process, in whatever folder, these paths and this clock."""
        return {
            "FEATURES_PROJECT_DIR": str(self.project_dir),
            "FEATURES_TARGET_PATH": str(self.target_path),
            "FEATURES_HOME": str(self.home),
            "FEATURES_WAREHOUSE": str(self.warehouse),
            "FEATURES_OFFLINE": str(self.offline),
            "FEATURES_CLOCK": "" if self.clock is None else self.clock.isoformat(),
        }

    def now(self) -> datetime:
        """The present as this process sees it: UTC, aware; `clock` when that is set."""
        return self.clock if self.clock is not None else datetime.now(UTC)

    def now_us(self) -> int:
        return to_us(self.now())


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exactly; a naive time is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def parse_time(text: str, *, where: str) -> datetime:
    """An ISO 8601 time as aware UTC; a naive one is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            "not a time", where=where, expected="ISO 8601, e.g. 2013-12-31T23:00:00Z", got=repr(text)
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings from the environment; keyword arguments that are not None win over it.

    Relative paths are relative to the project folder.
    """
    env = os.environ if environ is None else environ
    given = {name: value for name, value in overrides.items() if value is not None}

    def path(name: str, default: Path, base: Path) -> Path:
        value = given.get(name) or env.get(f"FEATURES_{name.upper()}") or default
        return (base / Path(str(value))).resolve()

    project_dir = path("project_dir", Path("."), Path.cwd())
    home = path("home", Path(".features"), project_dir)
    clock = given.get("clock") or env.get("FEATURES_CLOCK") or None
    if isinstance(clock, str):
        clock = parse_time(clock, where="FEATURES_CLOCK")
    redis_url = given.get("redis_url") or env.get("FEATURES_REDIS_URL") or None
    return Settings(
        project_dir=project_dir,
        target_path=path("target_path", Path("target"), project_dir),
        home=home,
        warehouse=path("warehouse", home / "warehouse.duckdb", project_dir),
        offline=path("offline", home / "offline", project_dir),
        redis_url=redis_url,  # type: ignore[arg-type]
        clock=clock,  # type: ignore[arg-type]
        allowed_hosts=tuple(filter(None, map(str.strip, env.get("FEATURES_ALLOWED_HOSTS", "").split(",")))),
    )
