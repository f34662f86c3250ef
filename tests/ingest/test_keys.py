"""A key that Redis does not append to: its events are refused, all others are taken in, and a full sync mends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis

from feature_server.errors import OnlineStoreRefused
from feature_server.ingest.transaction import Ingestor
from feature_server.ingest.worker import Worker, dead_letters
from feature_server.layout.keys import EVENTS, LOG
from feature_server.online.store import OnlineStore
from feature_server.times import to_us
from tests.support.live_project import NOW, SOURCE, LiveProject, make_live_view, payment
from tests.support.own_valkey import own_valkey, url_of
from tests.support.payments import EVENT, event
from tests.support.served import eventually

NAME = SOURCE.name.encode()
OTHER = "customer__other"


def foreign(own: redis.Redis, key: bytes) -> None:
    own.delete(key)
    own.rpush(key, "of another program")


def full(own: redis.Redis, key: bytes) -> None:
    own.config_set("proto-max-bulk-len", 1 << 20)
    own.setrange(key, (1 << 20) - 1, b"x")


Breaks = Callable[[redis.Redis, bytes], None]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    """Two views over one source, with one payment of customer 1."""
    with own_valkey(tmp_path / "valkey") as client:
        project = LiveProject(tmp_path, url_of(client), make_live_view(), make_live_view(name=OTHER))
        project.landed("a", [payment(1, 1, 60)])
        project.publish()
        project.sync()
        yield project


def key_of(project: LiveProject, own: redis.Redis, customer: int) -> bytes:
    with OnlineStore(project.url) as online:
        return f"{online.registry().views['customer__payments'].code}{{{customer}}}".encode()


@pytest.mark.parametrize("breaks", [foreign, full])
def test_events_of_a_key_that_takes_none_are_refused_and_no_others(project: LiveProject, breaks: Breaks) -> None:
    own = redis.Redis(unix_socket_path=project.url[7:])
    key = key_of(project, own, 3)
    breaks(own, key)
    events = [EVENT | {"payment_id": n, "customer": customer} for n, customer in enumerate([1, 3, 2, 1, 3, 1], 10)]
    with Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        result = ingestor.push(SOURCE.name, events)
    assert (result.accepted, [index for index, _ in result.rejected]) == (4, [1, 4])
    for _, reason in result.rejected:
        assert f"customer__payments: Redis cannot append to the key {key!r}: " in reason
        assert "run `features sync --full customer__payments`, then send the event again" in reason
    assert own.type(key) == (b"list" if breaks is foreign else b"string")


@pytest.mark.parametrize("breaks", [foreign, full])
def test_the_worker_puts_them_with_the_dead_letters_and_a_full_sync_mends_the_key(
    project: LiveProject, breaks: Breaks
) -> None:
    own = redis.Redis(unix_socket_path=project.url[7:])
    breaks(own, key_of(project, own, 3))
    (first,) = project.online(project.registry.feature_views[1])["1"]
    for number, customer in enumerate([1, 3, 1], 20):
        own.xadd(EVENTS + NAME, {"event": orjson.dumps(EVENT | {"payment_id": number, "customer": customer})})
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        done = Worker(online, ingestor, SOURCE, project.landing).run(once=True)
        (letter,) = dead_letters(online, SOURCE.name)
    assert (done.accepted, done.rejected, done.landed) == (2, 1, 3)
    assert "Redis cannot append to the key" in letter.reason
    assert b'"payment_id":21' in (letter.event or "").encode()
    project.publish()
    project.sync(full=True)
    created = to_us(NOW)
    for view in project.registry.feature_views:
        assert project.online(view) == {"1": {first, (20, created), (22, created)}, "3": {(21, created)}}


def test_a_log_that_another_program_wrote_over_is_named_and_waited_for(project: LiveProject) -> None:
    own, said, ended = redis.Redis(unix_socket_path=project.url[7:]), list[str](), list[bool]()
    foreign(own, LOG + NAME)
    with OnlineStore(project.url) as online, Ingestor(project.url, lambda: to_us(NOW), expire=False) as ingestor:
        with pytest.raises(OnlineStoreRefused, match="holds what another program wrote"):
            ingestor.push(SOURCE.name, [EVENT])
        own.xadd(EVENTS + NAME, event(7))
        worker = Worker(online, ingestor, SOURCE, project.landing)
        arguments = {"stopped": lambda: bool(ended), "report": said.append, "retry_seconds": 0.05}
        thread = threading.Thread(target=worker.run, kwargs=arguments)
        thread.start()
        try:
            eventually(lambda: said)
            sizes = [own.memory_usage(key) for key in own.scan_iter("*{*")]
            time.sleep(0.5)  # some ten attempts, none of which appends again what it cannot log
            assert [own.memory_usage(key) for key in own.scan_iter("*{*")] == sizes
            own.delete(LOG + NAME)
            eventually(lambda: worker.done.accepted == 1)
        finally:
            ended.append(True)
            thread.join()
    assert [line.partition(":")[0] for line in said] == ["waiting for Redis", "landed shop.payments events=1 files=1"]
