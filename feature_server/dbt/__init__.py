"""What dbt wrote and says: its artifacts as structs, a parse by dbt itself, and what its last build made.

Face: `artifacts` (manifest.json, catalog.json), `parse` (dbt run as a process), `build` (run_results.json: refuses
relations that the last build wrote elsewhere). dbt is never imported.
"""
