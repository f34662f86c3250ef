"""The log of a Delta table: which of its files is damaged, empty or gone."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UNREADABLE, OfflineStoreError

CHECKPOINT_INTERVAL = 50


class DamagedLog(OfflineStoreError):
    """A file of a table's log that cannot be read."""


def commit_file(path: Path, version: int) -> Path:
    """The file that says what a version of the table at `path` changed."""
    return path / "_delta_log" / f"{version:020}.json"


def damaged_log(view_id: str, path: Path, *, got: str | None = None) -> DamagedLog:
    """The error that names the first damaged file of the log; `got` is what the reader said of the whole."""
    file, found = next(log_damage(path), (path / "_delta_log", got or "a log that is not of this product's tables"))
    remedy = f"restore it, or move {path} away and run `features publish {view_id}`; older versions are then gone"
    if not os.access(file, os.R_OK) and os.path.lexists(file):
        remedy = f"see that user {os.getuid()} may read it; else {remedy}"
    if file.suffix == ".parquet":
        remedy = f"remove it and {file.with_name('_last_checkpoint')}: the log says the same without them"
    return DamagedLog(
        "the table's log is damaged", where=f"{view_id}: {file}", expected="a file of a Delta log", got=found,
        remedy=remedy,
    )  # fmt: skip


def log_damage(path: Path) -> Iterator[tuple[Path, str]]:
    """The damaged files of the log of the table at `path`, and what is wrong with each."""
    log = path / "_delta_log"
    try:
        names = os.listdir(log)
    except OSError as error:
        yield log, str(error)
        return
    files = {
        int(file.stem): file for file in map(log.joinpath, names) if file.suffix == ".json" and file.stem.isdigit()
    }
    for version in range(max(files, default=0) + 1):
        found = _commit_damage(files[version]) if version in files else "it is missing"
        if found is not None:
            yield commit_file(path, version), found
    for checkpoint in sorted(log.glob("*.checkpoint.parquet")):
        try:
            pq.read_table(checkpoint)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield checkpoint, str(error).splitlines()[0]


def check_recent_commits(view_id: str, path: Path, version: int) -> None:
    """DamagedLog for a commit up to `version` that is empty, which Delta readers take for one without changes."""
    for number in range(max(0, version - 2 * CHECKPOINT_INTERVAL), version + 1):
        file = commit_file(path, number)
        if file.exists() and file.stat().st_size == 0:
            raise damaged_log(view_id, path)


def _commit_damage(file: Path) -> str | None:
    try:
        lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    except (OSError, *UNREADABLE) as error:
        return str(error)
    if not all(isinstance(line, dict) for line in lines):
        return "lines that are no JSON objects"
    return None if lines else "it is empty"
