"""The light client, over HTTP or straight at Redis, and in an event loop.

Face: `features` (FeatureClient, AsyncFeatureClient), `result` (what they give).
"""
