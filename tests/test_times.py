"""Instants as microseconds: exact both ways over all years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_server.times import from_us, to_us


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_instant_comes_back(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment


def test_instants_by_hand() -> None:
    assert to_us(datetime(1970, 1, 2, 0, 0, 0, 3, UTC)) == 86_400_000_003
    assert to_us(datetime(1969, 12, 31, 23, 59, 59, 999_999)) == -1, "a naive time is UTC"
    assert to_us(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == 0
    assert from_us(-1) == datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)


def test_no_instant_lies_beyond_the_year_9999() -> None:
    with pytest.raises(OverflowError):
        from_us(to_us(datetime.max) + 1)
