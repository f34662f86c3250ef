"""Whether the files of an offline table still hold the rows that were published."""

import time
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..offline.damage import damages
from ..offline.log import log_damage
from ..offline.store import OfflineStore


class CheckedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What reading all `files` of one version of a view's table found; `damaged` says it of each damaged one.

    Files of the table's log are among the damaged ones, too.
    """

    view: str
    version: int
    files: int
    damaged: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return (
            f"checked {self.view} version={self.version} files={self.files} damaged={len(self.damaged)} "
            f"seconds={self.seconds:.2f}"
        )


def check_files(view: FeatureView, store: OfflineStore) -> CheckedFiles:
    """Read every file of the view's table at its latest version, and compare its rows with the fingerprint in its name.

    OfflineStoreError for a view that was never published, or whose log is so damaged that it does not name the files.
    """
    started = time.monotonic()
    table = store.table(view.id)
    found = [str(damage) for damage in damages(table)]
    found += [_said(file, what) for file, what in log_damage(table.path)]
    return CheckedFiles(
        view=view.id, version=table.version, files=len(table.files()), damaged=tuple(found),
        seconds=time.monotonic() - started,
    )  # fmt: skip


def _said(file: Path, what: str) -> str:
    return f"{file}: a file of the table's log is damaged: {what}"
