"""Airflow's DAGs of a project: `from feature_server.airflow import refresh_dags`, in a file of Airflow's DAG folder.

Face: `dags` (the DAGs, and what is said of them). Its names are here too, loaded when a DAG file
first uses them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dags import Cadence as Cadence
    from .dags import refresh_dags as refresh_dags

__all__ = ["Cadence", "refresh_dags"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ..extras import needed

        with needed(f"{__name__}.{name}"):
            from . import dags

        return getattr(dags, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
