"""One alert a broken freshness promise: what was told of each view last stays beside the registry."""

from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE
from ..settings import Settings
from .freshness import Kept


class News(msgspec.Struct, frozen=True):
    """What is to be told of a view that was not told before: the `cause` of its broken promise, or None and that it is
    kept again."""

    cause: str | None
    text: str


def news(view_id: str, kept: Kept, settings: Settings) -> News | None:
    """What has changed of a promise since something was told of it; None where nothing has, of cause and of state.

    A promise that warns is not broken; broken anew, for the same cause too, it is told anew.
    """
    told = _told(_path(view_id, settings))
    if kept.state == "error" and told != kept.cause:
        return News(kept.cause, f"{view_id} breaks its freshness promise: {kept}")
    if kept.state != "error" and told is not None:
        return News(None, f"{view_id} keeps its freshness promise again" + (f": {kept}" if kept.cause else ""))
    return None


def note_told(view_id: str, cause: str | None, settings: Settings) -> None:
    """Note that news were told, and are none any more."""
    path = _path(view_id, settings)
    if cause is None:
        path.unlink(missing_ok=True)
    else:
        make_private(path.parent)
        write_whole(path, lambda file: file.write(msgspec.json.encode(cause)))


def _path(view_id: str, settings: Settings) -> Path:
    return settings.home / "alerts" / f"{view_id}.json"


def _told(path: Path) -> str | None:
    """The cause that was told last, None where none was; a file that cannot be read was for some cause."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=str)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE):
        return ""
