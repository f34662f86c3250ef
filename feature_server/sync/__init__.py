"""`features sync`: the latest rows and events → Redis, behind a fence.

Face: `run.sync`, with the options and result of `view`.
"""
