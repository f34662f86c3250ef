"""dbt in a process of its own: whole builds of a project, each as of an instant, in a scratch folder.

First the rows of the sources are copied, with the time at which each landed, in a session as the profile sets it up.
Then each build has its own files, in the names of the project's databases: in them the rows that had landed, a clock
that stands still (`standing`). Like `compiling` it imports dbt; `scratch` starts it.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import msgspec
import yaml
from dbt.adapters.duckdb import environments
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.adapters.duckdb.environments.local import LocalEnvironment
from dbt.adapters.duckdb.relation import DuckDBRelation
from dbt.adapters.duckdb.utils import SourceConfig
from dbt.cli.main import dbtRunner
from dbt.config.profile import read_profile
from dbt.config.renderer import ProfileRenderer
from dbt_common.exceptions import DbtBaseException

from ..dbt.reading import Failed, invoke, say
from ..durable import write_whole
from ..errors import FeatureStoreError, SettingsError, nearest_name
from ..offline.sql import literal, quote
from ..project.resolving import database_of, resolved
from ..warehouse.file import held
from .pairs import builds_of, chosen
from .scratch import INPUTS, LANDED, Answer, Build, Built, Input, Request, instant
from .standing import clock_sql, jinja_clock

_FILE = "inputs.duckdb"
_SHUT = ("enable_external_access", "allowed_directories", "allowed_paths", "temp_directory", "lock_configuration")
_TABLES = ("table", "incremental", "snapshot", "seed")  # what leaves rows that a file can be asked for later
_NO_TESTS = ("--exclude-resource-type", "test", "unit_test")


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    answer = Answer()
    try:
        _run(request, answer)
    except Failed:
        return 1
    except FeatureStoreError as error:
        answer.error = error.as_dict()
    except DbtBaseException as error:
        print(f"Error: {error}")
        return 1
    write_whole(Path(request.answer), lambda file: file.write(msgspec.json.encode(answer)))
    return 0


def _run(request: Request, answer: Answer) -> None:
    folder = Path(request.folder)
    project = [*request.arguments, "--target-path", str(folder / "target"), "--log-path", str(folder / "logs")]
    variables = ["--vars", msgspec.json.encode(request.variables).decode()]
    manifest = invoke(dbtRunner(), ["parse", *project, *variables])
    target, profile, _ = resolved([*request.arguments, *variables], request.environ)
    raw = read_profile(target.target.profiles_dir)[profile.profile_name]["outputs"][profile.target_name]
    output = ProfileRenderer(request.variables).render_data(raw)
    names = [profile.credentials.database, *(database_of(one) for one in profile.credentials.attach or ())]
    scratch = Scratch(folder, output, profile, names)
    _read_inputs(scratch, manifest, request, answer)
    with duckdb.connect(str(folder / _FILE), read_only=True) as inputs:
        landings = [quote(uid) for uid, one in answer.inputs.items() if one.landed]
        firsts, later = chosen(request.asking, lambda sql: inputs.execute(sql).fetchall(), landings)
    if later is None or not firsts:
        raise _no_instants(answer.inputs, landings, manifest)
    answer.pairs = builds_of(firsts, later, request.models, request.replayed)
    _redirect(manifest, request, answer, names[0], folder)
    seeds = {str(Path(node.root_path or ".", node.original_file_path).resolve().parent)
             for node in manifest.nodes.values() if node.resource_type == "seed"}  # fmt: skip
    for build in {
        one.name: one for pair in answer.pairs for one in (pair.first, pair.later, pair.replay) if one
    }.values():
        place = scratch.make(build, answer.inputs, request.events)
        os.environ["FEATURES_HOME"] = str(place)  # of what hooks of ours write
        with _shut_in([str(folder), str(Path("dbt_packages").resolve()), *seeds]), jinja_clock(build.as_of_us):
            answer.built[build.name] = _build(manifest, build, project, place, request.variables)


class Scratch:
    """The folder, and the project's profile with files in it for the same databases."""

    def __init__(self, folder: Path, output: dict[str, Any], profile: Any, names: list[str]) -> None:
        self.folder, self.output, self.profile, self.names = folder, output, profile, names

    def write_profile(self, place: Path, path: Path, names: list[str], settings: dict[str, Any]) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        attached = [{"path": str(place / f"{name}.duckdb"), "alias": name} for name in names]
        output = self.output | {"path": str(path), "external_root": str(place), "settings": settings}
        output = {key: value for key, value in output.items() if key not in ("attach", "database", "is_ducklake")}
        output |= {"attach": attached} if attached else {}
        target = self.profile.target_name
        text = {self.profile.profile_name: {"target": target, "outputs": {target: output}}}
        with open(os.open(place / "profiles.yml", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            yaml.safe_dump(text, file)  # it may have secrets

    def make(self, build: Build, inputs: dict[str, Input], events: Sequence[str]) -> Path:
        """The folder of a build, its databases with nothing but the rows that had landed, and its clock."""
        place, own = self.folder / build.name, self.names[0]
        settings = {k: v for k, v in (self.output.get("settings") or {}).items() if k.lower() not in _SHUT}
        self.write_profile(place, place / f"{own}.duckdb", self.names[1:], settings)
        with duckdb.connect(str(place / f"{own}.duckdb")) as warehouse:
            warehouse.execute("set TimeZone = 'UTC'")
            warehouse.execute(f"attach {literal(str(self.folder / _FILE))} as features_copied (read_only)")
            warehouse.execute(f"create schema {quote(INPUTS)}")
            for unique_id, one in inputs.items():
                if one.failure is None:
                    by_us = build.events_by_us if unique_id in events else build.as_of_us
                    warehouse.execute(
                        f"create table {one.relation} as select * exclude ({LANDED})"
                        f" from features_copied.{quote(unique_id)}"
                        f" where coalesce({LANDED} <= make_timestamptz({by_us}), true)"
                        f" order by rowid {'desc' if build.backwards else 'asc'}"
                    )
            for sql in clock_sql(build.as_of_us):
                warehouse.execute(sql)
        return place


def _read_inputs(scratch: Scratch, manifest: Any, request: Request, answer: Answer) -> None:
    """Copy the rows of each source, in a session with the profile's extensions, secrets and settings."""
    place = scratch.folder / "reading"
    settings = {k: v for k, v in (scratch.output.get("settings") or {}).items() if k.lower() != "temp_directory"}
    scratch.write_profile(place, scratch.folder / _FILE, [], settings)
    _, profile, _ = resolved([*_without(request.arguments), "--profiles-dir", str(place)], request.environ)
    env = environments.create(profile.credentials)
    cursor = env.handle().cursor()
    originals: dict[str, str] = {}
    try:
        cursor.execute("set TimeZone = 'UTC'")  # a naive landing time is UTC
        for unique_id, landed in request.sources.items():
            source = manifest.sources[unique_id]
            relation = ".".join(quote(part) for part in (scratch.names[0], INPUTS, _table_name(unique_id)))
            try:
                read = _location(source) or _table(source, scratch.profile.credentials, originals, cursor)
                read = _with_live(read, source)
                answer.inputs[unique_id] = _copy(cursor, read, unique_id, relation, landed, request.landed)
            except (duckdb.Error, DbtBaseException) as error:
                answer.inputs[unique_id] = Input(relation=relation, failure=str(error).splitlines()[0])
    finally:
        cursor.close()
        env.close()
    if request.landed is not None:
        _check_landed(request.landed, answer.inputs, manifest)


def _check_landed(column: str, inputs: dict[str, Input], manifest: Any) -> None:
    """SettingsError where no source has the column; where one could not be read, that is not known."""
    known = {name for one in inputs.values() for name in one.columns}
    if column.lower() in map(str.lower, known) or any(one.failure for one in inputs.values()):
        return
    near = nearest_name(column, known)
    raise SettingsError(
        "no source has such a column", where="--landed", got=column,
        expected="a column of " + (", ".join(_ids(inputs, manifest)) or "a source, and the models read none"),
        remedy=f"did you mean {near}?" if near else "name a column that says when rows landed, or leave it out",
    )  # fmt: skip


def _ids(unique_ids: Iterable[str], manifest: Any) -> list[str]:
    return [f"{node.source_name}.{node.name}" for node in (manifest.sources[each] for each in unique_ids)]


def _no_instants(inputs: dict[str, Input], landings: Sequence[str], manifest: Any) -> SettingsError:
    """Why no instants can be chosen, and what to do."""
    known = {unique_id: one for unique_id, one in inputs.items() if one.landed}
    failures = [f"{name}: {one.failure}" for name, one in zip(_ids(inputs, manifest), inputs.values(), strict=True)
                if one.failure]  # fmt: skip
    what, expected = "nothing says when the rows of a source landed", "sources with `loaded_at_field`"
    where, remedy = ", ".join(_ids(inputs, manifest)), "add --landed COLUMN, or give --as-of and --then"
    if known:
        where, what, expected = ", ".join(_ids(known, manifest)), "nothing had landed by then", "rows that had"
        remedy = "give a later --then"
        if not any(one.rows for one in known.values()):
            what, expected, remedy = "the sources have no rows", "rows to build of", "land rows of them, then test"
        elif all(one.rows == one.unknown for one in known.values()):
            what, expected = "no row says when it landed", "times in the columns that say so"
            columns = sorted({str(one.landed) for one in known.values()})
            remedy = f"name other columns with --landed than {', '.join(columns)}"
    return SettingsError(
        what, where=where or "the models' sources", expected=expected, got="; ".join(failures) or None, remedy=remedy
    )


def _table_name(unique_id: str) -> str:
    return unique_id.removeprefix("source.").replace(".", "__")


def _copy(cursor: Any, read: str, unique_id: str, relation: str, landed: str | None, column: str | None) -> Input:
    names: list[str] = []
    if column is not None:
        names = [name for name, *_ in cursor.execute(f"describe select * from {read}").fetchall()]
        if landed is None and column.lower() in map(str.lower, names):
            landed = quote(column)
    cursor.execute(
        f"create table {quote(unique_id)} as select *, ({landed or 'null'})::timestamptz as {LANDED} from {read}"
    )
    rows, known = cursor.execute(f"select count(*), count({LANDED}) from {quote(unique_id)}").fetchall()[0]
    return Input(relation=relation, landed=landed, rows=rows, unknown=rows - known, columns=tuple(names))


def _location(source: Any) -> str | None:
    """The files of a source as SQL reads them; None for a table. DbtBaseException where a plugin loads it."""
    config = SourceConfig.create_from_source(source)
    if "plugin" in config:
        raise DbtBaseException(f"the plugin {config['plugin']} loads it, when it likes")
    return DuckDBRelation.create_from_source(_Quoting, source).external


def _with_live(read: str, source: Any) -> str:
    """The rows of a table with the events that landed beside it."""
    pattern = _events(source).get("landing")
    if not pattern or not glob(str(pattern), recursive=True):
        return read
    landed = f"select * from read_parquet({literal(str(pattern))}, union_by_name = true)"
    return f"(select * from {read} union all by name {landed})"


def _events(node: Any) -> dict[str, Any]:
    """What is said of a table's or a seed's events."""
    found = node.config.meta.get("event_stream")
    return found if isinstance(found, dict) else {}


class _Quoting:
    quoting: ClassVar = {"database": True, "schema": True, "identifier": True}


def _table(source: Any, credentials: Any, originals: dict[str, str], cursor: Any) -> str:
    """A table of the project's own databases, of which the original is attached to be read only."""
    database = source.database or credentials.database
    if database not in originals:
        alias = f"features_original_{len(originals)}"
        if database == credentials.database:
            if not Path(credentials.path).is_file():
                raise DbtBaseException(f"its database does not exist: {credentials.path}")
            path, sql = credentials.path, f"attach {literal(credentials.path)} as {alias} (read_only)"
        else:
            found = [one for one in credentials.attach or () if database_of(one) == database]
            if not found:
                raise DbtBaseException(f"the profile attaches no database {database}")
            path, sql = found[0].path, replace(found[0], alias=alias, read_only=True).to_sql()
        try:
            cursor.execute(sql)
        except duckdb.Error as error:
            locked = held(Path(path).resolve(), error, "wait until it has closed the file, then test again")
            if locked is not None:
                raise locked from None
            raise
        originals[database] = alias
    return ".".join([originals[database], quote(source.schema), quote(source.identifier)])


def _redirect(manifest: Any, request: Request, answer: Answer, database: str, folder: Path) -> None:
    """Have dbt read the copies of sources, and leave rows of the models that are compared, in no file elsewhere.

    The copies have the live events that landed: where more would land, there are none.
    """
    for node in (*manifest.sources.values(), *manifest.nodes.values()):
        if node.resource_type in ("source", "seed") and "landing" in (said := _events(node)):
            place = folder / "landing" / _table_name(node.unique_id)
            place.mkdir(parents=True, exist_ok=True)
            node.config.meta["event_stream"] = said | {"landing": str(place / "*.parquet")}
    for unique_id in request.sources:
        source = manifest.sources[unique_id]
        for given in (source.meta, source.source_meta, source.config.meta, source.config.extra):
            for key in ("external_location", "plugin"):
                given.pop(key, None)
        source.database, source.schema, source.identifier = database, INPUTS, _table_name(unique_id)
        source.relation_name = answer.inputs[unique_id].relation
    for unique_id, node in manifest.nodes.items():
        kind = node.config.materialized if node.resource_type == "model" else "table"
        if kind == "external" or (unique_id in request.models and kind not in _TABLES):
            node.config.materialized = "table"


@contextmanager
def _shut_in(folders: list[str]) -> Iterator[None]:
    """dbt's DuckDB reads and writes in these folders alone."""
    original = LocalEnvironment.__dict__.get("initialize_db")
    inherited = environments.Environment.initialize_db

    def initialize(cls: Any, creds: Any, plugins: Any = None) -> Any:
        connection = inherited(creds, plugins)
        connection.execute(f"set allowed_directories = [{', '.join(map(literal, folders))}]")
        connection.execute("set enable_external_access = false")
        return connection

    LocalEnvironment.initialize_db = classmethod(initialize)
    try:
        yield
    finally:
        if DuckDBConnectionManager._ENV is not None:
            DuckDBConnectionManager._ENV.close()  # what was written is in the file
        DuckDBConnectionManager.close_all_connections()
        if original is None:
            del LocalEnvironment.initialize_db
        else:
            LocalEnvironment.initialize_db = original


def _build(manifest: Any, build: Build, project: list[str], place: Path, variables: dict[str, Any]) -> dict[str, Built]:
    names = ["+fqn:" + ".".join(manifest.nodes[unique_id].fqn) for unique_id in build.models]
    given = msgspec.json.encode(variables | {"as_of": instant(build.as_of_us)}).decode()
    arguments = [
        "build", "--quiet", "--full-refresh", *_NO_TESTS, "--no-write-json", *_without(project),
        "--profiles-dir", str(place), "--vars", given, "--select", *names,
    ]  # fmt: skip
    run = dbtRunner(manifest.deepcopy()).invoke(["--no-use-colors", *arguments])
    results = getattr(run.result, "results", None)
    if not results:
        say(run)
        raise Failed
    return {
        one.node.unique_id: Built(
            status=str(one.status), message=str(one.message or ""), database=one.node.database or "",
            schema=one.node.schema or "", table=one.node.alias, sql=getattr(one.node, "compiled_code", None),
        )
        for one in results
    }  # fmt: skip


def _without(arguments: list[str]) -> list[str]:
    """dbt's arguments without the folder of the project's own profiles."""
    at = arguments.index("--profiles-dir") if "--profiles-dir" in arguments else len(arguments)
    return arguments[:at] + arguments[at + 2 :]


if __name__ == "__main__":
    sys.exit(main())
