"""What dbt did last, by its run_results.json: relations that its last build wrote elsewhere are not read.

dbt names the database after its file, and says for each model what it wrote, but not where the file is. A file that was
last changed before the build began is not the one it wrote, unless nothing of the build need have written. Where that
leaves a doubt, dbt is asked; it takes seconds, so it is asked for nothing else but to say in an error what to set.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from ..definitions.facts import FeatureView
from ..durable import write_whole
from ..errors import FeatureStoreError, SettingsError, WarehouseError
from ..project.target import database_name
from ..settings import Settings, local_path, shown_place
from ..times import from_us, to_us
from ..warehouse.file import MISSING, name_parts
from .artifacts import read_artifact, read_manifest

if TYPE_CHECKING:
    from ..project.target import Target

_BUILDS_NOTHING = ("compile", "generate", "show", "test", "list", "freshness")
_RED = ("error", "fail", "skipped", "partial success", "runtime error")
_BUILT = ("model", "seed", "snapshot")
_PARTIAL = dict.fromkeys(("empty", "sample"), "rows are missing") | {"defer": "rows may be another environment's"}
_REWRITES = ("table", "view", "seed")  # materialized so, a node changes the file whatever its rows are


class _Timing(msgspec.Struct, frozen=True):
    started_at: datetime | None = None


class _Result(msgspec.Struct, frozen=True):
    unique_id: str
    status: str
    message: str | None = None
    relation_name: str | None = None
    compiled_code: str | None = None
    timing: tuple[_Timing, ...] = ()


class _Metadata(msgspec.Struct, frozen=True):
    invocation_id: str = ""


class LastRun(msgspec.Struct, frozen=True):
    """dbt's run_results.json: the command that dbt ran last, and what it made."""

    results: tuple[_Result, ...] = ()
    args: dict[str, Any] = {}
    metadata: _Metadata = _Metadata()

    @property
    def target(self) -> str | None:
        """The target if it was named; None for the profile's default."""
        return self.args.get("target")

    def built(self) -> dict[str, str]:
        """Unique id → relation of each model, seed and snapshot that it built."""
        if self.args.get("which") in _BUILDS_NOTHING:
            return {}
        return {
            result.unique_id: result.relation_name
            for result in self.results
            if result.relation_name and result.status == "success" and result.unique_id.partition(".")[0] in _BUILT
        }

    def compiled(self) -> dict[str, str]:
        """Unique id → SQL of each model that it built."""
        built = self.built()
        return {
            one.unique_id: one.compiled_code for one in self.results if one.compiled_code and one.unique_id in built
        }

    def as_of(self, project_dir: Path) -> str:
        """Its variable `as_of`, as it was given or is set in the project; empty where it is neither, or `now`."""
        path = project_dir / "dbt_project.yml"
        project = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        own = project.get("vars") or {}
        of_project = own.get(project.get("name"))
        ways = (self.args.get("vars"), of_project, own)
        said = next((str(way["as_of"]) for way in ways if isinstance(way, dict) and way.get("as_of")), "")
        return "" if said == "now" else said

    def failures(self) -> list[str]:
        """What failed in it, each with dbt's words."""
        bad = [result for result in self.results if result.status in _RED and result.status != "skipped"]
        return [f"{result.unique_id}: {' '.join((result.message or result.status).split())}" for result in bad]

    def began_us(self) -> int:
        """When the first thing that it made was begun."""
        begun = [timing.started_at for result in self.results for timing in result.timing if timing.started_at]
        return min(map(to_us, begun), default=0)

    def __str__(self) -> str:
        command = " ".join(["dbt", str(self.args.get("which")), *(["--target", self.target] if self.target else [])])
        return f"`{command}` of {_minute(self.began_us())}" if self.began_us() else f"`{command}`"


def read_last_run(target_path: Path) -> LastRun | None:
    """What dbt ran last in this target folder; None where it ran nothing."""
    return read_run(target_path / "run_results.json")


def read_run(path: Path) -> LastRun | None:
    """What dbt ran by its file of results; None where there is none."""
    return read_artifact(path, LastRun, "run `dbt build`")


def kept_run(target_path: Path, name: str) -> Path:
    """Where results of dbt are kept apart from those of other runs: of a DAG, or of `rebuild`."""
    return target_path / "runs" / f"{name}.json"


def keep_run(results: Path, kept: Path) -> None:
    """Put a copy of dbt's file of results there, whole at any time."""
    kept.parent.mkdir(exist_ok=True)
    write_whole(kept, lambda file: file.write(results.read_bytes()))


def build_failure(last: LastRun, unique_id: str, target_path: Path) -> str | None:
    """What dbt's last run says of a model that it did not make well: an error, a skip, or a test that failed."""
    if last.args.get("which") in set(_BUILDS_NOTHING) - {"test"}:
        return None
    said = {result.unique_id: result for result in last.results if result.status in _RED}
    if (own := said.get(unique_id)) is not None:
        if own.status == "skipped":
            return f"{last} skipped it, for a model or test upstream of it failed"
        return f"{last}: {' '.join((own.message or own.status).split())}"
    if not any(name.startswith("test.") for name in said):
        return None
    nodes = read_manifest(target_path).nodes
    tests = (nodes[name] for name in said if name in nodes and name.startswith("test."))
    failed = sorted(test.name for test in tests if unique_id in test.depends_on.nodes)
    return f"{last}: {', '.join(failed)} failed" if failed else None


def builds_by_definition(project: str, target_path: Path) -> bool:
    """Whether the project's own macros make a view anew whose definition is another: else `--full-refresh` has to."""
    return f"macro.{project}.should_full_refresh" in read_manifest(target_path).macros


def check_target(views: Sequence[FeatureView], settings: Settings) -> None:
    """WarehouseError if dbt's last build wrote a view's rows to another relation than the view is defined to have."""
    last = read_last_run(settings.target_path)
    built = {} if last is None else last.built()
    for view in views:
        if built.get(view.unique_id, view.relation) != view.relation:
            raise _elsewhere(
                "dbt's last build made this view elsewhere", settings, last, _ask(settings, last),
                where=view.id, expected=view.relation, got=f"{built[view.unique_id]}, by {last}",
            )  # fmt: skip
    if last is None or not last.target or not (settings.target_path / "manifest.json").is_file():
        return
    nodes = read_manifest(settings.target_path).nodes
    parsed = {name: node.relation_name for name, node in nodes.items() if node.relation_name}
    defined = {view.unique_id: view.relation for view in views}
    for name, found, expected in [
        *((name, parsed.get(name, relation), relation) for name, relation in defined.items()),
        *((name, relation, parsed.get(name, relation)) for name, relation in built.items()),
    ]:
        if found != expected:
            raise _elsewhere(
                "dbt's last run was for another target than is read", settings, last, _ask(settings, last),
                where=name, expected=expected, got=f"{found}, by {last}",
            )  # fmt: skip


def check_warehouse(views: Sequence[FeatureView], settings: Settings) -> None:
    """WarehouseError if `settings.warehouse` is not the file in which dbt's last build made the views' relations."""
    check_target(views, settings)
    _check_built_session(views, settings)
    last, path = read_last_run(settings.target_path), settings.warehouse
    attached = {name.lower(): file for name, file in settings.attached.items()}
    for view in views:
        database = ["", "", "", *name_parts(view)][-3]
        if (file := attached.get(database.lower())) is not None and not file.is_file():
            raise WarehouseError(
                "the DuckDB file that dbt's profile attaches for this view is not there",
                where=view.id, expected=f"the DuckDB file of database {database}", got=str(file),
                remedy="correct its path under `attach` in profiles.yml, or run `dbt build`",
            )  # fmt: skip
        if database and database.lower() not in {database_name(path).lower(), *attached}:
            raise _elsewhere(
                "dbt makes this view in another database than is read", settings, last, _ask(settings, last),
                where=f"{view.id} in {path}", expected=f"the DuckDB file of database {database}", got=path.name,
            )  # fmt: skip
    changed_us = _changed_us(path) and max(map(_changed_us, [path, *attached.values()]))
    if last is None or not any(view.unique_id for view in views):
        if not changed_us:
            raise WarehouseError(MISSING, where=str(path), remedy="run `dbt build` first")
        return
    for option, why in _PARTIAL.items():
        if last.args.get(option) and any(view.unique_id in last.built() for view in views):
            raise WarehouseError(
                f"dbt's last build was made with --{option}: {why}",
                where=str(path), got=str(last), remedy=f"run `dbt build` without --{option}",
            )  # fmt: skip
    if last.built() and changed_us >= last.began_us():
        return
    certain = not changed_us or _rewrote(settings.target_path, last)
    target = _ask(settings, last, or_none=certain)
    if certain or target is None or _file(settings, last, target) != path:
        what = "dbt's last run was on another warehouse" if changed_us else MISSING
        got = (
            f"{last}; this file was last changed {_minute(changed_us)}" if changed_us else f"no such file after {last}"
        )
        raise _elsewhere(what, settings, last, target, where=str(path), got=got)
    if last.target and not last.built() and (own := _ask(settings, None)) and own.schema != target.schema:
        raise _elsewhere(
            "dbt's last run was for another schema than is read", settings, last, target,
            where=str(path), expected=own.schema, got=f"{target.schema}, by {last}",
        )  # fmt: skip


def _check_built_session(views: Sequence[FeatureView], settings: Settings) -> None:
    """WarehouseError if dbt's last build was in a session by which the same SQL gives other values than in ours."""
    from .session import check_session

    last = read_last_run(settings.target_path)
    if last is not None and any(view.unique_id for view in views):
        check_session(settings, last.args)


def _changed_us(path: Path) -> int:
    """When a DuckDB file or its write-ahead log was last changed; 0 when there is no such file."""
    log = path.with_name(f"{path.name}.wal")
    files = [file for file in (path, log) if file.is_file()] if path.is_file() else []
    return max((file.stat().st_mtime_ns // 1000 for file in files), default=0)


def _rewrote(target_path: Path, last: LastRun) -> bool:
    """Whether something that was built changes its file even when no row differs."""
    built = last.built()
    if not built:
        return False
    nodes = read_manifest(target_path).nodes
    return any(nodes[name].config.get("materialized") in _REWRITES for name in built if name in nodes)


def _ask(settings: Settings, last: LastRun | None, *, or_none: bool = True) -> Target | None:
    """The target that dbt's last run was for, as its profile is written now; None where dbt cannot say."""
    from ..project.target import target_of
    from .parse import asked_of_run

    try:
        return target_of(settings.asked if last is None else asked_of_run(settings, last.args))
    except FeatureStoreError:
        if or_none:
            return None
        raise


def _file(settings: Settings, last: LastRun | None, target: Target) -> Path | None:
    """The DuckDB file of a target; None when it is none of this machine. dbt runs in the project's folder."""
    ran_in = settings.project_dir if last is None else last.args.get("project_dir") or settings.project_dir
    try:
        return (Path(ran_in) / local_path(target.path, where="path")).resolve() if target.path else None
    except SettingsError:
        return None


def _elsewhere(
    what: str,
    settings: Settings,
    last: LastRun | None,
    target: Target | None,
    **details: str,
) -> WarehouseError:
    """The error, with what to set so that the place that dbt built is read."""
    if target is None:
        remedy = "set FEATURES_WAREHOUSE to the `path` that the target built has in profiles.yml"
        return WarehouseError(what, remedy=remedy, **details)
    file, named = _file(settings, last, target), f"target {target.name} of profile {target.profile}"
    own = _ask(settings, None)
    options = [] if own and own.profile == target.profile else [f"--profile {target.profile}"]
    options += [] if own and own.name == target.name else [f"--target {target.name}"]
    meant = [f"give {' '.join(options)}, to `features apply` first"] if options else []
    if "warehouse" in settings.given and file != settings.warehouse:
        meant.append(f"set FEATURES_WAREHOUSE={file}")
    if file is None:
        place = shown_place(target.path or target.kind)
        remedy = f"{named} is {place!r}: give it a DuckDB file of this machine as its `path`"
    elif not meant:
        remedy = f"run `dbt build`: {named} is {file}"
    elif not file.exists():
        remedy = f"{named} is {file}, which is not there: give its `path` in full, then run `dbt build`"
    else:
        remedy = f"{', '.join(meant)}; or run `dbt build` for the target you mean"
    return WarehouseError(what, remedy=remedy, **details)


def _minute(us: int) -> str:
    return f"{from_us(us):%Y-%m-%d %H:%M:%S} UTC"
