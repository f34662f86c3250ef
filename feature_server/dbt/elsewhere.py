"""A whole build in another DuckDB file than the project's own, which nobody else waits for."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import yaml

from ..errors import FeatureStoreError, NotFit
from ..project.process import dbt_command, failed, profiles_dir, run_process
from ..settings import Settings
from .build import LastRun, read_last_run
from .session import NO_PROFILES, read_profiles


def build_elsewhere(settings: Settings, file: Path, folder: Path, models: Iterable[str], as_of: str) -> LastRun:
    """Build models, named as dbt selects them, and all upstream of them anew, with their tests, in a copy of the file.

    Profile and artifacts are written to `folder`; the project's own target folder stays as it is. NotFit where a model
    was not built or a test failed.
    """
    profiles, target = _write_profiles(settings, file, folder), folder / "target"
    names = [f"+{name}" for name in models]
    command = [
        *dbt_command(), "--no-use-colors", "build", "--full-refresh", "--indirect-selection", "buildable",
        "--project-dir", str(settings.project_dir), "--profiles-dir", str(profiles), "--target-path", str(target),
        "--vars", msgspec.json.encode({"as_of": as_of}).decode(), "--select", *names,
    ]  # fmt: skip
    env = settings.environment | {"FEATURES_WAREHOUSE": str(file)}
    run = run_process(command, settings.project_dir, environ={**os.environ, **env})
    last = read_last_run(target)
    if last is None or not last.results:
        raise failed("dbt cannot build", settings.project_dir, run, "correct what dbt names, then rebuild again")
    if bad := last.failures():
        raise NotFit(
            "the whole build failed, so what was there before stays",
            where=str(file), expected="all built, and all tests green", got="\n    ".join(bad),
            remedy="correct the data or the model, then rebuild again",
        )  # fmt: skip
    return last


def _write_profiles(settings: Settings, file: Path, folder: Path) -> Path:
    """The project's profiles.yml with the other file in place of each DuckDB file that the targets build."""
    path = profiles_dir(settings.project_dir, settings.environ) / "profiles.yml"
    try:
        text, outputs = read_profiles(path)
    except NO_PROFILES as error:
        raise FeatureStoreError(
            "the profiles of dbt cannot be read", where=str(path), expected="targets of type duckdb", got=repr(error)
        ) from None
    for output in outputs:
        output["path"] = str(file)
    written = folder / "profiles"
    written.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(written / "profiles.yml", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it may have secrets
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        yaml.safe_dump(text, stream)
    return written
