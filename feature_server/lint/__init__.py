"""Leaky and unstable SQL of feature views and of what is under them, found in the project's files as they are written.

Face: `run` (every finding of a project, with file and line). Without dbt, which takes seconds to begin.
"""
