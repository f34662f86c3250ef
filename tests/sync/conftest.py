"""An offline store without tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sync_project import Tables


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "offline")
