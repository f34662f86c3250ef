"""dbt as a process of its own, and what it says where it fails."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..durable import write_whole
from ..errors import FeatureStoreError

_NOISE = re.compile(
    r"Running with dbt|Registered adapter|partial pars|full parse|Performance info|Error uploading artifacts|^\s*$"
)
_TARGET = """{{ tojson({
    'profile': target.profile_name, 'name': target.name, 'kind': target.type, 'path': target.get('path') or '',
    'schema': target.schema, 'settings': target.get('settings') or {},
    'config_options': target.get('config_options') or {}
}) }}"""
PARSE_FAILURE = "dbt cannot parse the project"
_MARKS = re.compile(r"[\^~ ]+")  # what stands under a line of code in a stack trace
_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\s\s?")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # before dbt has read its project, it does not heed --no-use-colors


def dbt_command() -> list[str]:
    """The dbt beside this interpreter, so that no other installation answers."""
    beside = Path(sys.executable).parent / "dbt"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "dbt.cli.main"]


def dbt_parse(project_dir: Path, target_path: Path) -> None:
    """Write `target_path`/manifest.json anew from the project's files; an error holds dbt's own words."""
    run_dbt(project_dir, target_path, ["parse"], PARSE_FAILURE)


class Target(msgspec.Struct, frozen=True):
    """Where dbt builds: a target of a profile, of a kind such as `duckdb`, with the path of its database if any.

    `settings` and `config_options` are DuckDB's, for the session.
    """

    profile: str
    name: str
    kind: str
    path: str
    schema: str
    settings: dict[str, Any] = {}
    config_options: dict[str, Any] = {}


def dbt_target(project_dir: Path, target_path: Path, ran: Mapping[str, Any] | None) -> Target:
    """The target that dbt would build; that of a run with the arguments `ran`, as run_results.json has them, if given.

    Takes as long as a `dbt parse`, and writes nothing.
    """
    arguments = ["compile", "--quiet", "--no-write-json", "--no-populate-cache", "--inline", _TARGET]
    env = {}
    if ran is not None:
        env["DBT_TARGET"] = ran.get("target") or ""  # a run without one had the profile's default
        if ran.get("profile"):
            arguments += ["--profile", str(ran["profile"])]
        if (project_dir / str(ran.get("profiles_dir"))).is_dir():
            arguments += ["--profiles-dir", str(project_dir / str(ran["profiles_dir"]))]
    said = run_dbt(project_dir, target_path, arguments, "dbt cannot say where it builds", env=env)
    try:
        return msgspec.json.decode(said[said.index("{") :], type=Target)
    except (ValueError, msgspec.DecodeError):
        raise FeatureStoreError("dbt does not say where it builds", where=str(project_dir), got=said) from None


def profiles_dir(project_dir: Path, ran: Mapping[str, Any] | None = None) -> Path:
    """Where dbt reads profiles.yml for a run with these arguments, or for one that `features` starts."""
    given = (ran or {}).get("profiles_dir") or os.environ.get("DBT_PROFILES_DIR")
    if given and (project_dir / str(given)).is_dir():
        return project_dir / str(given)
    places = (project_dir / "profiles", project_dir)
    return next((place for place in places if (place / "profiles.yml").is_file()), Path.home() / ".dbt")


def run_dbt(
    project_dir: Path,
    target_path: Path,
    arguments: list[str],
    failure: str,
    *,
    env: dict[str, str] | None = None,
    remedy: str | None = None,
) -> str:
    """What dbt prints; an error holds dbt's own words. The last build's run_results.json stays as it is."""
    command = [*dbt_command(), "--no-use-colors", *arguments, *place_arguments(project_dir, arguments)]
    run = run_process([*command, "--target-path", str(target_path)], project_dir, target_path, env=env)
    if run.returncode != 0:
        raise failed(
            failure, project_dir, run, remedy or f"correct the project until `dbt {' '.join(arguments)}` succeeds"
        )
    return run.stdout


def place_arguments(project_dir: Path, arguments: Iterable[str] = ()) -> list[str]:
    """Where dbt finds the project and its profile.

    The project's own `profiles` folder, if any, has its profile unless the arguments or DBT_PROFILES_DIR say otherwise.
    """
    if not (project_dir / "dbt_project.yml").exists():
        raise FeatureStoreError(
            "there is no dbt project", where=str(project_dir), expected="a folder with dbt_project.yml",
            remedy="run this in the project's folder, or name it with --project-dir",
        )  # fmt: skip
    own = project_dir / "profiles"
    given = {"--profiles-dir", "DBT_PROFILES_DIR"} & {*arguments, *os.environ}
    has_own = not given and (own / "profiles.yml").exists()
    return ["--project-dir", str(project_dir), *(["--profiles-dir", str(own)] if has_own else [])]


def run_process(
    command: list[str], project_dir: Path, target_path: Path, *, env: dict[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """A process that is dbt or runs it, with `given` as its standard input; run_results.json stays as it is."""
    quiet = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"}
    environ = {
        name: value for name, value in (os.environ | quiet | (env or {})).items() if value or name != "DBT_TARGET"
    }
    with _kept(target_path / "run_results.json"):
        return subprocess.run(
            command, cwd=project_dir, env=environ, input=given, capture_output=True, check=False, encoding="utf-8",
            errors="replace",
        )  # fmt: skip


def failed(failure: str, project_dir: Path, run: subprocess.CompletedProcess[str], remedy: str) -> FeatureStoreError:
    """The error of a process that is dbt or runs it, with dbt's own words."""
    words = own_words(run.stdout + run.stderr)
    if "'--profiles-dir'" in words or "Could not find profile named" in words:
        remedy = "write the profile that dbt_project.yml names into profiles/profiles.yml, or set DBT_PROFILES_DIR"
    return FeatureStoreError(failure, where=str(project_dir), got=words, remedy=remedy + _log(project_dir))


def _log(project_dir: Path) -> str:
    path = Path(os.environ.get("DBT_LOG_PATH") or project_dir / "logs") / "dbt.log"
    return f"; the rest is in {path}" if path.is_file() else ""


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Leave a file as it was before the block: it tells of the last build, and dbt writes it when it builds nothing."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        elif path.read_bytes() != before:
            write_whole(path, lambda file: file.write(before))


def own_words(output: str) -> str:
    """dbt's output without its clock and its progress; of a stack trace its last lines, which say what went wrong."""
    lines = [_CLOCK.sub("", line) for line in _COLOUR.sub("", output).splitlines()]
    kept = [line.strip() for line in lines if not _NOISE.search(line) and line.strip() != "Encountered an error:"]
    if (
        begun := next((i for i, line in enumerate(kept) if line.startswith("Traceback (most recent")), None)
    ) is not None:
        traced = [i for i, line in enumerate(kept) if line.startswith('File "') and ", line " in line]
        said = [line for line in kept[max([begun, *traced]) + 1 :] if not _MARKS.fullmatch(line)]
        kept = [*kept[:begun], *(said[1:] or said)]  # the first is the line of code
    return "\n    ".join(kept[-20:]) or "nothing"
