"""Airflow on a laptop with nothing configured: `python -m scripts.airflow_env dags list`, or any `airflow` command.

Metadata is a SQLite file under `.features/airflow`, made on first use with the one-slot pool that guards DuckDB.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from feature_server.durable import make_private
from feature_server.settings import Settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[1]
DUCKDB_POOL = "duckdb"


def airflow_environment(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of Airflow, its tasks and whatever else is to see the same world as `settings`.

    What `environ` (this process's by default) says of Airflow already wins.
    """
    given = dict(os.environ if environ is None else environ)
    home = settings.home / "airflow"
    defaults = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "scripts" / "airflow_plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        # On a busy laptop Airflow's own limits (30, 50 and 5 s) make an import error of a DAG and red tasks.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "240",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    binaries = str(Path(sys.executable).parent)
    search = [part for part in given.pop("PATH", os.defpath).split(os.pathsep) if part != binaries]
    return defaults | given | settings.environment | {"PATH": os.pathsep.join([binaries, *search])}


def prepare_airflow(environment: Mapping[str, str]) -> None:
    """Put `environment` in force and make sure of the metadata database and the pool: before airflow is imported."""
    os.environ.update(environment)
    home = Path(environment["AIRFLOW_HOME"])
    make_private(home)
    from airflow import __version__

    made = home / f".made-by-{__version__}"
    if made.exists():
        return
    from airflow.models.pool import Pool
    from airflow.utils.db import upgradedb

    upgradedb()
    Pool.create_or_update_pool(DUCKDB_POOL, slots=1, description="The DuckDB file's one user", include_deferred=False)
    made.touch()


def main(arguments: list[str]) -> None:
    """Run one airflow command line; `dags test` tries nothing again, for somebody is watching."""
    environment = airflow_environment(load_settings())
    if arguments[:2] == ["dags", "test"]:
        environment.setdefault("FEATURES_TASK_RETRIES", "0")
    prepare_airflow(environment)
    from airflow.__main__ import main as airflow

    sys.argv = ["airflow", *arguments]
    airflow()


if __name__ == "__main__":
    main(sys.argv[1:])
