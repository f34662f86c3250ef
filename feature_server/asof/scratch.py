"""Whole builds as of several instants, in DuckDB files of a scratch folder, by a process that runs dbt (`scratching`).

A build as of T has only the source rows that had landed by T, the variable `as_of`, and a clock that stands at T. It
reads and writes nothing outside the folder but seeds: neither warehouse nor target folder nor exported files change.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..dbt.parse import PARSE_FAILURE
from ..errors import SettingsError, WarehouseError
from ..project.process import failed, run_dbt, run_module
from ..settings import Settings
from ..times import from_us

INPUTS = "features_inputs"  # the schema, in the scratch warehouse, of the sources' rows
LANDED = "__features_landed"  # in it, when a row landed
SUCCESS = "success"
_REMEDY = "correct the project until `dbt build` succeeds"


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A build as of an instant, of the rows that had landed by it; `backwards` gives dbt the rows in reverse order.

    Of sources that are a stream's, of the rows that had landed by `events_by_us`. `models` are unique ids, built with
    all upstream of them.
    """

    name: str
    as_of_us: int
    events_by_us: int
    backwards: bool = False
    models: tuple[str, ...] = ()


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """The instants that are asked for: `first` of each pair, or how many `pairs` are to be chosen, and the later one.

    `later_us` None is the newest landing of any row.
    """

    first_us: tuple[int, ...] = ()
    later_us: int | None = None
    pairs: int = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built: `sources` by unique id, each with a SQL expression of when a row landed, or None:
    there the column `landed` says so, in a source that has one. `variables` are dbt's, beside `as_of`.

    `models` are unique ids; those in `replayed` are built once more, as of the later instant, with those
    rows of `events`, which are sources, that had landed by the first.
    """

    arguments: list[str]
    environ: dict[str, str]
    folder: str
    sources: dict[str, str | None]
    landed: str | None = None
    variables: dict[str, Any] = {}
    models: tuple[str, ...]
    replayed: tuple[str, ...]
    events: tuple[str, ...]
    asking: Asking
    answer: str


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A source's rows, by which SQL each says when it `landed`, how many do not, and the relation dbt reads them from.

    `failure` is why its rows could not be copied; `columns` are looked at where one is asked for.
    """

    relation: str
    landed: str | None = None
    rows: int = 0
    unknown: int = 0
    failure: str | None = None
    columns: tuple[str, ...] = ()


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a model, seed, snapshot or hook: dbt's status and message, its relation, and the SQL that ran."""

    status: str
    message: str
    database: str = ""
    schema: str = ""
    table: str = ""
    sql: str | None = None


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The builds of a pair of instants, and what each wrote by unique id."""

    first: Build
    later: Build
    replay: Build | None = None


class Answer(msgspec.Struct, kw_only=True):
    """What was built; nothing where there is an `error`, which has the fields of one."""

    inputs: dict[str, Input] = {}
    pairs: list[Pair] = []
    built: dict[str, dict[str, Built]] = {}
    error: dict[str, str] | None = None


def parsed(settings: Settings, folder: Path, variables: Mapping[str, Any]) -> Path:
    """dbt's account of the project, in a target folder of its own."""
    target = folder / "target"
    options = ["--log-path", str(folder / "logs"), "--vars", msgspec.json.encode(variables).decode()]
    environ = dict(settings.environ)
    run_dbt(settings.project_dir, target, ["parse", *options], PARSE_FAILURE, env=environ, remedy=_REMEDY, logged=False)
    return target


def build_as_of(
    settings: Settings,
    folder: Path,
    *,
    sources: Mapping[str, str | None],
    landed: str | None,
    variables: Mapping[str, Any],
    models: Sequence[str],
    replayed: Sequence[str],
    events: Sequence[str],
    asking: Asking,
) -> Answer:
    """The builds of each pair of instants, in files below `folder` (`file_of`); what was `parsed` there is taken."""
    asked, answer = settings.asked, folder / "answer.json"
    request = Request(
        arguments=asked.arguments, environ=asked.environ, folder=str(folder), sources=dict(sources),
        landed=landed, variables=dict(variables), models=tuple(models), replayed=tuple(replayed), events=tuple(events),
        asking=asking, answer=str(answer),
    )  # fmt: skip
    run = run_module(f"{__package__}.scratching", settings.project_dir, request, environ=asked.environ)
    if run.returncode != 0 or not answer.is_file():
        raise failed("dbt cannot build as of another time", settings.project_dir, run, _REMEDY, logged=False)
    found = msgspec.json.decode(answer.read_bytes(), type=Answer)
    if found.error is not None:
        kind = found.error.pop("error")
        raise (WarehouseError if kind == "WarehouseError" else SettingsError)(found.error.pop("what"), **found.error)
    return found


def file_of(folder: Path, build: Build, database: str) -> Path:
    """The DuckDB file of a database of a build."""
    return folder / build.name / f"{database}.duckdb"


def instant(us: int) -> str:
    """An instant as dbt's variable `as_of` has it: 2013-12-31T23:00:00Z, with microseconds where there are any."""
    return from_us(us).isoformat().replace("+00:00", "Z")
