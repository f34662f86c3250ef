"""Point-in-time correct training sets: a spine joined with each view's history.

Face: `store.FeatureStore`, `sets.TrainingSet`.
"""
