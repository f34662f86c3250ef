"""The DAGs of the feature warehouse."""

from feature_server.airflow import refresh_dags

refresh_dags()
