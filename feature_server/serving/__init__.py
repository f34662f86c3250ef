"""A request's features → values, statuses and event timestamps, from the bytes of one round trip.

Face: `reader` (what is asked and given), `drive` (over a connection), `rows`, `stream` (values of one view),
`statuses` (whether an entity has a value, and why not), `counts` (what was served, for metrics).
"""
