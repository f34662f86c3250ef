"""Example data for the demo project."""
