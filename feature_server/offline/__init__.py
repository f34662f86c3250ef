"""The offline store: a Delta table for each feature view, and dbt's warehouse that it is published from.

Face: `store` (tables, versions, files, what changed), `commit` and `files` (writing a version), `sql` (types and names
in DuckDB's SQL), `warehouse` (dbt's DuckDB file).
"""
