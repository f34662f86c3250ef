"""dbt as a process of its own, and what it says where it fails."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..durable import write_whole
from ..errors import FeatureStoreError, SettingsError

_NOISE = re.compile(
    r"Running with dbt|Registered adapter|partial pars|full parse|Performance info|Error uploading artifacts|^\s*$"
)
PLACES = ("PROFILES_DIR", "PROFILE", "TARGET", "TARGET_PATH")  # dbt's variables that say where it is to build
_GARBAGE = 100_000  # objects that a process makes before it looks for garbage: a sixth of dbt's time goes into that
_MARKS = re.compile(r"[\^~ ]+")  # what stands under a line of code in a stack trace
_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\s\s?")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # before dbt has read its project, it does not heed --no-use-colors


def dbt_command() -> list[str]:
    """The dbt beside this interpreter, so that no other installation answers."""
    beside = Path(sys.executable).parent / "dbt"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "dbt.cli.main"]


def said(environ: Mapping[str, str], name: str) -> str | None:
    """The value of dbt's variable of a name, such as TARGET: DBT_ENGINE_TARGET, or its older name DBT_TARGET."""
    return environ.get(f"DBT_ENGINE_{name}") or environ.get(f"DBT_{name}") or None


def saying(environ: Mapping[str, str], **values: str | None) -> dict[str, str]:
    """The environment with other values of dbt's variables, None for none: `saying(os.environ, target="prod")`."""
    names = {f"DBT_{engine}{name.upper()}" for name in values for engine in ("", "ENGINE_")}
    kept = {name: value for name, value in environ.items() if name not in names}
    return kept | {f"DBT_{name.upper()}": value for name, value in values.items() if value}


def profiles_dir(project_dir: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where dbt reads profiles.yml when we start it: in the project's own `profiles` too, else as it would itself.

    SettingsError where a folder is named that is not there.
    """
    if given := said(environ, "PROFILES_DIR"):
        if not (folder := project_dir / given).is_dir():
            raise SettingsError(
                "the folder of dbt's profiles does not exist", where="--profiles-dir or DBT_PROFILES_DIR",
                expected="the folder of profiles.yml", got=str(folder), remedy="name another folder, or none",
            )  # fmt: skip
        return folder
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
    logged: bool = True,
) -> str:
    """What dbt prints; an error holds dbt's own words. The last build's run_results.json stays as it is.

    An error names dbt's log unless that is not `logged` where dbt writes it by itself.
    """
    command = [*dbt_command(), "--no-use-colors", *arguments, *place_arguments(project_dir)]
    with results_kept(target_path):
        run = run_process(
            [*command, "--target-path", str(target_path)], project_dir, environ={**os.environ, **(env or {})}
        )
    if run.returncode != 0:
        remedy = remedy or f"correct the project until `dbt {' '.join(arguments)}` succeeds"
        raise failed(failure, project_dir, run, remedy, logged=logged)
    return run.stdout


def install_packages(project_dir: Path) -> None:
    """`dbt deps`; FeatureStoreError, in dbt's own words, where it fails."""
    check_project(project_dir)
    command = [*dbt_command(), "--no-use-colors", "--quiet", "deps", *place_arguments(project_dir)]
    if (run := run_process(command, project_dir)).returncode != 0:
        raise failed("dbt cannot install the packages", project_dir, run, "run `dbt deps` when that is mended")


def check_project(folder: Path) -> None:
    """FeatureStoreError where the folder holds no dbt project."""
    if not (folder / "dbt_project.yml").exists():
        raise FeatureStoreError(
            "there is no dbt project", where=str(folder), expected="a folder with dbt_project.yml",
            remedy="run this in its folder, or name that with --project-dir; `features init NAME` makes a new project",
        )  # fmt: skip


def place_arguments(project_dir: Path, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Where dbt finds the project and its profile.

    The project's own `profiles` folder, if any, has its profile unless the environment says otherwise.
    """
    check_project(project_dir)
    folder = profiles_dir(project_dir, environ)
    own = ["--profiles-dir", str(folder)] if folder == project_dir / "profiles" else []
    return ["--project-dir", str(project_dir), *own]


def run_module(
    module: str, project_dir: Path, request: Any, environ: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """A module of ours that imports dbt, as a process: `request` is its standard input, as JSON."""
    given = msgspec.json.encode(request).decode()
    started = f"import gc, runpy; gc.set_threshold({_GARBAGE}); runpy.run_module({module!r}, run_name='__main__')"
    return run_process([sys.executable, "-P", "-c", started], project_dir, given=given, environ=environ)


def run_process(
    command: list[str], project_dir: Path, *, given: str = "", environ: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """A process that is dbt or runs it, with `given` as its standard input."""
    quiet = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"}
    set_ = {name: value for name, value in environ.items() if value or not name.startswith("DBT_")}
    return subprocess.run(
        command, cwd=project_dir, env=set_ | quiet, input=given, capture_output=True, check=False,
        encoding="utf-8", errors="replace",
    )  # fmt: skip


def failed(
    failure: str, project_dir: Path, run: subprocess.CompletedProcess[str], remedy: str, *, logged: bool = True
) -> FeatureStoreError:
    """The error of a process that is dbt or runs it, with dbt's own words where it has any."""
    from .package import unlisted  # which needs the extra `warehouse`: where dbt failed, that is there

    if (error := unlisted(project_dir)) is not None:
        return error
    words = own_words(run.stdout + run.stderr)
    if "'--profiles-dir'" in words or "Could not find profile named" in words:
        remedy = "write the profile that dbt_project.yml names into profiles/profiles.yml, or set DBT_PROFILES_DIR"
    if 'Run "dbt deps"' in words:
        remedy = "run `dbt deps`, which installs the packages that the project names"
    if "does not have a target named" in words:
        remedy = "name one of these with --target or DBT_TARGET"
    return FeatureStoreError(
        failure, where=str(project_dir), got=words, remedy=remedy + (_log(project_dir) if logged else "")
    )


def _log(project_dir: Path) -> str:
    path = project_dir / (said(os.environ, "LOG_PATH") or "logs") / "dbt.log"
    return f"; the rest is in {path}" if path.is_file() else ""


@contextmanager
def results_kept(target_path: Path) -> Iterator[None]:
    """Leave run_results.json as it was before the block: it tells of the last build, and dbt writes it at all times."""
    path = target_path / "run_results.json"
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
