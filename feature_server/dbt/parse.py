"""Having dbt parse the project, and what one of its runs was for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..project.process import run_dbt, saying
from ..project.target import Asked
from ..settings import Settings

PARSE_FAILURE = "dbt cannot parse the project"


def dbt_parse(project_dir: Path, target_path: Path) -> None:
    """Write `target_path`/manifest.json anew from the project's files; an error holds dbt's own words."""
    run_dbt(project_dir, target_path, ["parse"], PARSE_FAILURE)


def asked_of_run(settings: Settings, ran: Mapping[str, Any]) -> Asked:
    """What a run of dbt was for, by its arguments as run_results.json has them."""
    folder = settings.project_dir / str(ran.get("profiles_dir"))
    values = {"target": ran.get("target"), "profile": ran.get("profile")}  # one without had the defaults
    if ran.get("profiles_dir") and folder.is_dir():
        values["profiles_dir"] = str(folder)
    asked = settings.asked
    return msgspec.structs.replace(asked, environ=saying(asked.environ, **values))
