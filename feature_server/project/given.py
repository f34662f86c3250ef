"""What a dbt project's own files give, as dbt itself reads them: folders, hooks, variables, macros, the profile."""

import os
import tempfile
from pathlib import Path

import msgspec

from .process import check_project, failed, profiles_dir, run_module


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """dbt's command-line arguments, the hooks and the variable that are asked for, and the file for the answer."""

    arguments: list[str]
    environ: dict[str, str]
    hooks: tuple[tuple[str, str, str], ...]  # section, hook, macro
    package: str
    variable: str
    macro: str
    answer: str


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A project as dbt reads it; what is an expression, as its value. Folders are as they are written.

    `hooks` has, of each macro that a hook calls, at which keys of dbt_project.yml it does. `profile_error` is what dbt
    says where it finds no profile; `without_zone` names the profile's outputs in DuckDB whose session has no time zone.
    """

    name: str
    model_paths: tuple[str, ...]
    macro_paths: tuple[str, ...]
    described_paths: tuple[str, ...]
    packages_path: str
    target_path: str
    has_variable: bool
    has_macro: bool
    hooks: dict[str, tuple[str, ...]]
    profile: str | None = None
    profiles_dir: str = ""
    profile_error: str | None = None
    without_zone: tuple[str, ...] = ()


def given_by(root: Path, *, hooks: tuple[tuple[str, str, str], ...], package: str, variable: str, macro: str) -> Given:
    """What the project in a folder gives; FeatureStoreError, in dbt's own words, where dbt cannot read it."""
    check_project(root)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        profiles = profiles_dir(root) if profiles_dir(root).is_dir() else Path(folder)  # dbt wants one that there is
        asking = Asking(
            arguments=["--project-dir", str(root), "--profiles-dir", str(profiles), "--log-path", folder],
            environ=dict(os.environ), hooks=hooks, package=package, variable=variable, macro=macro, answer=str(path),
        )  # fmt: skip
        run = run_module(f"{__package__}.giving", root, asking)
        if run.returncode != 0:
            raise failed(
                "dbt cannot read the project, so nothing is written", root, run,
                "correct it until `dbt parse` succeeds", logged=False,
            )  # fmt: skip
        return msgspec.json.decode(path.read_bytes(), type=Given)
