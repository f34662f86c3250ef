"""`features publish`: a view's relation in the warehouse → its Delta table, as far as they differ.

Face: `run.publish`.
"""
