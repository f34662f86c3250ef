"""Whether the files of an offline table still hold the rows that were published, and those of events what landed."""

import time
from pathlib import Path

import msgspec

from ..definitions.facts import FeatureView
from ..definitions.stream import EventSource
from ..history.log import landed_damage, landing_folder, live_files
from ..offline.damage import damages
from ..offline.log import damaged_log, log_damage
from ..offline.store import OfflineStore


class CheckedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What reading all `files` of one version of a view's table found; `damaged` says it of each damaged one.

    Files of the table's log are among the damaged ones, too. `remedy` says what to do about them.
    """

    view: str
    version: int
    files: int
    damaged: tuple[str, ...]
    remedy: str | None = None
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
    found, remedies = [str(damage) for damage in damages(table)], list[str]()
    if found:
        remedies.append(f"run `features publish --full {view.id}`, which writes their rows anew")
    if logs := [_said(file, what) for file, what in log_damage(table.path)]:
        remedies.append(str(damaged_log(view.id, table.path).remedy))
    return CheckedFiles(
        view=view.id, version=table.version, files=len(table.files()), damaged=(*found, *logs),
        remedy="; ".join(remedies) or None, seconds=time.monotonic() - started,
    )  # fmt: skip


class CheckedLanded(msgspec.Struct, frozen=True, kw_only=True):
    """What reading the `files` that pushed events of a source have landed in found, as CheckedFiles has it.

    `unchecked` of them, of earlier versions, do not tell whether they have changed. Files of others do not count.
    """

    source: str
    files: int
    damaged: tuple[str, ...]
    unchecked: int
    remedy: str | None = None
    seconds: float

    def __str__(self) -> str:
        return (
            f"checked landed {self.source} files={self.files} damaged={len(self.damaged)} unchecked={self.unchecked} "
            f"seconds={self.seconds:.2f}"
        )


def check_landed(source: EventSource, project_dir: Path) -> CheckedLanded:
    """Read every file that pushed events of a source have landed in."""
    started = time.monotonic()
    files = live_files(landing_folder(source, project_dir)) if source.pattern is not None else []
    found = [(file, *landed_damage(file)) for file in files]
    damaged = tuple(f"{file}: {what}" for file, _, what in found if what is not None)
    remedy = "put each back from a copy; without one delete it, and the next build goes without its events"
    return CheckedLanded(
        source=source.name, files=len(files), damaged=damaged,
        unchecked=sum(not checked and what is None for _, checked, what in found),
        remedy=remedy if damaged else None, seconds=time.monotonic() - started,
    )  # fmt: skip


def _said(file: Path, what: str) -> str:
    return f"{file}: a file of the table's log is damaged: {what}"
