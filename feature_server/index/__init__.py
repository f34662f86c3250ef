"""A local index of an offline table version: the row or the events of any key at any time.

Face: `find` (rows), `events` (events of a stream view), `values` (their values as Arrow).
"""
