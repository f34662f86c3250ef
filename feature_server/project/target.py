"""Where dbt builds: profile, target, warehouse and folders, as dbt itself resolves them.

dbt takes three seconds to say so. What it said is kept in a small file and holds for as long as the arguments,
dbt_project.yml, profiles.yml and the environment variables that it looked at are the same: whoever only reads features
starts no dbt. That file has no password in it: of settings only those that change values, of variables fingerprints.
"""

import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE
from .process import PLACES, failed, place_arguments, profiles_dir, run_module, said

# Settings of DuckDB by which the same SQL gives other values, or the same path other files.
VALUE_SETTINGS = (
    "TimeZone", "Calendar", "default_collation", "default_order", "default_null_order", "null_order",
    "integer_division", "ieee_floating_point_ops", "error_on_division_by_zero", "order_by_non_integer_literal",
    "scalar_subquery_error_on_multiple_rows", "regex_match_operator_semantics", "dialect_compatibility_mode",
    "old_implicit_casting", "legacy_disable_null_type", "binary_as_string", "file_search_path",
)  # fmt: skip
FILE = "dbt_targets.json"
_KEPT = 8  # answers: one for each target and environment that somebody is working with


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where dbt builds a project: a target of a profile, of a kind such as `duckdb`, with its database's path if any.

    `own_profile` and `default` are what the project's files name where nobody names another profile or target, None
    where that cannot be told. `attached` has the paths of
    attached DuckDB files by their names. `settings` and `config_options` are those of DuckDB's session that change
    values. Paths are as they are written: relative ones start in the project's folder.
    """

    project: str = ""
    profile: str
    name: str
    kind: str
    path: str
    own_profile: str | None = None
    default: str | None = None
    database: str = ""
    schema: str = ""
    attached: dict[str, str] = {}
    settings: dict[str, str] = {}
    config_options: dict[str, str] = {}
    target_path: str = "target"
    profiles_dir: str = ""

    @property
    def label(self) -> str:
        """What tells it from the project's other targets: its name, behind that of another profile than the own."""
        return self.name if self.profile == self.own_profile else f"{self.profile}.{self.name}"

    @property
    def is_default(self) -> bool:
        return self.label == self.default


class Answer(msgspec.Struct, frozen=True):
    """What dbt said, and the fingerprint of each environment variable that it looked at."""

    target: Target
    environ: dict[str, str]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """dbt's command-line arguments, the environment, and the file that the answer is written to."""

    arguments: list[str]
    environ: dict[str, str]
    answer: str


class Asked(msgspec.Struct, frozen=True):
    """Whose target is meant: of the project in a folder, by the variables DBT_TARGET and others of an environment.

    `cache` is the folder of the small file.
    """

    project_dir: Path
    environ: dict[str, str]
    cache: Path

    @property
    def named(self) -> dict[str, str]:
        """What is said of `profile`, `target` and others, which the project's own files do not then decide."""
        return {name: value for name in PLACES if (value := said(self.environ, name))}

    @property
    def arguments(self) -> list[str]:
        return place_arguments(self.project_dir, self.environ)

    @property
    def key(self) -> str:
        """A hash of all that dbt's answer depends on but the variables that the two files look at."""
        folder = profiles_dir(self.project_dir, self.environ)
        files = [_read(self.project_dir / "dbt_project.yml"), _read(folder / "profiles.yml")]
        return fingerprint(msgspec.json.encode([str(self.project_dir), str(folder), self.named, *files]).decode())


def database_name(path: Path) -> str:
    """The name that dbt and DuckDB give the database of a file."""
    return path.name.lstrip(".").split(".")[0]


def known_target(asked: Asked) -> Target | None:
    """The target that dbt takes, if it said so before."""
    for answer in _known(asked).get(asked.key, ()):
        if all(fingerprint(asked.environ.get(name)) == found for name, found in answer.environ.items()):
            return answer.target
    return None


def target_of(asked: Asked) -> Target:
    """The target that dbt takes; FeatureStoreError, in dbt's own words, where it finds none."""
    if (known := known_target(asked)) is not None:
        return known
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        request = Request(arguments=asked.arguments, environ=asked.environ, answer=str(path))
        run = run_module(f"{__package__}.resolving", asked.project_dir, request, environ=asked.environ)
        if run.returncode != 0:
            raise failed(
                "dbt cannot say where it builds", asked.project_dir, run,
                "correct dbt_project.yml and profiles.yml until `dbt debug` succeeds",
            )  # fmt: skip
        answer = msgspec.json.decode(path.read_bytes(), type=Answer)
    remember(asked, answer)
    return answer.target


def remember(asked: Asked, answer: Answer) -> None:
    """Keep what dbt said, if the folder can be written: it saves time, and nothing else."""
    others = (one for one in _known(asked).get(asked.key, ()) if one.environ != answer.environ)
    known = {asked.key: (answer, *others)} | {key: all_ for key, all_ in _known(asked).items() if key != asked.key}
    kept = {key: answers[:_KEPT] for key, answers in [*known.items()][:_KEPT]}
    with suppress(OSError):
        make_private(asked.cache)
        write_whole(asked.cache / FILE, lambda file: file.write(msgspec.json.encode(kept)))


def fingerprint(value: str | None) -> str:
    """What tells a text, or that there is none, from others."""
    return "" if value is None else blake2b(value.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _known(asked: Asked) -> dict[str, tuple[Answer, ...]]:
    try:
        return msgspec.json.decode((asked.cache / FILE).read_bytes(), type=dict[str, tuple[Answer, ...]])
    except (OSError, *UNREADABLE):
        return {}


def _read(path: Path) -> str:
    try:
        return fingerprint(path.read_bytes().decode(errors="surrogateescape"))
    except OSError:
        return ""
