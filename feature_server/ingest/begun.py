"""Keys that pushes began: where Redis had evicted one, what it held before is missing in it.

A push cannot tell a new key from one that was evicted just now. That is noticed within seconds: keys begun meanwhile
are then taken away, so that a read of one is an error until a full sync brings back all of its events.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

REMEMBERED_SECONDS = 10.0  # well beyond the time between two looks at what Redis has evicted


class BegunKeys:
    """The keys that were begun in the last seconds."""

    def __init__(self) -> None:
        self._begun: deque[tuple[float, list[bytes]]] = deque()

    def add(self, keys: Sequence[bytes], sizes: Sequence[int], lengths: Sequence[Any]) -> None:
        """Keys, how many bytes were appended to each, and how many it then had: as many where it is new."""
        now = time.monotonic()
        while self._begun and self._begun[0][0] < now - REMEMBERED_SECONDS:
            self._begun.popleft()
        if new := [key for key, size, length in zip(keys, sizes, lengths, strict=True) if length == size]:
            self._begun.append((now, new))

    def take(self) -> list[bytes]:
        """Those keys, which are then forgotten."""
        since = time.monotonic() - REMEMBERED_SECONDS
        found = [key for at, keys in self._begun if at >= since for key in keys]
        self._begun.clear()
        return found
