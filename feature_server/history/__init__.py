"""All events of a stream view that are known anywhere: in the table, in landed files, in the log; and values by SQL.

Face: `log` (landing the log in files), `events` (the history), `bases` (lifetime states by SQL), `values`
(features by SQL).
"""
