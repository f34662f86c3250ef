"""Lines of an audit trail, as whoever reads its files finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.served import eventually


def lines(path: Path) -> list[dict[str, Any]]:
    """All of them, those put aside first; each is whole."""
    files = sorted(path.parent.glob(f"{path.name}*"), key=lambda file: -int("0" + file.name[len(path.name) + 1 :]))
    try:
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    except FileNotFoundError:  # it was put aside meanwhile
        return lines(path)


def told(path: Path, count: int) -> list[dict[str, Any]]:
    """As many lines as there are to be, without their times."""
    found = eventually(lambda: path.exists() and len(lines(path)) >= count and lines(path))
    assert len(found) == count, found
    return [{name: value for name, value in line.items() if name != "at"} for line in found]
