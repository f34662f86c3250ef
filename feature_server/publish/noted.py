"""What the last runs of each view with a freshness promise came to: a small file a view beside the registry."""

from pathlib import Path
from typing import Literal

import msgspec

from ..definitions.facts import FeatureView
from ..durable import make_private, write_whole
from ..errors import UNREADABLE, FeatureStoreError, NotApplied, OfflineStoreError
from ..settings import Settings

NO_LOG = "its warehouse has no build log that says of when its rows speak, so its newest event alone is known"
Cause = Literal["not applied", "not landed", "no data", "build failed", "not published", "not synced"]


class GoodRun(msgspec.Struct, frozen=True):
    """A run that was built, tested and published at `at_us`, by the clock, and spoke of the instant `as_of_us`."""

    as_of_us: int
    at_us: int


class Noted(msgspec.Struct, frozen=True):
    """The last good run of a view, and what is wrong with the last run if it was none."""

    good: GoodRun | None = None
    cause: Cause | None = None
    said: str = ""


def read_noted(view_id: str, settings: Settings) -> Noted:
    """What was noted of a view; nothing where there is no file, or none that can be read: the next run writes it."""
    try:
        return msgspec.json.decode(_path(view_id, settings).read_bytes(), type=Noted)
    except (OSError, *UNREADABLE):
        return Noted()


def good_us(view_id: str, settings: Settings) -> int | None:
    """The instant that the last good run of a view spoke of, where it is known."""
    good = read_noted(view_id, settings).good
    return None if good is None else good.as_of_us


def note_published(view: FeatureView, settings: Settings, *, as_of_us: int | None, stale: str | None) -> None:
    """Note that a run was published: a good one unless a source upstream was `stale`, or it is not known of when it
    spoke."""
    before, now_us = read_noted(view.id, settings).good, settings.now_us()
    if stale is not None:
        _write(view, settings, Noted(before, "no data", stale))
    elif as_of_us is None:
        _write(view, settings, Noted(before, said=NO_LOG))
    elif before is not None and before.as_of_us == as_of_us:
        _write(view, settings, Noted(before))
    else:
        _write(view, settings, Noted(GoodRun(as_of_us, now_us)))


def note_failed(view: FeatureView, settings: Settings, error: FeatureStoreError) -> None:
    """Note why a run was not published."""
    cause: Cause = "build failed"
    if isinstance(error, NotApplied):
        cause = "not applied"
    elif isinstance(error, OfflineStoreError):
        cause = "not published"
    _write(view, settings, Noted(read_noted(view.id, settings).good, cause, str(error).splitlines()[0]))


def _write(view: FeatureView, settings: Settings, noted: Noted) -> None:
    path = _path(view.id, settings)
    make_private(path.parent)
    write_whole(path, lambda file: file.write(msgspec.json.encode(noted)))


def _path(view_id: str, settings: Settings) -> Path:
    return settings.home / "runs" / f"{view_id}.json"
