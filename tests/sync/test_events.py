"""Stream views online: filled from the event history, merged with live pushes, without loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from feature_server.history.log import land
from feature_server.layout.keys import CODES
from feature_server.online.store import OnlineStore
from tests.support.live_project import LiveProject, make_live_view, payment, versions

VIEW = make_live_view()
OLD = payment(1, 1, 3 * 24 * 60)
DAY = [payment(10 + i, i % 3, 50 * i) for i in range(20)]


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    return LiveProject(tmp_path, valkey, VIEW)


def test_a_first_sync_puts_the_events_online_that_windows_need(project: LiveProject) -> None:
    project.landed("a", [OLD, payment(2, 9, 3 * 24 * 60), *DAY])
    project.publish()
    (result,) = project.sync().results
    assert project.online(VIEW) == versions(*DAY)
    assert (result.mode, result.rows) == ("full", 20)


def test_a_later_sync_adds_what_is_missing_and_leaves_what_was_pushed(project: LiveProject) -> None:
    project.landed("a", DAY[:10])
    project.publish()
    project.sync()
    live = payment(90, 1, 5)
    both = payment(91, 2, 4)
    project.push(live, both)
    project.landed("b", [*DAY[10:], both])
    project.publish()
    (result,) = project.sync().results
    assert project.online(VIEW) == versions(*DAY, live, both)
    assert (result.mode, result.rows, result.deleted) == ("changes", 10, 0)
    (again,) = project.sync().results
    assert (again.rows, again.deleted) == (0, 0)


def test_events_pushed_before_the_first_sync_are_in_its_windows(project: LiveProject) -> None:
    project.landed("a", DAY)
    project.publish()
    other = make_live_view(name="customer__other")
    project.define(other)
    project.publish()
    project.sync()
    early, landed = payment(90, 1, 5), payment(91, 7, 6)
    project.push(landed)
    with OnlineStore(project.url) as online:
        (source,) = project.registry.sources
        assert land(online, source, project.landing).events == 1
    project.push(early)
    project.define(VIEW, other)
    project.sync()
    assert project.online(VIEW) == versions(*DAY, early, landed)


def test_a_view_that_a_push_put_online_is_filled_by_its_first_sync(project: LiveProject) -> None:
    other = make_live_view(name="customer__other")
    project.define(VIEW, other)
    project.landed("a", DAY)
    project.publish()
    project.sync(views=[other.id])
    live = payment(90, 44, 5)
    project.push(live)
    project.sync()
    assert project.online(VIEW) == versions(*DAY, live)


def test_a_row_that_the_table_no_longer_has_goes_and_a_changed_one_is_replaced(project: LiveProject) -> None:
    project.landed("a", DAY)
    project.publish()
    project.sync()
    live = payment(90, DAY[0][1], 5)
    project.push(live)
    corrected = (*DAY[1][:3], "99.00", *DAY[1][4:])
    project.landed("a", [corrected, *DAY[2:]])
    project.publish()
    (result,) = project.sync().results
    assert project.online(VIEW) == versions(*DAY[1:], live)
    assert (result.rows, result.deleted) == (1, 2)


def test_a_full_sync_repairs_what_has_drifted_and_keeps_live_events(project: LiveProject) -> None:
    project.landed("a", DAY)
    project.publish()
    project.sync()
    live = payment(90, 44, 5)
    project.push(live)
    with OnlineStore(project.url) as online, redis.Redis.from_url(project.url) as client:
        registry = online.registry()
        assert registry is not None
        client.delete(f"{registry.views[VIEW.id].code}{{1}}")
    project.sync(full=True)
    assert project.online(VIEW) == versions(*DAY, live)


def test_another_record_layout_is_written_under_another_code_and_the_old_one_goes(project: LiveProject) -> None:
    project.landed("a", DAY)
    project.publish()
    project.sync()
    live = payment(90, 44, 5)
    project.push(live)
    wider = make_live_view({"shop": ("last(merchant) over day", "varchar")})
    project.define(wider)
    project.publish()
    project.sync()
    assert project.online(wider) == versions(*DAY, live)


def test_a_view_that_is_no_longer_online_leaves_no_key_not_even_those_that_pushes_made(project: LiveProject) -> None:
    project.landed("a", DAY)
    project.publish()
    project.sync()
    project.push(payment(90, 44, 5))
    with OnlineStore(project.url) as online:
        (source,) = project.registry.sources
        land(online, source, project.landing)
    project.push(payment(91, 45, 5))
    project.define()
    project.sync()
    with redis.Redis.from_url(project.url) as client:
        assert [key for key in client.scan_iter() if b"{" in key] == []
        assert client.hlen(CODES) == 0
