"""Environment → Settings. Nothing else in the package reads the environment."""

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .errors import NO_UTF8, SettingsError, shown
from .limits import Auditing, AuditLimits, HttpLimits, TrainLimits, read_limits
from .oidc import Oidc, oidc_of
from .times import to_us

if TYPE_CHECKING:
    from .project.target import Asked, Target

PROJECT_FILE, HOME = "dbt_project.yml", ".features"


class Settings(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Where things are. Each field is set by the environment variable named beside it.

    `project_dir` (FEATURES_PROJECT_DIR, default where dbt finds one: the current folder or the nearest above it that
    holds dbt_project.yml). `home` (FEATURES_HOME) holds what this product writes: the registry, the embedded Valkey's
    data and, unless FEATURES_OFFLINE says otherwise, the offline store; by default `.features` in the project for the
    target that the profile names, `.features/targets/<target>` for another one. `environ` are the variables all this
    is read from, dbt's own among them, `given` the places (FEATURES_TARGET_PATH, FEATURES_WAREHOUSE) that do not come
    from dbt. `redis_url` (FEATURES_REDIS_URL) is None for the embedded Valkey, `key` (FEATURES_KEY) the key of access
    that clients show feature servers. `clock` (FEATURES_CLOCK), an ISO time,
    stops the clock there: for examples, replays and tests. `allowed_hosts` (FEATURES_ALLOWED_HOSTS), separated by
    commas, are further names under which the feature server is asked, `http` (FEATURES_HEAD_BYTES and others) its
    limits, `train` (FEATURES_TRAIN_ROWS and others) those of training sets, `oidc` (FEATURES_OIDC_ISSUER and others)
    whose tokens it takes. `allow_eviction` (FEATURES_ALLOW_EVICTION, 1 or 0) has stream views kept in a Redis that may
    evict keys, `auto_apply` (FEATURES_AUTO_APPLY, 1 or 0) has Airflow's DAGs put the project's definitions in force
    themselves. `trusted_proxies` (FEATURES_TRUSTED_PROXIES), addresses or networks separated by commas, are believed
    who asks.
    """

    project_dir: Path
    home: Path
    offline: Path
    environ: dict[str, str]
    given: dict[str, Path]
    redis_url: str | None = None
    key: str | None = None
    clock: datetime | None = None
    allowed_hosts: tuple[str, ...] = ()
    allow_eviction: bool = False
    auto_apply: bool = False
    http: HttpLimits = HttpLimits()
    train: TrainLimits = TrainLimits()
    audit: Auditing = Auditing()
    trusted_proxies: tuple[str, ...] = ()
    oidc: Oidc | None = None

    def __repr__(self) -> str:
        hidden = {
            "redis_url": self.redis_url and "…",
            "key": self.key and "…",
            "environ": "…",
        }  # they may have passwords
        fields = msgspec.structs.asdict(self) | hidden
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    @property
    def asked(self) -> "Asked":
        """Which target of which project is meant, for dbt to say where that is."""
        return _asked(self.project_dir, self.environ)

    @cached_property
    def target(self) -> "Target | None":
        """Where dbt builds, by its own rules; None without a dbt project. Asks dbt unless it said so before."""
        from .project.target import target_of

        return target_of(self.asked) if (self.project_dir / PROJECT_FILE).is_file() else None

    @property
    def known_target(self) -> "Target | None":
        """The same as far as dbt said it before, without asking."""
        from .project.target import known_target

        return known_target(self.asked) if (self.project_dir / PROJECT_FILE).is_file() else None

    @cached_property
    def target_path(self) -> Path:
        """The folder of dbt's manifest.json and run_results.json: where dbt writes them, or FEATURES_TARGET_PATH."""
        if "target_path" in self.given:
            return self.given["target_path"]
        plain = _plain_target_path(self.environ, self.project_dir)
        text = self.target.target_path if plain is None and self.target is not None else plain or "target"
        return local_path((self.project_dir / local_path(text, where="target-path")).resolve(), where="target-path")

    @cached_property
    def warehouse(self) -> Path:
        """dbt's DuckDB file: the target's, or FEATURES_WAREHOUSE; SettingsError where it is none of this machine."""
        if "warehouse" in self.given:
            return self.given["warehouse"]
        target = self.target
        if target is None:
            return self.home / "warehouse.duckdb"
        named = f"target {target.name} of profile {target.profile}"
        if target.kind != "duckdb":
            raise SettingsError(
                "dbt builds in no DuckDB file", where=named, expected="type: duckdb", got=target.kind,
                remedy="name a target of type duckdb with --target or DBT_TARGET",
            )  # fmt: skip
        return local_path((self.project_dir / local_path(target.path, where=named)).resolve(), where=named)

    @cached_property
    def attached(self) -> dict[str, Path]:
        """The DuckDB files that the target attaches beside its own, by name: they may not be there yet."""
        from .project.process import profiles_dir

        profiles = profiles_dir(self.project_dir, self.environ) / "profiles.yml"
        if not profiles.is_file() or "attach" not in profiles.read_text(encoding="utf-8", errors="replace"):
            return {}  # so dbt need not be asked
        paths = {} if self.target is None else self.target.attached
        return {name: (self.project_dir / Path(path).expanduser()).resolve() for name, path in paths.items()}

    @property
    def registry_path(self) -> Path:
        return self.home / "registry.json"

    @property
    def keys_path(self) -> Path:
        """Keys of access, beside the registry: without what opens anything."""
        return self.home / "keys.json"

    @property
    def jobs_path(self) -> Path:
        """Training sets that feature servers make, until they are fetched."""
        return self.home / "training"

    @property
    def definitions_path(self) -> Path:
        """What builds tell the models' definitions by, beside the registry."""
        return self.home / "definitions.json"

    @property
    def schedule_path(self) -> Path:
        """What Airflow's DAGs are made of, beside the registry."""
        return self.home / "schedule.json"

    @property
    def index_path(self) -> Path:
        """Local indexes of offline tables: a cache, safe to delete."""
        return self.home / "index"

    @property
    def environment(self) -> dict[str, str]:
        """What gives another process, in whatever folder, these paths, this target and this clock."""
        return {
            "FEATURES_PROJECT_DIR": str(self.project_dir),
            "FEATURES_TARGET_PATH": str(self.target_path),
            "FEATURES_HOME": str(self.home),
            "FEATURES_WAREHOUSE": str(self.warehouse),
            "FEATURES_OFFLINE": str(self.offline),
            "FEATURES_CLOCK": "" if self.clock is None else self.clock.isoformat(),
        } | {f"DBT_{name}": value for name, value in self.asked.named.items() if name != "TARGET_PATH"}

    def now(self) -> datetime:
        """The present as this process sees it: UTC, aware; `clock` when that is set."""
        return self.clock if self.clock is not None else datetime.now(UTC)

    def now_us(self) -> int:
        return time.time_ns() // 1000 if self.clock is None else to_us(self.clock)


def parse_time(text: str, *, where: str) -> datetime:
    """An ISO 8601 time as aware UTC; a naive one is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SettingsError(
            "not a time", where=where, expected="ISO 8601, e.g. 2013-12-31T23:00:00Z", got=shown(text)
        ) from None


_FOLDER = re.compile(r"[\w-][\w .-]*")
_SCHEME = re.compile(r"[\s'\"]*([A-Za-z][A-Za-z0-9+.-]+:|:memory:)")
_SECRET = re.compile(r"(?<=://)[^@]*:.*@|(?<=\?).+|(?<=password=).+", re.DOTALL)
_TARGET_PATH = re.compile(r"^target-path:\s*(['\"]?)(.+?)\1\s*(#.*)?$", re.MULTILINE)


def local_path(text: str | Path, *, where: str) -> Path:
    """A path on this machine, `~` replaced; SettingsError for a URL, which as a path would name a folder `s3:`."""
    if _SCHEME.match(str(text)):
        raise SettingsError(
            "only files of this machine can be used here",
            where=where,
            expected="a path; ./ goes before a folder whose name holds a colon",
            got=shown_place(str(text)),
            remedy=f"set {where} to a local path" if where.isupper() else "give a local path",
        )
    if NO_UTF8.search(str(text)):
        raise SettingsError(
            "a path that is not UTF-8, as the names in it could not be written in files or answers",
            where=where, got=str(text), remedy="give the folder another name",
        )  # fmt: skip
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise SettingsError("no such home folder", where=where, got=str(text), remedy=str(error)) from None


def shown_place(text: str) -> str:
    """A path or URL without what opens it: a key and its secret, a token, a password."""
    return _SECRET.sub("…", text)


def _plain_target_path(env: Mapping[str, str], project_dir: Path) -> str | None:
    """Where dbt writes its artifacts, where that can be read without dbt; None where it is an expression."""
    from .project.process import said

    if given := said(env, "TARGET_PATH"):
        return given
    project = project_dir / PROJECT_FILE
    found = _TARGET_PATH.search(project.read_text(encoding="utf-8", errors="replace")) if project.is_file() else None
    return "target" if found is None else None if "{{" in found[2] else found[2]


def _project_dir(env: Mapping[str, str]) -> Path:
    """Where dbt looks for its project: the current folder, or the nearest above it that has one."""
    from .project.process import said

    if given := said(env, "PROJECT_DIR"):
        return Path(given)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / PROJECT_FILE).is_file()), here)


def _asked(project_dir: Path, environ: dict[str, str]) -> "Asked":
    from .project.target import Asked

    home = environ.get("FEATURES_HOME")
    return Asked(project_dir, environ, project_dir / (home or HOME))


def _home(project_dir: Path, environ: dict[str, str]) -> Path:
    """`.features` for the target that the project's files name, a folder of its own for each other one."""
    from .project.process import said
    from .project.target import target_of

    if not (said(environ, "TARGET") or said(environ, "PROFILE")) or not (project_dir / PROJECT_FILE).is_file():
        return Path(HOME)
    target = target_of(_asked(project_dir, environ))
    if target.is_default:
        return Path(HOME)
    if not _FOLDER.fullmatch(target.label):
        raise SettingsError(
            "a target's name that is none of a folder", where="the target's home", got=shown(target.label),
            expected="letters, digits, spaces, - _ and .", remedy="give it another name, or set FEATURES_HOME",
        )  # fmt: skip
    return Path(HOME, "targets", target.label)


def _flag(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name) or "0"
    if value not in ("0", "1"):
        raise SettingsError("neither yes nor no", where=name, expected="1 or 0", got=repr(value))
    return value == "1"


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Settings from the environment; keyword arguments that are not None win over it.

    Relative paths are relative to the project folder.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    env = dict(os.environ if environ is None else environ)
    env |= {f"FEATURES_{name.upper()}": str(value) for name, value in given.items() if isinstance(value, str | Path)}

    def path(name: str, default: Callable[[], str | Path], base: Path) -> Path:
        variable = f"FEATURES_{name.upper()}"
        value = env.get(variable) or default()
        return local_path((base / local_path(str(value), where=variable)).resolve(), where=variable)

    project_dir = path("project_dir", lambda: _project_dir(env), Path.cwd())
    if (project_dir / PROJECT_FILE).is_file():
        from .project.process import profiles_dir

        profiles_dir(project_dir, env)  # one that is named has to be there
    home = path("home", lambda: _home(project_dir, env), project_dir)
    clock = given.get("clock") or env.get("FEATURES_CLOCK") or None
    if isinstance(clock, str):
        clock = parse_time(clock, where="FEATURES_CLOCK")
    redis_url = given.get("redis_url") or env.get("FEATURES_REDIS_URL") or None
    return Settings(
        project_dir=project_dir,
        home=home,
        offline=path("offline", lambda: home / "offline", project_dir),
        environ=env,
        given={
            name: path(name, lambda: "", project_dir)
            for name in ("target_path", "warehouse")
            if env.get(f"FEATURES_{name.upper()}")
        },
        redis_url=redis_url,  # type: ignore[arg-type]
        key=env.get("FEATURES_KEY") or None,
        clock=clock,  # type: ignore[arg-type]
        allow_eviction=_flag(env, "FEATURES_ALLOW_EVICTION"),
        auto_apply=_flag(env, "FEATURES_AUTO_APPLY"),
        allowed_hosts=_listed(env, "FEATURES_ALLOWED_HOSTS"),
        http=read_limits(env, HttpLimits),
        train=read_limits(env, TrainLimits, "TRAIN_"),
        audit=_audit(env, path, project_dir),
        trusted_proxies=_listed(env, "FEATURES_TRUSTED_PROXIES"),
        oidc=oidc_of(env),
    )


def _listed(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, env.get(name, "").split(","))))


def _audit(env: Mapping[str, str], path: Callable[[str, Callable[[], str], Path], Path], base: Path) -> Auditing:
    """A file of that very name is `./stdout`."""
    to, keys = env.get("FEATURES_AUDIT") or "off", env.get("FEATURES_AUDIT_KEYS") or None
    return Auditing(
        to_stdout=to == "stdout", path=None if to in ("off", "stdout") else path("audit", str, base),
        keys=keys if not keys or keys.startswith("env:") else str(path("audit_keys", str, base)),
        strict=_flag(env, "FEATURES_AUDIT_STRICT"), files=read_limits(env, AuditLimits, "AUDIT_"),
    )  # fmt: skip
