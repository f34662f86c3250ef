"""`features sync`: the latest rows and events → Redis, behind a fence.

Face: `run.sync`, with its options and result.
"""
