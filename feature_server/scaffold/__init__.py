"""What a project needs to begin: written into a dbt project that there is, or as a new one.

Face: `project` (one that there is), `fresh` (a new one), `definitions` (new ones, of a `relation`), `known` (by which
column of that), `live` (events of a table) and `sliding` (views over these), `edits` (what is to be written, shown and
done).
"""
