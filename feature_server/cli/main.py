"""The `features` command. Each group of commands lives in its own module; none holds logic of its own."""

import importlib
import os
import signal
import sys

import typer

from ..errors import FeatureStoreError
from .common import app

COMMAND_MODULES = ("definitions", "offline", "training", "online", "serve", "stream", "catalog")  # as --help lists them


def load_commands() -> typer.Typer:
    """The app with every command: each module adds its own when it is imported."""
    for name in COMMAND_MODULES:
        importlib.import_module(f"{__package__}.{name}")
    return app


def main() -> None:
    """Run the command line: exit code 0 good, 1 the thing failed or offenders were found, 2 wrong usage."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is open is closed on the way out
    try:
        load_commands()()
    except FeatureStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
