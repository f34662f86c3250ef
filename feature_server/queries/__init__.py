"""Queries by sqlglot's tree of them: their parts, what is known of rows, which columns say when.

Face: `parts`, `rows`, `times`, `lists`.
"""
