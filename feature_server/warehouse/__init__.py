"""The warehouse that dbt builds, and its dialect of SQL: one DuckDB file, read and never written.

Face: `relations` (what the relation of a view holds, and its rows as files), `file` (names and places of dbt's file),
`ties` (rows that chance would choose among), `columns` (those of any relation).
"""
