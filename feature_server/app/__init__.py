"""The feature server: Feast's HTTP protocol and read-only pages of the registry, as one ASGI application.

Face: `supervisor` (keeps workers alive), `access` (who may ask), `describe` (definitions as JSON). `features` answers
reads and leaves every other path to `pages`; `worker` runs both in a process of its own.
"""
