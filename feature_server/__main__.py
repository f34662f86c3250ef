"""`python -m feature_server` is the `features` command."""

from .cli.main import main

main()
