"""`python -m feature_server` is the `features` command."""

from .cli import main

main()
