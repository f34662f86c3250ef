"""The example's world: what it is made of, when it ends, and how `make demo` and `make up` load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feature_server.settings import Settings

CLOCK = "2013-12-30T23:00:00Z"  # the example's flights flew in 2013; its world ends here
LANDED = (
    ("departures", "every flight that left New York in 2013 or was cancelled (real)"),
    ("arrivals", "the same flights where they arrived (real)"),
    ("transactions", "card payments: bursts, late and corrected rows, refunds (generated)"),
    ("visits", "site visits of the same customers (generated)"),
    ("fraud_reports", "payments found to be fraud, days later (generated)"),
)


def has_example(project_dir: Path) -> bool:
    """Whether the project still has the generators of the example data."""
    return all((project_dir / "examples" / f"{feed}.py").exists() for feed in ("payments", "flights"))


def is_loaded(settings: Settings) -> bool:
    """Whether `load` has run to its end."""
    landed = [any((settings.home / "landing" / name).glob("*.parquet")) for name, _ in LANDED]
    return all(landed) and settings.registry_path.exists()


def load(run: Callable[[str], str], settings: Settings) -> dict[str, Any]:
    """Write the data's files and put the definitions in force; what `features apply` says.

    `run` runs a command and gives its output.
    """
    for feed in ("payments", "flights"):
        run(f"python -m examples.{feed} --out {shown(settings.home / 'landing', settings)}")
    applied: dict[str, Any] = json.loads(run("features apply --json"))
    return applied


def shown(path: Path, settings: Settings) -> str:
    """A path as a person in the project folder would type it."""
    return str(path.relative_to(settings.project_dir)) if path.is_relative_to(settings.project_dir) else str(path)
