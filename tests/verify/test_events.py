"""verify of stream views: what reads serve is what the events say."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis

from feature_server.history.log import land, live_files
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from feature_server.verify.events import AHEAD, verify_events
from feature_server.verify.explain import explain
from feature_server.verify.relation import REPEATED
from feature_server.verify.rows import Verified
from tests.support.live_project import MODEL, NOW, SOURCE, LiveProject, make_live_view, payment

VIEW = make_live_view(
    {
        "merchants": ("count(distinct merchant) over day", "bigint"),
        "last_shop": ("merchant", "varchar"),
        "peak": ("max(amount) over day / nullif(avg(amount) over hour, 0)", "double"),
    }
)
DAY = [payment(10 + i, i % 3, 50 * i, f"{i % 5}.50") for i in range(30)]


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", DAY)
    project.publish()
    project.sync()
    return project


def verify(project: LiveProject, minutes: float = 0) -> Verified:
    with OnlineStore(project.url) as online:
        now_us = to_us(NOW + timedelta(minutes=minutes))
        return verify_events(VIEW, online, project.offline, now_us=now_us, project_dir=project.folder, sample=0)


@pytest.mark.parametrize("minutes", [0, 30, 61, 600, 3000])
def test_reads_agree_with_sql_over_table_files_and_log_at_any_instant(project: LiveProject, minutes: float) -> None:
    project.push(payment(100, 1, 3), payment(101, 77, 400))
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)
    project.push(payment(102, 1, 2), payment(102, 1, 2), payment(10, 0, 1, "70.00", version=9))
    found = verify(project, minutes)
    assert (found.keys, found.differences) == (4, ())


def test_events_of_a_build_that_was_not_synced_are_a_difference_that_a_sync_mends(project: LiveProject) -> None:
    project.landed("b", [payment(200, 2, 5)])
    project.publish()
    found = verify(project)
    assert {difference.cause for difference in found.differences} == {"not yet synced"}
    assert (found.different, found.unexplained) == (1, 0)
    project.sync()
    assert verify(project).differences == ()


def test_what_has_drifted_is_unexplained_and_named(project: LiveProject) -> None:
    with redis.Redis.from_url(project.url) as client:
        (key,) = [key for key in client.scan_iter() if key.endswith(b"{2}")]
        value = client.get(key)
        client.delete(key)
        lost = verify(project)
        client.set(key, value[: len(value) // 10])
        partly = verify(project)
    assert (lost.different, lost.unexplained) == (1, 1)
    assert {difference.cause for difference in lost.differences} == {"lost"}
    assert partly.unexplained == 1
    assert {difference.cause for difference in partly.differences} == {"lost: 9 of its events are not online"}


def test_an_event_created_ahead_of_the_clock_is_unexplained_and_named(project: LiveProject) -> None:
    wrong, corrected = payment(100, 1, 3, "70.00"), payment(100, 1, 3, "20.00", version=60)
    year_2099 = NOW.replace(year=2099)
    project.push((*wrong[:5], year_2099), now=year_2099)  # by a clock that was wrong
    project.push(corrected)
    for _ in ("in the log", "landed"):
        found = verify(project)
        assert (found.different, found.unexplained) == (1, 1)
        shown = {difference.feature: (difference.online, difference.offline) for difference in found.differences}
        assert shown["largest"] == ("Decimal('70.00')", "Decimal('20.00')")
        assert {difference.cause for difference in found.differences} == {AHEAD}
        with OnlineStore(project.url) as online:
            first = verify_events(
                VIEW, online, project.offline, now_us=to_us(NOW), project_dir=project.folder, sample=1
            )
            assert first.unexplained == 1
            because = explain(
                "customer__payments:largest", {"customer": 1}, online, project.offline,
                at_us=to_us(NOW), now_us=to_us(NOW), project_dir=project.folder,
            )  # fmt: skip
            assert (because.warehouse, because.agree) == (Decimal("20.00"), False)
            land(online, SOURCE, project.landing)
    for file in live_files(project.landing):
        kept = pq.read_table(file).filter(pc.field("ingested_at") < NOW + timedelta(hours=1))
        pq.write_table(kept, file)
    project.sync(full=True)
    assert verify(project).differences == ()


def test_an_event_created_ahead_of_the_clock_of_a_key_with_a_lifetime_window_is_named(
    tmp_path: Path, valkey: str
) -> None:
    lifetime = "count(*) over (partition by customer order by paid_at range unbounded preceding)"
    view, year_2099 = make_live_view({"payments": (lifetime, "bigint")}), NOW.replace(year=2099)
    project = LiveProject(tmp_path, valkey, view)
    project.landed("a", [*DAY, payment(9, 1, 20_000)])  # the last is so old that it is in the key's base
    project.publish()
    project.sync()
    project.push((*payment(100, 1, 55)[:5], year_2099), now=year_2099)
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)
        found = verify_events(view, online, project.offline, now_us=to_us(NOW), project_dir=project.folder, sample=0)
    assert (found.different, found.unexplained) == (1, 1)
    assert {difference.cause for difference in found.differences} == {AHEAD}


def build(project: LiveProject, sql: str) -> None:
    """What dbt would make of a model."""
    with duckdb.connect(str(project.warehouse)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        landed = f"read_parquet('{project.landing}/*.parquet')"
        connection.execute(f"create or replace table customer__payments as {sql.replace('landed', landed)}")


@pytest.mark.parametrize("model_keeps_one", [True, False])
def test_a_model_that_counts_an_event_twice_is_named(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch, model_keeps_one: bool
) -> None:
    once = "qualify row_number() over (partition by payment_id order by ingested_at desc) = 1"
    assert once in MODEL
    model = MODEL if model_keeps_one else MODEL.replace(once, "")
    monkeypatch.setattr("tests.support.live_project.MODEL", model)
    view = make_live_view()
    project = LiveProject(tmp_path, valkey, view)
    project.landed("a", [payment(1, 1, 30), payment(2, 2, 20), payment(3, 3, 10, "5.00"), payment(3, 3, 10, "5.00")])
    build(project, model.format(more=""))
    project.publish()
    project.sync()
    with OnlineStore(valkey) as online:
        at = {"now_us": to_us(NOW), "project_dir": tmp_path, "sample": 0}
        found = verify_events(view, online, project.offline, warehouse=project.warehouse, **at)
        assert found.not_compared is None
        if model_keeps_one:
            assert found.differences == ()
            return
        assert {str(difference) for difference in found.differences} == {
            f"customer=3 at 2024-05-01T11:50:00+00:00 n: online 1, offline 2: {REPEATED}",
            "customer=3 at 2024-05-01T11:50:00+00:00 spent: online Decimal('5.00'), offline Decimal('10.00'): "
            + REPEATED,
        }
        assert found.unexplained == 1
        build(project, model.format(more="").replace("where amount", "where customer < 3 and amount"))
        assert verify_events(view, online, project.offline, warehouse=project.warehouse, **at).differences == ()
        project.warehouse.unlink()
        found = verify_events(view, online, project.offline, warehouse=project.warehouse, **at)
        assert (found.differences, found.not_compared) == (
            (), f"the warehouse does not exist: {project.warehouse}"
        )  # fmt: skip


def test_a_correction_that_landed_after_the_build_is_no_event_that_the_model_counts_twice(
    tmp_path: Path, valkey: str
) -> None:
    project = LiveProject(tmp_path, valkey, make_live_view())
    project.landed("a", [payment(1, 1, 30), payment(3, 3, 10, "5.00")])
    build(project, MODEL.format(more=""))
    project.landed("b", [payment(3, 3, 10, "7.00", version=1)])
    project.publish()
    project.sync()
    with OnlineStore(valkey) as online:
        at = {"now_us": to_us(NOW), "project_dir": tmp_path, "sample": 0}
        found = verify_events(VIEW, online, project.offline, warehouse=project.warehouse, **at)
    assert (found.differences, found.not_compared) == ((), None)
