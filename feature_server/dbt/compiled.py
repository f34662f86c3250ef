"""The compiled SQL of feature views and of all under them, by a process that runs dbt (`compiling`).

It is kept beside manifest.json: a build writes that one anew, with the SQL of its own instant.
"""

import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from ..durable import write_whole
from ..errors import UNREADABLE, FeatureStoreError
from ..project.process import failed, results_kept, run_module
from ..project.target import Answer, remember
from ..settings import Settings
from .artifacts import Manifest, read_manifest
from .parse import PARSE_FAILURE

AS_OF, OTHER_AS_OF = "2000-01-01T00:00:00Z", "2001-02-03T04:05:06Z"  # the instants that models are compiled at
PARSE_FAILED = 3
_FILE = "feature_models.json"
_REMEDY = "run `features plan`, then `features apply`, without --no-parse"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compiled, and the file that the answer is written to."""

    arguments: list[str]
    environ: dict[str, str]
    target_path: str
    answer: str


class Texts(msgspec.Struct):
    """SQL by a model's id: of a full refresh at two instants and of an incremental run; and what its Jinja asked.

    `where` is what dbt said of where it builds.
    """

    full: dict[str, str] = {}
    other: dict[str, str] = {}
    incremental: dict[str, str] = {}
    queries: dict[str, list[str]] = {}
    where: Answer | None = None


class Compiled(msgspec.Struct, frozen=True):
    """The texts, and a hash of the project that they are of."""

    project: str
    texts: Texts


def dbt_manifest(settings: Settings) -> Compiled:
    """Write manifest.json anew, with the compiled SQL of all feature views and models under them."""
    asked, project_dir, target_path = settings.asked, settings.project_dir, settings.target_path
    with tempfile.TemporaryDirectory() as folder, results_kept(target_path):
        answer = Path(folder) / "texts.json"
        request = Request(
            arguments=asked.arguments, environ=asked.environ, target_path=str(target_path), answer=str(answer)
        )
        run = run_module(f"{__package__}.compiling", project_dir, request, environ=asked.environ)
        if run.returncode == PARSE_FAILED:
            raise failed(PARSE_FAILURE, project_dir, run, "correct the project until `dbt parse` succeeds")
        texts = msgspec.json.decode(answer.read_bytes(), type=Texts) if answer.is_file() else Texts()
        if run.returncode != 0 and not texts.queries:
            remedy = "correct the project until `dbt compile --full-refresh` succeeds"
            raise failed("dbt cannot compile the feature views", project_dir, run, remedy)
    if texts.where is not None:
        remember(asked, texts.where)
        texts.where = None
    compiled = Compiled(_project_of(project_dir, read_manifest(target_path)), texts)
    write_whole(target_path / _FILE, lambda file: file.write(msgspec.json.encode(compiled)))
    return compiled


def read_compiled(project_dir: Path, target_path: Path, *, needed: bool = False) -> Compiled | None:
    """What was compiled last; None if nothing was, unless it is `needed`. An error if the project is another by now."""
    path = target_path / _FILE
    try:
        compiled = msgspec.json.decode(path.read_bytes(), type=Compiled)
    except FileNotFoundError:
        if needed:
            raise FeatureStoreError(
                "the models' SQL was not compiled, and is part of the definitions in force",
                where=str(path), remedy=_REMEDY,
            ) from None  # fmt: skip
        return None
    except (OSError, *UNREADABLE) as error:
        raise FeatureStoreError(
            "the compiled SQL of the models cannot be read", where=str(path), got=str(error), remedy=_REMEDY
        ) from None
    if compiled.project != _project_of(project_dir, read_manifest(target_path)):
        raise FeatureStoreError(
            "the project has changed since its SQL was compiled",
            where=str(path), expected="models, macros, seeds and dbt_project.yml as they were then", remedy=_REMEDY,
        )  # fmt: skip
    return compiled


def digest(value: Any) -> str:
    """16 hex digits of anything that JSON can hold."""
    return blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=8).hexdigest()


def _project_of(project_dir: Path, manifest: Manifest) -> str:
    texts: Iterable[Any] = (
        (project_dir / "dbt_project.yml").read_text(encoding="utf-8", errors="replace"),
        {name: (node.raw_code, node.checksum) for name, node in manifest.nodes.items() if _counts(name)},
        {name: macro.macro_sql for name, macro in manifest.macros.items()},
    )
    return digest(texts)


def _counts(unique_id: str) -> bool:
    return unique_id.partition(".")[0] in ("model", "seed", "snapshot")
