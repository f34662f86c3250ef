"""`dbt parse` and `dbt compile` as processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ..errors import FeatureStoreError
from .artifacts import Manifest, read_manifest

_NOISE = re.compile(r"Running with dbt|Registered adapter|partial pars|full parse|Performance info|^\s*$")
_LOCKED = re.compile(r"Could not set lock on file")
_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\s\s?")


def dbt_command() -> list[str]:
    """The dbt beside this interpreter, so that no other installation answers."""
    beside = Path(sys.executable).parent / "dbt"
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "dbt.cli.main"]


def profiles_dir(project_dir: Path) -> Path | None:
    """The project's own `profiles` folder, when there is one and DBT_PROFILES_DIR is not set; None leaves it to dbt."""
    own = project_dir / "profiles"
    return own if "DBT_PROFILES_DIR" not in os.environ and (own / "profiles.yml").exists() else None


def dbt_parse(project_dir: Path, target_path: Path) -> None:
    """Write `target_path`/manifest.json anew from the project's files; an error holds dbt's own words."""
    _run(project_dir, target_path, ["parse"], "dbt cannot parse the project")


def dbt_manifest(project_dir: Path, target_path: Path) -> None:
    """As `dbt_parse`, and with the compiled SQL of feature views that name a stream and of all models under them.

    Compiling opens the warehouse only for a macro that queries it; that fails while a build holds it.
    """
    dbt_parse(project_dir, target_path)
    names = stream_models(read_manifest(target_path))
    if names:
        arguments = ["compile", "--full-refresh", "--no-populate-cache", "--quiet"]
        arguments += ["--select", *(f"+{name}" for name in names)]
        _run(project_dir, target_path, arguments, "dbt cannot compile the feature views that name a stream")


def stream_models(manifest: Manifest) -> list[str]:
    """The names of the models with `stream` in their feature view."""
    blocks = ((node.name, node.meta.get("feature_view")) for node in manifest.models())
    return sorted({name for name, block in blocks if isinstance(block, dict) and "stream" in block})


def _run(project_dir: Path, target_path: Path, arguments: list[str], failure: str) -> None:
    if not (project_dir / "dbt_project.yml").exists():
        raise FeatureStoreError(
            "there is no dbt project", where=str(project_dir), expected="a folder with dbt_project.yml",
            remedy="run this in the project's folder, or name it with --project-dir",
        )  # fmt: skip
    command = [*dbt_command(), "--no-use-colors", *arguments, "--project-dir", str(project_dir)]
    command += ["--target-path", str(target_path)]
    if (own := profiles_dir(project_dir)) is not None:
        command += ["--profiles-dir", str(own)]
    env = os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, cwd=project_dir, env=env, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        words = _own_words(run.stdout + run.stderr)
        if _LOCKED.search(words):
            raise FeatureStoreError(
                f"{failure} while the warehouse is being built", where=str(project_dir), got=words,
                expected="models that dbt compiles without a query, or a warehouse that nothing holds",
                remedy="wait for the build to end, or take the query (such as run_query) out of the model named",
            )  # fmt: skip
        raise FeatureStoreError(
            failure, where=str(project_dir), got=words,
            remedy=f"correct the project until `dbt {' '.join(arguments)}` succeeds",
        )  # fmt: skip


def _own_words(output: str) -> str:
    """dbt's output without its clock and its progress."""
    lines = [_CLOCK.sub("", line) for line in output.splitlines()]
    kept = [line.strip() for line in lines if not _NOISE.search(line) and line.strip() != "Encountered an error:"]
    return "\n    ".join(kept[-20:]) or "nothing"
