"""A sync of a stream view that is killed, or that pushes run into, loses nothing and leaves nothing behind."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import redis

from feature_server.history.log import land
from feature_server.ingest.transaction import Ingestor
from feature_server.layout.keys import CODES
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from tests.support.live_crash import sync_until_killed
from tests.support.live_project import NOW, SOURCE, LiveProject, Payment, make_live_view, payment, versions

VIEW = make_live_view()
WIDER = make_live_view({"merchants": ("count(distinct merchant) over day", "bigint")})
DAY = [payment(10 + i, i % 12, 30 * i) for i in range(40)]


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", DAY[:20])
    project.publish()
    project.sync()
    return project


@pytest.mark.parametrize("case", ["changes", "full", "definition"])
def test_killed_at_any_moment_and_run_again_it_ends_the_same_with_pushes_in_between(
    project: LiveProject, case: str
) -> None:
    view = WIDER if case == "definition" else VIEW
    pushed: list[Payment] = []
    messages, kills = 1, 0
    project.define(view)
    while True:
        project.landed("a", DAY[2 + kills % 3 : 20 + kills])
        project.publish()
        if sync_until_killed(project, view, messages=messages, full=case == "full"):
            break
        pushed.append(payment(1000 + kills, kills % 15, 1))
        project.push(pushed[-1])
        messages, kills = messages + {"changes": 5, "full": 15, "definition": 11}[case], kills + 1
    assert kills > 3, "killed at too few moments"
    project.sync()
    kept = DAY[2 + kills % 3 : 20 + kills]
    assert project.online(view) == versions(*kept, *pushed)
    with OnlineStore(project.url) as online, redis.Redis.from_url(project.url) as client:
        registry = online.registry()
        assert registry is not None
        assert registry.filling == {}
        assert client.hlen(CODES) == 1


def test_pushes_during_first_full_and_later_syncs_are_all_online(project: LiveProject) -> None:
    pushed: list[Payment] = []
    stop = threading.Event()

    def push() -> None:
        chance = random.Random(1)
        with Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
            while not stop.is_set():
                batch = [payment(10_000 + len(pushed) + i, chance.randrange(12), 5) for i in range(20)]
                names = [column.name for column in SOURCE.columns]
                ingestor.push(SOURCE.name, [dict(zip(names, event, strict=True)) for event in batch])
                pushed.extend(batch)

    pusher = threading.Thread(target=push)
    pusher.start()
    try:
        for turn in range(4):
            view = (VIEW, WIDER)[turn % 2]
            project.define(view)
            project.landed("a", DAY[turn : 24 + turn])
            project.publish()
            project.sync()
            with OnlineStore(project.url) as online:
                land(online, SOURCE, project.landing)
            project.publish()
            project.sync(full=turn == 3)
    finally:
        stop.set()
        pusher.join()
    assert len(pushed) > 100
    assert project.online(WIDER) == versions(*DAY[3:27], *pushed)
