"""Commands of tasks: the programs beside the interpreter that runs the task come first, whatever its PATH is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Context


class Shell(BashOperator):
    """A worker's PATH may lack the environment that it runs in, or name another one before it."""

    def get_env(self, context: Context) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_env(context)
        path = environment.get("PATH") or os.defpath
        return environment | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), path])}
