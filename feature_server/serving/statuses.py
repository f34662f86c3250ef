"""Whether an entity has a value now, why not, and how many have: one rule for every way in which rows are read."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..times import NEVER

PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"


def absent_at(event_us: Any, now_us: int, ttl_us: int | None) -> dict[int, str]:
    """The entities without a row that counts at `now_us`, and why, from their rows' event timestamps.

    Those are a tuple or a NumPy array. A row from the future is not there yet; NEVER stands for one that is not there.
    """
    times: Iterable[tuple[int, int]] = ()
    oldest_us = -NEVER if ttl_us is None else now_us - ttl_us
    if not isinstance(event_us, tuple):
        outside = event_us > now_us
        if ttl_us is not None:
            outside |= event_us < oldest_us
        places = outside.nonzero()[0]
        if len(places):
            times = zip(places.tolist(), event_us[places].tolist(), strict=True)
    elif max(event_us) > now_us or (ttl_us is not None and min(event_us) < oldest_us):
        times = [(i, at_us) for i, at_us in enumerate(event_us) if at_us > now_us or at_us < oldest_us]
    return {i: NOT_FOUND if at_us > now_us else OUTSIDE_MAX_AGE for i, at_us in times}


class ValueCounts(msgspec.Struct):
    """How many values of one view were answered with each status."""

    present: int = 0
    null_value: int = 0
    not_found: int = 0
    outside_max_age: int = 0

    def add(self, rows: int, features: int, empty: int, absent: Mapping[int, str]) -> None:
        """Count the values of some features: `empty` ones are null, among them all of the `absent` entities."""
        self.present += rows * features - empty
        if empty:
            expired = sum(1 for status in absent.values() if status is OUTSIDE_MAX_AGE)
            self.outside_max_age += expired * features
            self.not_found += (len(absent) - expired) * features
            self.null_value += empty - len(absent) * features
