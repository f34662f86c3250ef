"""Is what is online what offline says: `features verify` and `features explain`.

An oracle, it shares no code with reads.
Face: `rows.verify`, `events`, `explain.explain`, `explanation`.
"""
