"""The offline store: a Delta table for each feature view.

Face: `store` (tables, versions, files, what changed), `commit` and `files` (writing a version), `sql` (types and names
in DuckDB's SQL), `session` (DuckDB itself).
"""
