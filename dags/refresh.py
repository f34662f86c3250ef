"""What runs when: an Airflow DAG for each refresh cadence that the project's feature views name. See README.md."""

from __future__ import annotations

from datetime import timedelta

from feature_refresh.chain import Cadence, catalogue_dag, refresh_dag
from feature_refresh.project import read_project
from feature_refresh.promises import freshness_dag
from feature_refresh.rebuild import rebuild_dag

CADENCES = (
    Cadence("hourly", schedule="0 * * * *", finishes_within=timedelta(minutes=45)),
    Cadence("daily", schedule="0 0 * * *", finishes_within=timedelta(hours=6), tags=("labels",)),
    Cadence("weekly", schedule="0 0 * * 1", finishes_within=timedelta(hours=12)),
)

project = read_project()
for cadence in CADENCES:
    if project.problem or project.views(cadence.name):
        globals()[f"refresh_{cadence.name}"] = refresh_dag(cadence, project)
catalogue = catalogue_dag("30 0 * * *", project)
if project.promised():
    freshness = freshness_dag("*/10 * * * *", project)
if project.rebuilt():
    rebuild = rebuild_dag("*/10 * * * *", project)
