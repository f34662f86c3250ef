"""The compiled SQL of feature views and of all under them, by a process that runs dbt (`compiling`).

It is kept beside manifest.json: a build writes that one anew, with the SQL of its own instant.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..durable import changing, write_whole
from ..errors import UNREADABLE, FeatureStoreError
from ..kept import short_digest
from ..project.process import failed, run_module
from ..project.target import Answer, Target, fingerprint, remember
from ..settings import Settings
from .artifacts import Manifest, read_manifest
from .parse import PARSE_FAILURE

AS_OF, OTHER_AS_OF = "2000-01-01T00:00:00Z", "2001-02-03T04:05:06Z"  # the instants that models are compiled at
PARSE_FAILED = 3
_FILE = "feature_models.json"
_REMEDY = "run `features plan`, then `features apply`, without --no-parse"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compiled, the folder that dbt writes to, and the file that the answer is written to."""

    arguments: list[str]
    environ: dict[str, str]
    folder: str
    answer: str


class Texts(msgspec.Struct):
    """SQL by a model's id: of a full refresh at two instants and of an incremental run; and what its Jinja asked.

    `of_run` are models with the run's own id in their SQL; `where` is what dbt said of where it builds; `environ` has a
    fingerprint of each environment variable that project, models and macros read.
    """

    full: dict[str, str] = {}
    other: dict[str, str] = {}
    incremental: dict[str, str] = {}
    queries: dict[str, list[str]] = {}
    of_run: list[str] = []
    where: Answer | None = None
    environ: dict[str, str] = {}


class Compiled(msgspec.Struct, frozen=True):
    """The texts, and a hash of the project that they are of, of which `target` they are: profile, name and schema."""

    project: str
    texts: Texts
    target: tuple[str, ...] = ()


class Parsed(msgspec.Struct, frozen=True):
    """What dbt says of a project: its manifest, and the compiled SQL; None where that was never compiled."""

    manifest: Manifest
    compiled: Compiled | None

    @property
    def whole(self) -> Manifest:
        """The manifest with the SQL of a whole build of each feature view and of all under them."""
        if self.compiled is None:
            return self.manifest
        sql = self.compiled.texts.full
        nodes = {
            name: msgspec.structs.replace(node, compiled_code=sql[name]) if name in sql else node
            for name, node in self.manifest.nodes.items()
        }
        return msgspec.structs.replace(self.manifest, nodes=nodes)


def checked_folder(target_path: Path) -> Path:
    """Where dbt parses a project that is not yet known to be fit, apart from what was found good last."""
    return target_path / "checked"


@contextmanager
def parsing(settings: Settings) -> Iterator[Parsed]:
    """What dbt says of the project as its files are now; where it is found fit, `keep_parsed` is to follow.

    For the block nobody else has dbt say so. Only what has changed since the last time is compiled anew.
    """
    asked, project_dir, folder = settings.asked, settings.project_dir, checked_folder(settings.target_path)
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder / _FILE), tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "texts.json"
        request = Request(arguments=asked.arguments, environ=asked.environ, folder=str(folder), answer=str(answer))
        run = run_module(f"{__package__}.compiling", project_dir, request, environ=asked.environ)
        if run.returncode == PARSE_FAILED:
            raise failed(PARSE_FAILURE, project_dir, run, "correct the project until `dbt parse` succeeds")
        texts = msgspec.json.decode(answer.read_bytes(), type=Texts) if answer.is_file() else Texts()
        if run.returncode != 0 and not texts.queries:
            remedy = "correct the project until `dbt compile --full-refresh` succeeds"
            raise failed("dbt cannot compile the feature views", project_dir, run, remedy)
        target: tuple[str, ...] = ()
        if texts.where is not None:
            remember(asked, texts.where)
            target = _target_of(texts.where.target)
            texts.where = None
        manifest = read_manifest(folder)
        yield Parsed(manifest, Compiled(_project_of(project_dir, manifest), texts, target))


def keep_parsed(settings: Settings, parsed: Parsed) -> None:
    """Make what dbt says, in a block of `parsing`, what others read: `target_path`/manifest.json and the SQL."""
    text = (checked_folder(settings.target_path) / "manifest.json").read_bytes()
    write_whole(settings.target_path / "manifest.json", lambda file: file.write(text))
    write_whole(settings.target_path / _FILE, lambda file: file.write(msgspec.json.encode(parsed.compiled)))


def dbt_manifest(settings: Settings) -> Parsed:
    """What dbt says of the project, kept unseen."""
    with parsing(settings) as parsed:
        keep_parsed(settings, parsed)
    return parsed


def read_parsed(project_dir: Path, target_path: Path) -> Parsed:
    """What dbt said last in a folder, with the SQL where that is of the same project."""
    manifest = read_manifest(target_path)
    try:
        compiled = msgspec.json.decode((target_path / _FILE).read_bytes(), type=Compiled)
    except (OSError, *UNREADABLE):
        return Parsed(manifest, None)
    return Parsed(manifest, compiled if compiled.project == _project_of(project_dir, manifest) else None)


def read_compiled(settings: Settings, *, needed: bool = False) -> Parsed:
    """As `read_parsed`, but an error if the project is another by now, or was never compiled where that is `needed`.

    So it is where it was compiled for another target than the one that is meant, or environment variables that it
    reads have other values.
    """
    project_dir, target_path = settings.project_dir, settings.target_path
    path = target_path / _FILE
    manifest = read_manifest(target_path)
    try:
        compiled = msgspec.json.decode(path.read_bytes(), type=Compiled)
    except FileNotFoundError:
        if needed:
            raise FeatureStoreError(
                "the models' SQL was not compiled, and is part of the definitions in force",
                where=str(path), remedy=_REMEDY,
            ) from None  # fmt: skip
        return Parsed(manifest, None)
    except (OSError, *UNREADABLE) as error:
        raise FeatureStoreError(
            "the compiled SQL of the models cannot be read", where=str(path), got=str(error), remedy=_REMEDY
        ) from None
    if compiled.project != _project_of(project_dir, manifest):
        raise FeatureStoreError(
            "the project has changed since its SQL was compiled",
            where=str(path), expected="models, macros, seeds and dbt_project.yml as they were then", remedy=_REMEDY,
        )  # fmt: skip
    environ = settings.asked.environ
    if other := [name for name, found in compiled.texts.environ.items() if fingerprint(environ.get(name)) != found]:
        raise FeatureStoreError(
            "the project reads environment variables that have changed since its SQL was compiled",
            where=str(path), expected="their values as they were then", got=", ".join(sorted(other)), remedy=_REMEDY,
        )  # fmt: skip
    meant = settings.target
    if compiled.target and meant is not None and compiled.target != _target_of(meant):
        raise FeatureStoreError(
            "the SQL was compiled for another target", where=str(path), expected=" ".join(_target_of(meant)),
            got=" ".join(compiled.target), remedy=_REMEDY,
        )  # fmt: skip
    return Parsed(manifest, compiled)


def _target_of(target: Target) -> tuple[str, ...]:
    return (target.profile, target.name, target.database, target.schema)


def _project_of(project_dir: Path, manifest: Manifest) -> str:
    texts: Iterable[Any] = (
        (project_dir / "dbt_project.yml").read_text(encoding="utf-8", errors="replace"),
        {name: (node.raw_code, node.checksum) for name, node in manifest.nodes.items() if _counts(name)},
        {name: macro.macro_sql for name, macro in manifest.macros.items()},
    )
    return short_digest(texts)


def _counts(unique_id: str) -> bool:
    return unique_id.partition(".")[0] in ("model", "seed", "snapshot")
