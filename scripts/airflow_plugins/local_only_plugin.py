"""Airflow on a laptop asks for no login: it must answer nobody but this machine's own pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

sys.path.append(str(Path(__file__).resolve().parents[2]))  # Airflow's programs do not start in the repository

from scripts.local_only import LocalOnly


class LocalOnlyPlugin(AirflowPlugin):
    name = "local_only"
    fastapi_root_middlewares: ClassVar[list[Any]] = [{"name": "local_only", "middleware": LocalOnly}]
