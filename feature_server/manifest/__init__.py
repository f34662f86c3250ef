"""dbt's manifest → the project's Registry, or every mistake in its definitions at once.

Face: `load.load_registry`, `schedule` (what a schedule has to know), `blocks` (names that there may be), `reading`
(what a model reads). One module for each kind of thing that is read.
"""
