"""dbt in a process of its own: it parses the project, then compiles the SQL of feature views and of all under them.

It compiles in a scratch warehouse that is empty, so that no build is in its way, and three times: as a full refresh at
two instants, and as an incremental run. Like `project.resolving` it imports dbt; `compiled` starts it.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import yaml
from dbt.cli.exceptions import DbtUsageException
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest
from dbt_common.exceptions import DbtBaseException

from ..durable import write_whole
from ..project.resolving import database_of, resolved
from .compiled import AS_OF, OTHER_AS_OF, PARSE_FAILED, Request, Texts

_TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")
_NO_TESTS = ("--exclude", "resource_type:test", "resource_type:unit_test")


class Failed(Exception):
    """dbt did not succeed; it has printed why."""


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        parsed = _invoke(dbtRunner(), ["parse", *request.arguments, "--target-path", request.target_path])
    except Failed:
        return PARSE_FAILED
    texts = Texts()
    try:
        _compile(request, parsed, texts)
        return 0
    except Failed:
        return 1
    finally:
        write_whole(Path(request.answer), lambda file: file.write(msgspec.json.encode(texts)))


def _compile(request: Request, manifest: Manifest, texts: Texts) -> None:
    try:
        texts.where, profile = resolved(request.arguments, request.environ)
    except DbtBaseException as error:
        print(f"Error: {error}")
        raise Failed from None
    nodes = [node for node in manifest.nodes.values() if node.resource_type == "model"]
    names = sorted({f"+{node.name}" for node in nodes if "feature_view" in node.config.meta})
    if not names:
        return
    incremental = [node for node in nodes if node.config.materialized == "incremental"]
    runs: tuple[tuple[dict[str, str], str, list[str], Iterable[Any]], ...] = (
        (texts.full, AS_OF, ["--full-refresh", "--target-path", request.target_path], ()),
        (texts.other, OTHER_AS_OF, ["--full-refresh", "--no-write-json"], ()),
        (texts.incremental, AS_OF, ["--no-write-json"], incremental),
    )
    for found, as_of, options, built in runs if incremental else runs[:2]:
        with tempfile.TemporaryDirectory() as scratch:
            own = [*request.arguments, "--profiles-dir", scratch, "--vars", f"{{as_of: '{as_of}'}}"]
            own += [] if "--target-path" in options else ["--target-path", scratch]
            _write_profile(Path(scratch), profile, built)
            runner = dbtRunner(manifest.deepcopy(), [lambda event: _note_query(event, texts.queries)])
            result = _invoke(runner, ["compile", "--quiet", *_NO_TESTS, *options, *own, "--select", *names])
            found.update(
                (one.node.unique_id, one.node.compiled_code)
                for one in result.results
                if one.node.resource_type in ("model", "snapshot") and one.node.compiled_code
            )


def _invoke(runner: dbtRunner, arguments: list[str]) -> Any:
    run = runner.invoke(["--no-use-colors", *arguments])
    if isinstance(run.exception, DbtUsageException):  # of all others dbt itself prints what they say
        print(f"Error: {run.exception}")
    if not run.success:
        raise Failed
    return run.result


def _write_profile(folder: Path, profile: Any, built: Iterable[Any]) -> None:
    """The project's profile with empty DuckDB files for the same databases, which hold the `built` as empty tables."""
    own = profile.credentials
    names = [own.database, *(database_of(one) for one in own.attach or ())]
    paths = {name: str(folder / f"{name}.duckdb") for name in names}
    attached = [{"path": path, "alias": name} for name, path in paths.items() if name != own.database]
    output = {"type": own.type, "schema": own.schema, "threads": profile.threads, "path": paths[own.database]}
    output |= {"external_root": own.external_root} | ({"attach": attached} if attached else {})
    text = {profile.profile_name: {"target": profile.target_name, "outputs": {profile.target_name: output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(text), encoding="utf-8")
    for name, path in paths.items():
        with duckdb.connect(path) as warehouse:
            for node in (node for node in built if node.database == name):
                schema = _quoted(node.schema)
                warehouse.execute(f"create schema if not exists {schema}")
                warehouse.execute(f"create table {schema}.{_quoted(node.alias)} (nothing integer)")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _note_query(event: Any, queries: dict[str, list[str]]) -> None:
    """Note a query that a model's Jinja asks while it is compiled."""
    if event.info.name != "SQLQuery":
        return
    sql = event.data.sql.strip()
    if sql.startswith("/*"):
        sql = sql.partition("*/")[2].strip()
    if (unique_id := event.data.node_info.unique_id) and sql.upper() not in _TRANSACTION:
        queries.setdefault(unique_id, []).append(sql)


if __name__ == "__main__":
    sys.exit(main())
