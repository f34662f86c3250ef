"""Keys with very many events are cut down to those that can still matter, so that none grows without bound."""

import logging
from collections.abc import Sequence

from ..definitions.facts import FeatureView
from ..errors import OnlineStoreError, OnlineStoreRefused
from ..layout.decode import EventDecoder
from .link import Changed, Link

_log = logging.getLogger(__name__)
TRIM_BYTES = 64 << 10  # a key up to this long is left alone


class Trimmer:
    """Trims keys of one stream view; `keep_us` is how long an event matters, None for ever."""

    def __init__(self, view: FeatureView, keep_us: int | None) -> None:
        self._view_id, self._decoder = view.id, EventDecoder(view)
        self._keep_us = keep_us
        self._denied = False  # whether this user of Redis may not read them: who writes what is pii need not read it
        self._kept: dict[bytes, int] = {}  # bytes that were left of the keys trimmed so far

    def grown(self, link: Link, keys: Sequence[bytes], lengths: Sequence[int], now_us: int) -> None:
        """Trim the keys that have grown long, by their length in bytes now."""
        if max(lengths, default=0) <= TRIM_BYTES or self._denied:
            return
        for key, length in zip(keys, lengths, strict=True):
            if length > TRIM_BYTES and length > 2 * self._kept.get(key, 0):
                try:
                    self._trim(link, key, now_us)
                except OnlineStoreRefused as error:
                    if not (error.got or "").startswith("NOPERM"):
                        raise
                    self._denied = True
                    _log.warning("%s: long keys of pii are not cut down: %s", self._view_id, error)
                    return

    def _trim(self, link: Link, key: bytes, now_us: int) -> None:
        stored = link.ask(b"GET", key)
        if stored is None:
            return
        before_us = None if self._keep_us is None else now_us - self._keep_us
        try:
            trimmed = self._decoder.trimmed(stored, before_us)
        except OnlineStoreError:
            trimmed = stored  # damaged: a read of the key says so, and the push is done
        self._kept[key] = len(trimmed)
        if len(trimmed) == len(stored):
            return
        try:
            link.replace(key, stored, (b"SET", key, trimmed, b"KEEPTTL"))
        except Changed:
            self._kept.pop(key)  # another push came between: the next one trims
