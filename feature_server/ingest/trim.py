"""Keys with very many events are cut down to those that can still matter, so that none grows without bound."""

from collections.abc import Sequence

from ..definitions.facts import FeatureView
from ..errors import OnlineStoreError
from ..layout.decode import EventDecoder
from .link import Changed, Link

TRIM_BYTES = 64 << 10  # a key up to this long is left alone


class Trimmer:
    """Trims keys of one stream view; `keep_us` is how long an event matters, None for ever."""

    def __init__(self, view: FeatureView, keep_us: int | None) -> None:
        self._decoder = EventDecoder(view)
        self._keep_us = keep_us
        self._kept: dict[bytes, int] = {}  # bytes that were left of the keys trimmed so far

    def grown(self, link: Link, keys: Sequence[bytes], lengths: Sequence[int], now_us: int) -> None:
        """Trim the keys that have grown long, by their length in bytes now."""
        if max(lengths, default=0) <= TRIM_BYTES:
            return
        for key, length in zip(keys, lengths, strict=True):
            if length > TRIM_BYTES and length > 2 * self._kept.get(key, 0):
                self._trim(link, key, now_us)

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
