"""What the online store says about itself is changed as a whole or not at all, whoever else is changing it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest
import redis

from feature_server.errors import NotSynced, OnlineStoreError, SettingsError, SyncConflict, UnknownNameError
from feature_server.layout.keys import EPOCH, NAMES, REGISTRY
from feature_server.online.registry import OnlineRegistry, OnlineView, decode_online_registry
from feature_server.online.store import Attempt, Fence, Generation, OnlineStore
from feature_server.sync.lock import fenced
from tests.support.sync_project import make_view, registry_of

EMPTY = OnlineRegistry(registry=registry_of())


def entry(code: str) -> OnlineView:
    return OnlineView(code=code, definition=make_view(), table_version=1, synced_at_us=0, rows=0)


@pytest.fixture
def store(valkey: str) -> Iterator[OnlineStore]:
    with OnlineStore(valkey) as store:
        yield store


def test_changes_made_at_the_same_time_are_all_kept(valkey: str, store: OnlineStore) -> None:
    def add(name: str) -> None:
        for i in range(10):
            store.publish(
                lambda now, i=i: msgspec.structs.replace(  # type: ignore[misc]
                    now or EMPTY, views={**(now.views if now else {}), f"{name}{i}": entry(name)}
                )
            )

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.registry()
    assert found is not None
    assert set(found.views) == {f"{name}{i}" for name in "abc" for i in range(10)}


def test_the_epoch_changes_with_the_registry_and_only_then(valkey: str, store: OnlineStore) -> None:
    with redis.Redis.from_url(valkey) as client:
        store.publish(lambda now: EMPTY)
        first = client.get(EPOCH)
        store.publish(lambda now: EMPTY)
        assert client.get(EPOCH) == first
        store.publish(lambda now: msgspec.structs.replace(EMPTY, views={"a": entry("1")}))
        assert client.get(EPOCH) != first


def test_an_emptied_redis_never_shows_an_epoch_that_it_had_before(valkey: str, store: OnlineStore) -> None:
    with redis.Redis.from_url(valkey) as client:
        store.publish(lambda now: EMPTY)
        first = client.get(EPOCH)
        client.flushall()
        store.publish(lambda now: EMPTY)
        assert client.get(EPOCH) != first


def test_nothing_is_changed_behind_a_fence_that_another_has_taken(valkey: str, store: OnlineStore) -> None:
    generation = Generation(view="a", table_id="", attempts=(Attempt(0, 0),))
    with fenced(store, "a") as fence:
        lost = Fence("a", b"an older token", NAMES.fence("a"))
        for change in (
            lambda: store.record(lost, "1", generation),
            lambda: store.forget(lost, "1"),
            lambda: store.publish(lambda now: EMPTY, fence=lost),
        ):
            with pytest.raises(SyncConflict, match="took over"):
                change()
        assert (store.registry(), store.generations()) == (None, {})
        store.record(fence, "1", generation)
        assert store.generations() == {"1": generation}


def test_a_database_number_keeps_features_apart(valkey: str, store: OnlineStore) -> None:
    with OnlineStore(valkey + "?db=3") as other:
        other.publish(lambda now: EMPTY)
        assert other.registry() is not None
    assert store.registry() is None


def test_a_user_and_password_in_the_url_are_used_and_a_wrong_one_is_said(valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        client.acl_setuser("sync", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["*"])
        client.acl_setuser("reader", enabled=True, passwords=["+secret"], commands=["+get", "+mget"], keys=["*"])
    path = valkey.removeprefix("unix://")
    with OnlineStore(f"unix://sync@{path}?password=secret") as store:
        store.publish(lambda now: EMPTY)
        assert store.registry() == EMPTY
    refused = "Redis does not know this user and password", "ACL SETUSER <user> [+]client"
    for user, password, said in (("sync", "wrong", refused[0]), ("reader", "secret", refused[1])):
        with (
            OnlineStore(f"unix://{user}@{path}?password={password}") as store,
            pytest.raises(OnlineStoreError, match=said),
        ):
            store.publish(lambda now: OnlineRegistry(registry=registry_of(project="other")))


def test_what_is_no_redis_url_is_refused() -> None:
    with pytest.raises(SettingsError, match="not a Redis URL"):
        OnlineStore("http://localhost:6379")


def test_a_registry_that_cannot_be_read_says_so(valkey: str, store: OnlineStore) -> None:
    with redis.Redis.from_url(valkey) as client:
        client.set(REGISTRY, b'{"registry": {"project": 7}}')
    with pytest.raises(OnlineStoreError, match=r"Expected `str`, got `int`(.|\n)*project"):
        store.registry()


def test_a_view_that_is_not_there_yet_is_told_from_one_that_does_not_exist() -> None:
    view, offline = make_view(), make_view("customer__offline", online=False)
    found = OnlineRegistry(registry=registry_of(view, offline), views={})
    with pytest.raises(NotSynced, match="features sync customer__spend"):
        found.view(view.id)
    with pytest.raises(NotSynced, match="is not served online"):
        found.view(offline.id)
    with pytest.raises(UnknownNameError, match="did you mean 'customer__spend'"):
        found.view("customer__spent")
    with pytest.raises(NotSynced, match="the online store is empty"):
        decode_online_registry(None)
