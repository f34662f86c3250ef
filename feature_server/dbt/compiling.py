"""dbt in a process of its own: it parses the project, then compiles the SQL of feature views and of all under them.

It compiles in a scratch warehouse that is empty, so that no build is in its way, and three times: as a full refresh at
two instants, and as an incremental run. SQL that is `unchanged` is kept from the run before. Like `project.resolving`
it imports dbt; `compiled` starts it.
"""

import copy
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import yaml
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest
from dbt_common.exceptions import DbtBaseException
from dbt_common.invocation import get_invocation_id

from ..durable import write_whole
from ..errors import UNREADABLE
from ..kept import code
from ..project.package import LOADER
from ..project.resolving import database_of, resolved
from ..project.target import fingerprint
from .compiled import AS_OF, OTHER_AS_OF, PARSE_FAILED, Request, Texts
from .reading import Failed, invoke, parse
from .unchanged import Unchanged

_TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK")
_NO_TESTS = ("--exclude", "resource_type:test", "resource_type:unit_test")
_KEPT = "kept_texts.json"


class KeptText(msgspec.Struct, frozen=True):
    """The SQL of one model, as in Texts, and the key of what it was compiled from."""

    key: str
    full: str | None = None
    other: str | None = None
    incremental: str | None = None


class KeptTexts(msgspec.Struct, frozen=True):
    """What was compiled, by a unique id."""

    texts: dict[str, KeptText] = {}


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        parsed, environ = parse(request)
    except Failed:
        return PARSE_FAILED
    texts = Texts(environ=environ)
    try:
        _compile(request, parsed, texts)
        return 0
    except Failed:
        return 1
    finally:
        write_whole(Path(request.answer), lambda file: file.write(msgspec.json.encode(texts)))


def _variables(project: str) -> Any:
    found = yaml.load(project, Loader=LOADER)
    return found.get("vars") if isinstance(found, dict) else None


def _compile(request: Request, manifest: Manifest, texts: Texts) -> None:
    try:
        texts.where, profile, project = resolved(request.arguments, request.environ)
    except DbtBaseException as error:
        print(f"Error: {error}")
        raise Failed from None
    wanted = _under_views(manifest)
    incremental = [node for node in manifest.nodes.values() if _materialized(node) == "incremental"]
    packages = Path(project.project_root) / project.packages_install_path
    files = [Path(project.project_root) / "dbt_project.yml", *sorted(packages.glob("*/dbt_project.yml"))]
    said = [file.read_text(encoding="utf-8") for file in files]
    unchanged = Unchanged(
        manifest,
        request.environ,
        [
            code(), texts.where.target, profile.to_target_dict(), said,
            sorted(str(node.relation_name) for node in incremental),
        ],
        plain=not any("{{" in str(variables) or "{%" in str(variables) for variables in map(_variables, said)),
    )  # fmt: skip
    keys = {name: unchanged.key(name) for name in wanted}
    before = _read_kept(request)
    kept = {name: one for name, one in before.texts.items() if one.key == keys.get(name)}
    if changed := [name for name in wanted if name not in kept]:
        _compile_anew(request, manifest, changed, profile, incremental, texts)
        kept |= {
            name: KeptText(key, texts.full.get(name), texts.other.get(name), texts.incremental.get(name))
            for name in changed
            if (key := keys[name]) is not None and name not in texts.queries and name not in texts.of_run
        }
    texts.environ |= {name: fingerprint(request.environ.get(name)) for name in unchanged.variables}
    after = KeptTexts(kept)
    if after != before:
        write_whole(Path(request.folder) / _KEPT, lambda file: file.write(msgspec.json.encode(after)))
    for found, field in ((texts.full, "full"), (texts.other, "other"), (texts.incremental, "incremental")):
        found.update({name: text for name, one in kept.items() if (text := getattr(one, field)) is not None})


def _under_views(manifest: Manifest) -> list[str]:
    """The feature views and all models and snapshots that they read, by unique id, in the order of the manifest."""
    nodes = {name: node for name, node in manifest.nodes.items() if node.resource_type in ("model", "snapshot")}
    models = (name for name, node in nodes.items() if node.resource_type == "model")
    waiting = [name for name in models if "feature_view" in nodes[name].config.meta]
    found = dict.fromkeys(waiting)
    for name in waiting:  # the list grows
        below = [one for one in nodes[name].depends_on.nodes if one in nodes and one not in found]
        found |= dict.fromkeys(below)
        waiting += below
    return [name for name in nodes if name in found]


def _compile_anew(
    request: Request, manifest: Manifest, changed: list[str], profile: Any, incremental: list[Any], texts: Texts
) -> None:
    runs: tuple[tuple[dict[str, str], str, list[str], Iterable[Any]], ...] = (
        (texts.full, AS_OF, ["--full-refresh"], ()),
        (texts.other, OTHER_AS_OF, ["--full-refresh"], ()),
        (texts.incremental, AS_OF, [], incremental),
    )
    selected = sorted({manifest.nodes[name].name for name in changed})
    for found, as_of, options, built in runs if incremental else runs[:2]:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True, dir=request.folder) as scratch,
            _as_parsed(manifest, changed),
        ):
            own = [*request.arguments, "--profiles-dir", scratch, "--target-path", scratch]
            own += ["--no-write-json", "--vars", f"{{as_of: '{as_of}'}}"]
            _write_profile(Path(scratch), profile, built)
            runner = dbtRunner(manifest, [lambda event: _note_query(event, texts.queries)])
            invoke(runner, ["compile", "--quiet", *_NO_TESTS, *options, *own, "--select", *selected])
            compiled = {name: manifest.nodes[name].compiled_code for name in changed}
            found.update({name: text for name, text in compiled.items() if text})
            texts.of_run += [name for name, text in compiled.items() if text and get_invocation_id() in text]


@contextmanager
def _as_parsed(manifest: Manifest, compiled: Iterable[str]) -> Iterator[None]:
    """Have models compiled, and the ephemeral ones whose SQL stands in theirs, without a trace in the manifest."""
    names = {*compiled, *(name for name, node in manifest.nodes.items() if _materialized(node) == "ephemeral")}
    parsed = {name: manifest.nodes[name] for name in names}
    manifest.nodes.update({name: copy.deepcopy(node) for name, node in parsed.items()})
    try:
        yield
    finally:
        manifest.nodes.update(parsed)


def _materialized(node: Any) -> str:
    return str(node.config.materialized) if node.resource_type == "model" else ""


def _read_kept(request: Request) -> KeptTexts:
    try:
        return msgspec.json.decode((Path(request.folder) / _KEPT).read_bytes(), type=KeptTexts)
    except (OSError, *UNREADABLE):
        return KeptTexts()


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
