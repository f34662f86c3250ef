"""A stream view that is online, and what takes in its events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feature_server.definitions.facts import FeatureView
from feature_server.ingest.transaction import Ingestor
from tests.support.pushed import Clock
from tests.support.stream_views import put_online, stream_view


@pytest.fixture(scope="module")
def view() -> FeatureView:
    return stream_view()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ingestor(valkey: str, view: FeatureView, clock: Clock) -> Iterator[Ingestor]:
    put_online(valkey, view)
    with Ingestor(valkey, clock, expire=False) as ingestor:
        yield ingestor
