"""Whole builds of a project as of several instants, in a scratch folder. Face: `scratch`."""
