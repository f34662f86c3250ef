"""The feature server: Feast's HTTP protocol and read-only pages of the registry, as one ASGI application.

`features.FeatureServer` answers reads itself and leaves every other path to `pages`; `worker` runs it in a process of
its own, `supervisor` keeps as many of those alive as were asked for.
"""
