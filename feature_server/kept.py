"""Results kept by a hash of all that they are made from, so that what has not changed is not reckoned again.

Another version of this code or of a library that it reckons by is another hash: a result is what it would be anew.
"""

from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .durable import write_whole
from .errors import UNREADABLE

_RECKONED_BY = ("dbt-core", "dbt-adapters", "dbt-common", "dbt-duckdb", "duckdb", "jinja2", "sqlglot")
T = TypeVar("T")


class Kept:
    """The results in one file. `write` leaves those that were asked for, and the latest of the others."""

    def __init__(self, path: Path | None = None) -> None:
        """Without a path nothing is kept. A file that cannot be read holds nothing."""
        self.path, self._used = path, dict[str, msgspec.Raw]()
        self._found: dict[str, msgspec.Raw] = {}
        if path is not None:
            try:
                self._found = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
            except (OSError, *UNREADABLE):
                pass

    def get(self, made_from: Any, kind: type[T], make: Callable[[], T]) -> T:
        """What `make` gives, a value of a `kind` that JSON can hold; `made_from` is all that this depends on."""
        if self.path is None:
            return make()
        key = digest([code(), made_from])
        if (found := self._found.get(key)) is not None:
            try:
                value = msgspec.json.decode(found, type=kind)
            except UNREADABLE:
                pass
            else:
                self._used[key] = found
                return value
        value = make()
        self._used[key] = msgspec.Raw(msgspec.json.encode(value))
        return value

    def write(self) -> None:
        """Keep what was asked for, if any of it is new."""
        if self.path is None or self._used.keys() <= self._found.keys():
            return
        others = [pair for pair in self._found.items() if pair[0] not in self._used]
        kept = self._used | dict(others[: 2 * len(self._used)])
        write_whole(self.path, lambda file: file.write(msgspec.json.encode(kept)))


def digest(value: Any) -> str:
    """32 hex digits of anything that JSON can hold, dicts in whatever order; of other things, of their text."""
    return _digest(value, 16)


def short_digest(value: Any) -> str:
    """The same in 16 hex digits, as registries hold them."""
    return _digest(value, 8)


def _digest(value: Any, size: int) -> str:
    return blake2b(msgspec.json.encode(value, order="deterministic", enc_hook=str), digest_size=size).hexdigest()


@cache
def code() -> str:
    """What tells this code, and the libraries that results are reckoned by, from other versions of them."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    stamps = [(str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
    return digest([stamps, [_version(name) for name in _RECKONED_BY]])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
