"""What is online after a sync: the latest row of each key at that moment, and nothing else."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from feature_server.errors import (
    FeatureStoreError,
    OfflineStoreError,
    OnlineStoreError,
    OnlineStoreUnavailable,
    RequestError,
)
from feature_server.layout.keys import CODES, EPOCH
from feature_server.offline.together import begin, end
from feature_server.online.registry import decode_online_registry
from feature_server.online.store import OnlineStore
from feature_server.sync.run import SyncResult, sync
from feature_server.times import to_us
from tests.support.sync_project import (
    VIEW,
    Tables,
    at,
    expected_rows,
    make_view,
    online_rows,
    registry_of,
    run_sync,
    spend,
    sync_one,
)


def epoch(url: str) -> bytes:
    with redis.Redis.from_url(url) as client:
        return client.get(EPOCH)


def test_the_latest_row_of_each_key_is_online(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(0), 1.0), (1, at(5), 2.0), (2, at(3), 3.0)], [(1, at(7), 4.0), (3, at(8), None)]])
    result = sync_one(valkey, tables, VIEW, now=at(10))
    assert online_rows(valkey, VIEW) == {
        ("1",): (to_us(at(7)), [4.0]),
        ("2",): (to_us(at(3)), [3.0]),
        ("3",): (to_us(at(8)), [None]),
    }
    assert (result.mode, result.rows, result.deleted, result.online) == ("full", 3, 0, 3)
    assert str(result).startswith("synced customer__spend rows=3 deleted=0 seconds=")
    assert str(result).endswith("newest=2024-01-01T00:08:00Z version=0")


def test_only_keys_of_files_that_changed_are_written(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(0), 0.0) for key in range(100)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    tables.commit(VIEW, [[(7, at(1), 1.0), (200, at(1), 2.0)]])
    result = sync_one(valkey, tables, VIEW, now=at(10))
    assert (result.mode, result.rows, result.deleted, result.online) == ("changes", 2, 0, 101)
    assert sync_one(valkey, tables, VIEW, now=at(11)).rows == 0


def test_a_late_row_does_not_replace_a_newer_one(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    tables.commit(VIEW, [[(1, at(2), 2.0), (2, at(1), 1.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    assert spend(valkey) == {"1": 5.0, "2": 1.0}


def test_a_corrected_row_replaces_the_one_it_corrects(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)], [(2, at(6), 6.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    old = [file for file in tables.store.table(VIEW.id).files() if file.min_event_us == to_us(at(5))]
    tables.commit(VIEW, [[(1, at(5), 50.0)]], old)
    assert sync_one(valkey, tables, VIEW, now=at(10)).rows == 1
    assert spend(valkey) == {"1": 50.0, "2": 6.0}


def test_of_two_rows_at_one_time_the_later_created_wins_and_an_unknown_time_loses(valkey: str, tables: Tables) -> None:
    view = make_view(created=True)
    tables.commit(view, [[(1, at(5), at(9), 9.0), (2, at(5), None, 0.0)], [(1, at(5), at(8), 8.0)]])
    sync_one(valkey, tables, view, now=at(10))
    assert spend(valkey, view) == {"1": 9.0, "2": 0.0}
    tables.commit(view, [[(1, at(5), at(10), 10.0), (2, at(5), at(5), 5.0)]])
    sync_one(valkey, tables, view, now=at(10))
    assert spend(valkey, view) == {"1": 10.0, "2": 5.0}


def test_a_key_that_vanished_from_the_history_is_deleted(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0), (2, at(5), 5.0)], [(2, at(3), 3.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    old = [file for file in tables.store.table(VIEW.id).files() if file.rows == 2]
    tables.commit(VIEW, [], old)
    result = sync_one(valkey, tables, VIEW, now=at(10))
    assert (result.rows, result.deleted, result.online) == (1, 1, 1)
    assert spend(valkey) == {"2": 3.0}


def test_a_row_of_the_future_is_online_once_its_time_has_come(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0), (1, at(20), 20.0), (2, at(15), 15.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    assert spend(valkey) == {"1": 5.0}
    sync_one(valkey, tables, VIEW, now=at(15))
    assert spend(valkey) == {"1": 5.0, "2": 15.0}
    assert sync_one(valkey, tables, VIEW, now=at(20)).newest_event_us == to_us(at(20))
    assert spend(valkey) == {"1": 20.0, "2": 15.0}


def test_a_replay_at_an_earlier_time_takes_nothing_back_unless_it_is_full(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0), (1, at(8), 8.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    sync_one(valkey, tables, VIEW, now=at(6))
    assert spend(valkey) == {"1": 8.0}
    sync_one(valkey, tables, VIEW, now=at(6), full=True)
    assert spend(valkey) == {"1": 5.0}


def test_an_older_table_version_is_refused_unless_it_is_full(valkey: str, tables: Tables, tmp_path: Path) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    shutil.copytree(tmp_path / "offline", tmp_path / "backup")
    tables.commit(VIEW, [[(1, at(6), 6.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    backup = Tables(tmp_path / "backup")
    with pytest.raises(OfflineStoreError, match="older than what is online"):
        sync_one(valkey, backup, VIEW, now=at(10))
    assert spend(valkey) == {"1": 6.0}
    sync_one(valkey, backup, VIEW, now=at(10), full=True, sweep=True)
    assert spend(valkey) == {"1": 5.0}


def test_full_repairs_rows_that_somebody_spoilt(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(5), 5.0) for key in range(50)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        client.delete("1{7}")
        client.set("1{8}", b"spoilt")
    result = sync_one(valkey, tables, VIEW, now=at(10), full=True)
    assert (result.mode, result.rows, result.deleted, result.online) == ("full", 50, 0, 50)
    assert online_rows(valkey, VIEW) == expected_rows(VIEW, tables.rows(VIEW), at(10))


def test_a_new_definition_gets_new_keys_and_the_old_ones_go(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(5), 5.0) for key in range(50)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    before = epoch(valkey)
    wider = make_view(features={"spend": "float64", "note": "string"})
    tables.commit(wider, [[(1, at(6), 6.0, "six"), (2, at(7), None, None)]])
    result = sync_one(valkey, tables, wider, now=at(10))
    assert (result.mode, result.rows, result.online) == ("full", 2, 2)
    assert online_rows(valkey, wider) == {("1",): (to_us(at(6)), [6.0, "six"]), ("2",): (to_us(at(7)), [None, None])}
    assert epoch(valkey) != before
    with redis.Redis.from_url(valkey) as client:
        assert client.hkeys(CODES) == [b"2"]


def test_a_definition_that_is_not_published_yet_is_not_synced(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    with pytest.raises(OfflineStoreError, match="the definition in force is not the one that was published"):
        sync_one(valkey, tables, make_view(features={"other": "int64"}), now=at(10))
    assert spend(valkey) == {"1": 5.0}


def test_descriptions_and_new_services_are_published_when_no_row_changed(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    before = epoch(valkey)
    with OnlineStore(valkey) as online:
        sync(online, tables.store, registry_of(), views=[], now_us=lambda: to_us(at(10)))
        assert epoch(valkey) != before
        found = online.registry()
    assert found is not None
    assert found.registry.feature_views == ()
    assert list(found.views) == [VIEW.id]


def test_taking_a_view_away_deletes_its_rows_and_no_others_without_a_scan(valkey: str, tables: Tables) -> None:
    other = make_view("customer__visits", features={"visits": "int64"})
    tables.commit(VIEW, [[(key, at(5), 5.0) for key in range(500)]])
    tables.commit(other, [[(key, at(5), key) for key in range(300)]])
    run_sync(valkey, tables, VIEW, other, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        client.set("somebody{else}", "stays")
        client.config_resetstat()
        report = run_sync(valkey, tables, other, make_view(online=False), now=at(10))
        used = set(client.info("commandstats"))
        assert not {"cmdstat_scan", "cmdstat_keys"} & used
        assert client.get("somebody{else}") == b"stays"
        client.delete("somebody{else}")
    assert [(result.view, result.mode, result.deleted) for result in report.results] == [
        ("customer__visits", "changes", 0),
        ("customer__spend", "removed", 500),
    ]
    assert online_rows(valkey, other) == expected_rows(other, tables.rows(other), at(10))


def test_a_table_made_anew_replaces_what_was_online(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)], [(9, at(5), 5.0)]])
    tables.commit(VIEW, [[(2, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    shutil.rmtree(tables.store.path(VIEW.id))
    tables.commit(VIEW, [[(1, at(6), 6.0)]])
    with pytest.raises(OnlineStoreError, match="cannot be listed"):
        sync_one(valkey, tables, VIEW, now=at(10))
    sync_one(valkey, tables, VIEW, now=at(10), sweep=True)
    assert spend(valkey) == {"1": 6.0}


def test_keys_of_a_view_with_a_ttl_expire_after_ttl_and_grace(valkey: str, tables: Tables) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    view = make_view(ttl="6h")
    ages = {1: 0.5, 2: 6.5, 3: 7.5}
    tables.commit(view, [[(key, now - timedelta(hours=age), age) for key, age in ages.items()]])
    result = sync_one(valkey, tables, view, now=now, expire=True)
    assert (result.rows, spend(valkey, view)) == (2, {"1": 0.5, "2": 6.5})
    with redis.Redis.from_url(valkey) as client:
        for key in (1, 2):
            expected = now + timedelta(hours=7 - ages[key])
            assert client.pexpiretime(f"1{{{key}}}") == to_us(expected) // 1000


def test_a_key_frees_its_memory_when_its_time_is_over(valkey: str, tables: Tables) -> None:
    now = datetime.now(UTC)
    view = make_view(ttl="1s")
    tables.commit(view, [[(1, now - timedelta(seconds=1.3), 1.0)]])
    sync_one(valkey, tables, view, now=now, expire=True)
    with redis.Redis.from_url(valkey) as client:
        while client.exists("1{1}"):
            assert datetime.now(UTC) - now < timedelta(seconds=30)
        assert datetime.now(UTC) >= now + timedelta(seconds=0.7)


def test_a_longer_ttl_gives_rows_their_new_expiry(valkey: str, tables: Tables) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    short, long = make_view(ttl="2h"), make_view(ttl="2d")
    tables.commit(short, [[(1, now - timedelta(hours=1), 1.0)]])
    sync_one(valkey, tables, short, now=now, expire=True)
    assert sync_one(valkey, tables, long, now=now, expire=True).mode == "full"
    with redis.Redis.from_url(valkey) as client:
        assert client.pexpiretime("2{1}") == to_us(now + timedelta(hours=48)) // 1000


def test_where_the_clock_stands_still_keys_have_no_expiry_but_go_when_it_is_moved(valkey: str, tables: Tables) -> None:
    view = make_view(ttl="5m")
    tables.commit(view, [[(1, at(0), 1.0), (2, at(5), 2.0)]])
    sync_one(valkey, tables, view, now=at(9))
    with redis.Redis.from_url(valkey) as client:
        assert client.pttl("1{1}") == -1
    assert sync_one(valkey, tables, view, now=at(10)).deleted == 1
    assert spend(valkey, view) == {"2": 2.0}


def test_a_view_that_fails_does_not_keep_others_from_being_synced(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    missing = make_view("customer__never_published")
    with OnlineStore(valkey) as online:
        report = sync(online, tables.store, registry_of(VIEW, missing), now_us=lambda: to_us(at(10)))
    assert [result.view for result in report.results] == [VIEW.id]
    assert "has no offline table" in str(report.failures[missing.id])


def test_views_that_belong_together_wait_for_a_publish_that_broke_off(valkey: str, tables: Tables) -> None:
    other = make_view("customer__visits")
    for view in (VIEW, other):
        tables.commit(view, [[(1, at(5), 5.0)]])
    begin(tables.store, (VIEW.id, "customer__gone"))
    with OnlineStore(valkey) as online:
        report = sync(online, tables.store, registry_of(VIEW, other), now_us=lambda: to_us(at(10)))
        assert [result.view for result in report.results] == [other.id]
        assert report.failures[VIEW.id].remedy == f"run `features publish {VIEW.id} customer__gone`"
        end(tables.store.root, (VIEW.id, "customer__gone"))
        report = sync(online, tables.store, registry_of(VIEW, other), now_us=lambda: to_us(at(10)))
    assert report.failures == {}


def test_only_views_of_one_cadence_are_synced_when_asked(valkey: str, tables: Tables) -> None:
    hourly, daily = make_view("a", refresh="hourly"), make_view("b", refresh="daily")
    for view in (hourly, daily):
        tables.commit(view, [[(1, at(5), 5.0)]])
    with OnlineStore(valkey) as online:
        now = to_us(at(10))
        report = sync(online, tables.store, registry_of(hourly, daily), refresh="hourly", now_us=lambda: now)
    assert [result.view for result in report.results] == ["a"]


def test_an_unknown_view_is_named_with_the_nearest_right_name(valkey: str, tables: Tables) -> None:
    with pytest.raises(FeatureStoreError, match="did you mean 'customer__spend'"):
        run_sync(valkey, tables, VIEW, now=at(10), names=["customer__spent"])


def test_a_redis_of_another_project_is_left_alone(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(1, at(5), 5.0)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    with OnlineStore(valkey) as online, pytest.raises(OnlineStoreError, match="the features of test, not of other"):
        sync(online, tables.store, registry_of(project="other"), now_us=lambda: to_us(at(10)))
    assert spend(valkey) == {"1": 5.0}


def test_no_redis_is_an_error_that_says_so(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(OnlineStoreUnavailable, match="Redis does not answer"):
        run_sync(f"unix://{tmp_path}/none.sock", tables, VIEW, now=at(10))


def test_a_redis_without_memory_left_is_an_error_and_the_next_sync_repairs_it(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(5), 5.0) for key in range(8_000)]])
    with redis.Redis.from_url(valkey) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
        try:
            with pytest.raises(OnlineStoreError, match="Redis' memory is full"):
                sync_one(valkey, tables, VIEW, now=at(10))
        finally:
            client.config_set("maxmemory", 0)
    result: SyncResult = sync_one(valkey, tables, VIEW, now=at(10))
    assert result.online == 8_000
    assert online_rows(valkey, VIEW) == expected_rows(VIEW, tables.rows(VIEW), at(10))


def test_a_view_that_is_not_online_cannot_be_named(valkey: str, tables: Tables) -> None:
    with pytest.raises(RequestError, match="'customer__spend' is not online"):
        run_sync(valkey, tables, make_view(online=False), now=at(10), names=["customer__spend"])


def test_progress_counts_the_rows_read_up_to_all_of_them(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(1), 1.0) for key in range(40)], [(key, at(2), 1.0) for key in range(30)]])
    seen: list[tuple[int, int]] = []
    with OnlineStore(valkey) as online:
        sync(
            online,
            tables.store,
            registry_of(VIEW),
            now_us=lambda: to_us(at(10)),
            progress=lambda view_id: lambda done, total: seen.append((done, total)),
        )
    assert seen[-1] == (70, 70)
    assert seen == sorted(seen)


def test_a_sync_of_many_views_takes_no_more_connections_than_that_of_one(valkey: str, tables: Tables) -> None:
    views = [make_view(f"customer__spend_{i}") for i in range(8)]
    for view in views:
        tables.commit(view, [[(1, at(5), 2.0)]])
    with redis.Redis.from_url(valkey) as client:
        before = client.info("stats")["total_connections_received"]
        run_sync(valkey, tables, *views, now=at(10))
        taken = client.info("stats")["total_connections_received"] - before
    assert taken <= 2, "one that asks, one that writes"


def test_a_sync_decodes_the_definitions_once_not_once_for_each_view(
    valkey: str, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(
        "feature_server.online.store.decode_online_registry",
        lambda stored, names: decoded.append(len(stored)) or decode_online_registry(stored),
    )
    views = [make_view(f"customer__spend_{i}") for i in range(8)]
    for view in views:
        tables.commit(view, [[(1, at(5), 2.0)]])
    run_sync(valkey, tables, *views, now=at(10))
    assert decoded == []
    run_sync(valkey, tables, *views, now=at(11))
    assert len(decoded) == 1
