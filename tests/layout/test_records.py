"""Records of one key: taken apart where they end, and refused where they cannot be whole."""

from __future__ import annotations

import pytest

from feature_server.errors import OnlineStoreError
from feature_server.layout.events import LENGTH_BYTES, record_view
from feature_server.layout.records import Records
from feature_server.layout.row import RowLayout
from tests.support.stream_views import stream_view

VIEW = stream_view()  # it keeps a merchant's name, so each record has its length before it
WIDTH = RowLayout(record_view(VIEW).features).width


def record(length: int) -> bytes:
    return length.to_bytes(LENGTH_BYTES, "little") + bytes(length)


def test_records_of_any_length_are_taken_apart() -> None:
    whole = [record(WIDTH), record(WIDTH + 7), record(WIDTH)]
    assert Records(VIEW).split(b"".join(whole)) == whole


@pytest.mark.parametrize(
    "value", [record(WIDTH)[:-1], record(WIDTH) + b"\0", record(WIDTH - 1), record(0)],
    ids=["cut off", "a byte too many", "shorter than its head", "empty"],
)  # fmt: skip
def test_records_that_cannot_be_whole_are_refused(value: bytes) -> None:
    with pytest.raises(OnlineStoreError, match="customer__payments"):
        Records(VIEW).split(value)
