"""A request's features → values, statuses and event timestamps, from the bytes of one round trip.

Face: `reader` (what is asked and given), `drive` (over a connection), `rows`, `stream` (values of one view),
`counts` (what was served, for metrics).
"""
