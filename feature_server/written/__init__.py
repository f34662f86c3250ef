"""A dbt project's files as they are written: models rendered by their Jinja, what YAML says of them, without dbt.

Face: `project` (the files, as dbt finds them), `described` (their YAML), `rendering` (SQL), `marks` (where it stands).
"""
