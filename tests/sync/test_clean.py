"""What a sync deletes of what no reader uses any more, and what it does not."""

from __future__ import annotations

import shutil

import msgspec
import pytest
import redis

from feature_server.errors import OnlineStoreError
from feature_server.layout.keys import CODES
from feature_server.online.registry import OnlineRegistry, OnlineView
from feature_server.online.store import OnlineStore
from tests.support.sync_project import (
    VIEW,
    Tables,
    at,
    registry_of,
    run_sync,
    spend,
    sync_one,
)


def test_rows_of_a_lost_offline_table_are_reported_and_swept_when_asked(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(5), 5.0) for key in range(20)]])
    run_sync(valkey, tables, VIEW, now=at(10))
    shutil.rmtree(tables.store.path(VIEW.id))
    with pytest.raises(OnlineStoreError, match=r"cannot be listed(.|\n)*features sync --sweep"):
        run_sync(valkey, tables, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        client.set("mine", "1")
        client.set("10{5}", "1")
        assert client.exists("1{5}")
        (swept,) = run_sync(valkey, tables, now=at(10), sweep=True).results
        assert (swept.mode, swept.deleted) == ("removed", 20)
        assert client.exists("mine", "10{5}") == 2
        assert client.hlen(CODES) == 0


def test_a_lost_record_of_a_code_is_made_up_for(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        client.delete(CODES)
    tables.commit(VIEW, [[(1, at(6), 6.0)]])
    assert sync_one(valkey, tables, VIEW, now=at(10)).mode == "changes"
    assert spend(valkey) == {"1": 6.0}


@pytest.mark.parametrize("already_online", [False, True])
def test_a_code_that_a_killed_sync_was_filling_gets_no_pushes_any_more(
    valkey: str, tables: Tables, already_online: bool
) -> None:
    tables.commit(VIEW, [[(1, at(0), 1.0)]])
    if already_online:
        sync_one(valkey, tables, VIEW, now=at(10))
    left = OnlineView(code="left", definition=VIEW, table_version=0, synced_at_us=0, rows=0)

    def with_left(now: OnlineRegistry | None) -> OnlineRegistry:
        return msgspec.structs.replace(now or OnlineRegistry(registry=registry_of(VIEW)), filling={VIEW.id: left})

    with OnlineStore(valkey) as store:
        store.publish(with_left)
        sync_one(valkey, tables, VIEW, now=at(11))
        assert store.registry().filling == {}
    assert spend(valkey) == {"1": 1.0}
