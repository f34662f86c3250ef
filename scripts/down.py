"""`make down`: end what `make up` started, and nothing else."""

from __future__ import annotations

import os
import sys

from feature_server.errors import FeatureStoreError
from feature_server.settings import load_settings

from .airflow_env import REPOSITORY
from .services import only_one, recorded, stop

STOP_SECONDS = 60.0


def main() -> int:
    """End every recorded service, last started first; the exit code."""
    folder = load_settings({"FEATURES_PROJECT_DIR": str(REPOSITORY)} | dict(os.environ)).home / "run"
    try:
        with only_one(folder):
            running = recorded(folder)
            for service in running:
                print(stop(service, folder, STOP_SECONDS), flush=True)
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not running:
        print("nothing was up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
