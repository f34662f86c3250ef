"""What runs when: an Airflow DAG for each refresh cadence that the project's feature views name. See README.md."""

from __future__ import annotations

from datetime import timedelta

from feature_server.airflow import Cadence, refresh_dags

CADENCES = (
    Cadence("hourly", schedule="0 * * * *", finishes_within=timedelta(minutes=45)),
    Cadence("daily", schedule="0 0 * * *", finishes_within=timedelta(hours=6), tags=("labels",)),
    Cadence("weekly", schedule="0 0 * * 1", finishes_within=timedelta(hours=12)),
)

dags = refresh_dags(CADENCES, catalogue="30 0 * * *", freshness="*/10 * * * *", rebuild="*/10 * * * *")
