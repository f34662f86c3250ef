"""The `features` command. Face: `main.main`.

Each group of commands lives in its own module; none holds logic of its own.
"""
