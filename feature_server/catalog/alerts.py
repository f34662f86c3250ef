"""One alert a broken freshness promise: what was told of each view last stays beside the registry."""

from pathlib import Path

import msgspec

from ..durable import make_private, write_whole
from ..errors import UNREADABLE
from ..settings import Settings
from .freshness import Kept


class News(msgspec.Struct, frozen=True):
    """What is to be told of a view that was not told before: `broken` is false when its promise is kept again."""

    broken: bool
    text: str


def news(view_id: str, kept: Kept, settings: Settings) -> News | None:
    """What has changed of a promise since this was asked last; None where nothing has, of cause and of state.

    A promise that warns is neither broken nor kept again.
    """
    path = settings.home / "alerts" / f"{view_id}.json"
    told = _told(path)
    if kept.state == "error" and told != kept.cause:
        make_private(path.parent)
        write_whole(path, lambda file: file.write(msgspec.json.encode(kept.cause)))
        return News(True, f"{view_id} breaks its freshness promise: {kept}")
    if kept.state == "pass" and told is not None:
        path.unlink()
        return News(False, f"{view_id} keeps its freshness promise again")
    return None


def _told(path: Path) -> str | None:
    """The cause that was told last, None where none was; a file that cannot be read was for some cause."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=str)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE):
        return ""
