"""Whatever is done to stream views in any order, each read online is what DuckDB gives for the analyst's own SQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from feature_server.ingest import trim as ingest_trim
from feature_server.sync import writer as online_commands
from tests.interleaving.shop import TRIM_BYTES
from tests.interleaving.store import Machine, Step, random_steps

pytestmark = pytest.mark.heavy

RUNS = int(os.environ.get("FEATURES_INTERLEAVINGS", "3"))
FIRST = int(os.environ.get("FEATURES_FIRST_INTERLEAVING", "0"))
STEPS = 50
READS = 7_000
SHORTEN_SECONDS = 300


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_reads_between_random_pushes_syncs_restarts_and_clock_steps_are_what_the_sql_gives(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_trim, "TRIM_BYTES", TRIM_BYTES)
    monkeypatch.setattr(online_commands, "ROWS_PER_TRANSACTION", 4)
    monkeypatch.setattr(online_commands, "EXPIRING_ROWS_PER_TRANSACTION", 3)
    folders = (tmp_path / str(i) for i in range(1000))

    def attempt(steps: Sequence[Step]) -> tuple[Machine, Exception | None]:
        folder = next(folders)
        folder.mkdir()
        machine = Machine(folder)
        try:
            machine.run(steps)
        except Exception as error:  # noqa: BLE001 - any failure is looked into
            return machine, error
        finally:
            machine.close()
        return machine, None

    steps = random_steps(seed, STEPS)
    machine, error = attempt(steps)
    if error is not None:
        steps = shortened(steps[: len(machine.history)], lambda fewer: type(attempt(fewer)[1]) is type(error))
        shorter, same_error = attempt(steps)
        told = "\n".join([f"seed {seed} fails in these steps: {steps}", *shorter.history])
        raise AssertionError(told) from same_error or error
    assert machine.comparison.reads >= READS


def shortened(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Fewer of the steps that still fail, found by leaving out ever smaller parts."""
    size, deadline = len(steps) // 2, time.monotonic() + SHORTEN_SECONDS
    while size:
        start = 0
        while start < len(steps) and time.monotonic() < deadline:
            fewer = steps[:start] + steps[start + size :]
            if fewer and fails(fewer):
                steps = fewer
            else:
                start += size
        size //= 2
    return steps
