"""What a model's SQL means, however it is written: texts as canonical trees, and what changed between two registries.

Face: `forms` (a model as a hash that formatting, comments and names of CTEs do not change), `settled` (the registry
that the project describes, with the meanings in force where nothing has changed), `explained` (what changed,
and why), `tokens` (what builds tell a definition by).
"""
