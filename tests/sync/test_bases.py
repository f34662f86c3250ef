"""Lifetime windows online: events long past become a key's base, and nothing is lost or counted twice on the way."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from feature_server.client.features import FeatureClient
from feature_server.errors import OnlineStoreError
from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.layout.keys import BASE, CODES
from feature_server.online.store import OnlineStore
from feature_server.settings import load_settings
from feature_server.times import to_us
from feature_server.verify.events import verify_events
from feature_server.verify.explain import explain
from feature_server.verify.rows import DAMAGED
from tests.support.lifetime_view import MORE, VIEW, expected
from tests.support.live_crash import sync_until_killed
from tests.support.live_project import NOW, SOURCE, LiveProject, Payment, make_live_view, payment, versions

DAY = 24 * 60
OLD = [payment(10 + i, i % 3, (9 + i) * DAY, f"{i % 4}0.50") for i in range(30)]
NEW = [payment(100 + i, i % 3, i * DAY / 5, f"{i % 5}.25") for i in range(30)]


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", [*OLD, *NEW])
    project.publish()
    project.sync()
    return project


def corrected(event: Payment, minutes_ago: float, amount: str = "10.00") -> Payment:
    """A version of an event that is known later than all."""
    return (*payment(event[0], event[1], minutes_ago, amount)[:5], NOW + timedelta(seconds=1))


def read(project: LiveProject, *customers: int, now: datetime = NOW, view: Any = VIEW) -> list[dict[str, Any]]:
    with FeatureClient(project.url, settings=load_settings({})) as client:
        client._reader.now_us = lambda: to_us(now)
        found = client.get_many(features=[f"{view.id}:{name}" for name in view.feature_names], customer=[*customers])
    return [{name: found.values[name][i] for name in view.feature_names} for i in range(len(customers))]


def assert_reads(project: LiveProject, payments: Iterable[Payment], now: datetime = NOW) -> None:
    """Reads of customers 0 to 3 are what SQL gives over these payments."""
    for got, wanted in zip(read(project, *range(4), now=now), expected(payments, range(4), now), strict=True):
        assert got == {
            name: pytest.approx(value, nan_ok=True) if type(value) is float else value for name, value in wanted.items()
        }


def bases(project: LiveProject) -> int:
    with redis.Redis.from_url(project.url) as client:
        return sum(BASE + b"{" in key for key in client.scan_iter(count=1000))


def land_all(project: LiveProject) -> None:
    with OnlineStore(project.url) as online:
        land(online, SOURCE, project.landing)


def test_a_sync_keeps_the_events_of_eight_days_and_the_latest_before_and_a_base_of_the_rest(
    project: LiveProject,
) -> None:
    assert bases(project) == 3
    assert project.online(VIEW) == versions(*NEW, *OLD[:3])
    assert_reads(project, [*OLD, *NEW])


def test_a_base_has_the_bytes_that_the_layout_says(tmp_path: Path, valkey: str) -> None:
    names = ("payments", "total", "last_shop", "mean")
    project = LiveProject(tmp_path, valkey, make_live_view({name: MORE[name] for name in names}))
    project.landed("a", OLD[:3])
    project.publish()
    project.sync()
    with redis.Redis.from_url(valkey) as client:
        (name,) = [key for key in client.scan_iter() if key.endswith(BASE + b"{1}")]
        cut_off, nulls, payments, total, counted, end = struct.unpack_from("<qBq16sqI", base := client.get(name))
    assert cut_off == to_us(NOW - timedelta(days=8))  # the longest bounded window, and seven days
    assert (nulls, payments, int.from_bytes(total, "little"), counted, base[-end:]) == (0, 1, 1050, 1, b"shop 4")


def test_as_days_go_by_each_sync_of_a_key_makes_more_of_its_events_base(project: LiveProject) -> None:
    later, now = payment(500, 1, -30 * DAY), NOW + timedelta(days=30)
    project.push(later, now=now)
    land_all(project)
    project.publish()
    project.sync(now=now)
    assert project.online(VIEW)["1"] == versions(NEW[1], later)["1"]
    assert_reads(project, [*OLD, *NEW, later], now)


def test_a_pushed_event_that_is_not_in_the_table_holds_its_keys_base_back(project: LiveProject) -> None:
    pushed, now = payment(500, 1, 3 * DAY, "7.00"), NOW + timedelta(days=30)
    project.push(pushed)
    other = payment(501, 1, -29 * DAY)
    project.landed("b", [other])
    project.publish()
    project.sync(now=now)
    assert_reads(project, [*OLD, *NEW, pushed, other], now)
    land_all(project)
    project.publish()
    project.sync(now=now)
    assert_reads(project, [*OLD, *NEW, pushed, other], now)
    assert project.online(VIEW)["1"] == versions(NEW[1], other)["1"]


def test_a_correction_that_is_not_in_the_table_holds_back_the_base_from_what_it_corrects(project: LiveProject) -> None:
    correction = corrected(NEW[7], DAY, "99.00")
    other, now = payment(501, 1, -29 * DAY), NOW + timedelta(days=30)
    project.push(correction)
    project.landed("b", [other])
    project.publish()
    project.sync(now=now)
    assert_reads(project, [*OLD, *NEW, correction, other], now)


def test_a_correction_from_the_warehouse_takes_a_pushed_event_out_that_it_moves_into_the_base(
    project: LiveProject,
) -> None:
    pushed = payment(500, 1, 3 * DAY, "7.00")
    correction = corrected(pushed, 20 * DAY, "8.00")
    project.push(pushed)
    project.landed("b", [correction])
    project.publish()
    project.sync()
    assert_reads(project, [*OLD, *NEW, pushed, correction])
    land_all(project)
    project.publish()
    project.sync()
    assert_reads(project, [*OLD, *NEW, pushed, correction])


def test_a_first_sync_leaves_what_is_not_in_the_table_out_of_bases(project: LiveProject) -> None:
    late = payment(500, 1, 15 * DAY, "7.00")
    project.push(late)
    project.sync(full=True)
    assert_reads(project, [*OLD, *NEW, late])
    project.landed("b", [payment(501, 1, 2 * DAY)])
    project.publish()
    project.sync()
    assert_reads(project, [*OLD, *NEW, late, payment(501, 1, 2 * DAY)])


@pytest.mark.parametrize("late", [payment(500, 1, 15 * DAY, "7.00"), corrected(OLD[1], 20 * DAY, "7.00")])
def test_an_event_later_than_seven_days_counts_after_it_has_landed_and_a_sync(
    project: LiveProject, late: Payment
) -> None:
    project.push(late)
    assert_reads(project, [*OLD, *NEW])
    project.sync()
    assert_reads(project, [*OLD, *NEW])
    land_all(project)
    project.publish()
    project.sync()
    assert_reads(project, [*OLD, *NEW, late])


def test_an_event_sent_again_long_after_is_counted_once(project: LiveProject) -> None:
    project.push(OLD[4], NEW[4])
    assert_reads(project, [*OLD, *NEW])


def test_corrections_and_deletions_in_the_warehouse_change_bases(project: LiveProject) -> None:
    corrections = [corrected(OLD[2], 12 * DAY, "1.00"), corrected(OLD[4], 3 * DAY), corrected(NEW[4], 20 * DAY)]
    filtered = corrected(OLD[3], 12 * DAY, "-5.00")
    kept = [*OLD[1:], *NEW[3:], *corrections, filtered]
    project.landed("a", kept)
    project.publish()
    project.sync()
    assert_reads(project, kept)


def test_a_key_without_events_left_has_no_base(project: LiveProject) -> None:
    project.landed("a", [event for event in [*OLD, *NEW] if event[1] != 2])
    project.publish()
    project.sync()
    assert bases(project) == 2
    assert read(project, 2)[0]["payments"] == 0


def test_a_key_of_old_events_alone_has_the_latest_ones_plain_columns(tmp_path: Path, valkey: str) -> None:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", OLD)
    project.publish()
    project.sync()
    assert_reads(project, OLD)
    project.push(corrected(OLD[0], 9 * DAY, "-1.00"))  # the latest no longer counts, says a late correction
    assert read(project, 0)[0]["latest_shop"] is None
    land_all(project)
    project.publish()
    project.sync()
    assert read(project, 0)[0]["latest_shop"] == OLD[3][2]


def test_other_lifetime_outputs_of_the_same_states_stay_where_they_are_and_other_states_are_filled_anew(
    project: LiveProject,
) -> None:
    def code() -> str:
        with OnlineStore(project.url) as online:
            registry = online.registry()
            assert registry is not None
            return registry.views[VIEW.id].code

    before = code()
    same = make_live_view({**MORE, "twice": (f"2 * {MORE['payments'][0]}", "bigint")})
    other = make_live_view({name: of for name, of in MORE.items() if name != "large"})
    assert same.fingerprint == VIEW.fingerprint == other.fingerprint
    project.define(same)
    project.sync()
    assert code() == before
    assert read(project, 1, view=same)[0]["twice"] == 20 + 20
    project.define(other)
    project.sync()
    assert code() != before
    assert read(project, 1, view=other)[0]["payments"] == 20


def test_a_clock_before_the_cut_off_is_an_error_not_a_wrong_number(project: LiveProject) -> None:
    with pytest.raises(OnlineStoreError, match="as of a time after the clock's"):
        read(project, 1, now=NOW - timedelta(days=9))


def test_a_view_that_is_no_longer_online_leaves_no_base(project: LiveProject) -> None:
    project.define()
    project.sync()
    with redis.Redis.from_url(project.url) as client:
        assert [key for key in client.scan_iter() if b"{" in key] == []
        assert client.hlen(CODES) == 0


@pytest.mark.parametrize(("full", "step"), [(False, 9), (True, 22)])
def test_killed_at_any_moment_and_run_again_reads_are_right(project: LiveProject, full: bool, step: int) -> None:
    kills, pushed, now = 0, list[Payment](), NOW
    kept: list[Payment] = []
    while True:
        kept = [*OLD[kills % 4 :], *NEW[kills % 3 :]]
        project.landed("a", kept)
        project.publish()
        if sync_until_killed(project, VIEW, messages=1 + step * kills, now=now, full=full):
            break
        pushed.append(payment(1000 + kills, kills % 4, -60 * kills, "3.00"))
        now += timedelta(hours=12)
        project.push(pushed[-1], now=now)
        kills += 1
    assert kills > 3, "killed at too few moments"
    assert_reads(project, [*kept, *pushed], now)
    project.sync(now=now)
    assert_reads(project, [*kept, *pushed], now)
    project.online(VIEW)
    assert bases(project) == 3


def test_pushes_during_syncs_are_all_counted(project: LiveProject) -> None:
    pushed: list[Payment] = []
    stop = threading.Event()

    def push() -> None:
        chance = random.Random(1)
        with Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
            while not stop.wait(0.01):
                numbers = range(10_000 + len(pushed), 10_020 + len(pushed))
                batch = [payment(n, chance.randrange(4), n % 20 * DAY / 6 + n / 1e5) for n in numbers]
                names = [column.name for column in SOURCE.columns]
                ingestor.push(SOURCE.name, [dict(zip(names, event, strict=True)) for event in batch])
                pushed.extend(batch)

    pusher = threading.Thread(target=push)
    pusher.start()
    kept: list[Payment] = []
    try:
        for turn in range(4):
            kept = [*OLD[turn:], *NEW[2 * turn :]]
            project.landed("a", kept)
            project.publish()
            project.sync(full=turn == 2, now=NOW + timedelta(days=turn))
            land_all(project)
    finally:
        stop.set()
        pusher.join()
    assert len(pushed) > 100
    assert_reads(project, [*kept, *pushed], NOW + timedelta(days=3))
    land_all(project)
    project.publish()
    project.sync(now=NOW + timedelta(days=12))
    assert_reads(project, [*kept, *pushed], NOW + timedelta(days=12))


def causes(project: LiveProject) -> dict[str, set[str]]:
    """What verify finds of each key."""
    with OnlineStore(project.url) as online:
        found = verify_events(
            VIEW, online, project.offline, now_us=to_us(NOW), project_dir=project.folder, sample=0
        ).differences
    return {key: {of.cause for of in found if of.key == key} for key in {of.key for of in found}}


def test_verify_agrees_with_bases_and_names_late_events_until_they_are_synced(project: LiveProject) -> None:
    project.push(payment(500, 0, 2 * DAY))
    assert causes(project) == {}
    late = payment(501, 0, 15 * DAY, "7.00")
    project.push(late, corrected(NEW[1], 15 * DAY), corrected(OLD[5], 5 * DAY), payment(502, 3, 3000 * DAY))
    late_ones = {f"customer={customer}": {"late event"} for customer in range(3)}
    assert causes(project) == late_ones
    land_all(project)
    assert causes(project) == late_ones
    project.publish()
    assert causes(project) == late_ones
    project.sync()
    assert causes(project) == {}


def test_explain_agrees_with_bases(project: LiveProject) -> None:
    with OnlineStore(project.url) as online:
        found = explain(
            f"{VIEW.id}:total", {"customer": 1}, online, project.offline, at_us=to_us(NOW), now_us=to_us(NOW),
            project_dir=project.folder,
        )  # fmt: skip
    assert (found.agree, found.value) == (True, expected([*OLD, *NEW], [1], NOW)[0]["total"])


def test_verify_finds_a_base_that_is_wrong_or_gone(project: LiveProject) -> None:
    project.push(payment(501, 1, 15 * DAY, "7.00"))
    with redis.Redis.from_url(project.url) as client:
        (name,) = [key for key in client.scan_iter() if key.endswith(BASE + b"{1}")]
        (other,) = [key for key in client.scan_iter() if key.endswith(BASE + b"{2}")]
        client.set(name, client.get(other))
        assert causes(project) == {"customer=1": {"wrong"}}
        client.delete(name)
        assert causes(project) == {"customer=1": {DAMAGED}}


def test_a_sum_too_large_for_its_type_is_an_error_that_names_the_view(tmp_path: Path, valkey: str) -> None:
    over = "over (partition by customer order by paid_at range between unbounded preceding and current row)"
    huge = make_live_view(
        {"huge": (f"sum(cast(amount as decimal(38,2)) * 10000000000000000000000000) {over}", "decimal(38,2)")}
    )
    project = LiveProject(tmp_path, valkey, huge)
    project.landed("a", [payment(i, 1, 20 * DAY + i, "9999999999.00") for i in range(20)])
    project.publish()
    with pytest.raises(OnlineStoreError, match="fails on the events of the view"):
        project.sync()
