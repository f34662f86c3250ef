"""Queries by sqlglot's tree of them: their parts, what is known of rows, which columns say when.

Face: `parts`, `rows`, `times`, `ends`, `lists`, and the others that docs/architecture.md names.
"""
