"""The `features` command. Face: `main.main`."""
