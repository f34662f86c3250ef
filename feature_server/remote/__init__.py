"""Training sets that a feature server makes for others: jobs, each a folder and a process of its own.

Face: `jobs` (what the server's workers do with them).
"""
