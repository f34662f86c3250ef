"""Large events are written a few at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_server.layout import portions as module
from feature_server.layout.portions import portions


@given(st.lists(st.integers(0, 12)), st.integers(1, 4))
def test_portions_keep_the_order_and_are_as_large_as_both_limits_allow(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PORTION_BYTES", 10)
        found = list(portions(sizes, lambda size: size, most))
    assert [size for portion in found for size in portion] == sizes
    for portion in found:
        assert 1 <= len(portion) <= most
        assert sum(portion) <= 10 or len(portion) == 1
    for portion, after in pairwise(found):
        assert len(portion) == most or sum(portion) + after[0] > 10
