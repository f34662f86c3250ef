"""What dbt wrote and says: its artifacts as structs, a parse by dbt itself, and what its last build made.

Face: `artifacts` (manifest.json, catalog.json), `parse` (dbt run as a process), `compiled` (the SQL of feature views
and of all under them), `build` (run_results.json: refuses relations that the last build wrote elsewhere), `session`
(what dbt builds with), `reading` (dbt itself, in a process of its own: all who import it are one).
"""
