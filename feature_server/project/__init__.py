"""The dbt project: which profile, target and warehouse dbt itself would take, and dbt as a process.

Face: `process` (dbt, run as a process), `package` (the dbt package), `target` (where dbt builds), `resolving` (the same
within a process that runs dbt).
"""
