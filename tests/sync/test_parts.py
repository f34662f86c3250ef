"""A view with features that tell of a person: both parts of its rows are written, and go, together."""

from __future__ import annotations

import json
import threading

import pytest
import redis

from feature_server.client.features import FeatureClient
from feature_server.errors import FeatureStoreError, OnlineStoreError
from feature_server.layout.keys import REGISTRY
from feature_server.online.store import OnlineStore
from feature_server.verify.rows import verify
from tests.support.sync_project import (
    VIEW,
    Tables,
    at,
    expected_rows,
    make_view,
    online_rows,
    registry_of,
    run_sync,
    sync_one,
)

FEATURES = {"spend": "float64", "email": "string", "orders": "int64"}
PII = make_view(features=FEATURES, pii={"email"})
PLAIN = make_view(features=FEATURES)


def rows(keys: range, minute: float, mark: int = 0) -> list[tuple[object, ...]]:
    return [(key, at(minute), float(key), f"{key}-{mark}@example.com", mark) for key in keys]


def names(url: str) -> set[str]:
    """The keys of rows."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {name for name in client.scan_iter(count=1000) if "{" in name}


def code_of(url: str, view_id: str = PII.id) -> str:
    with OnlineStore(url) as store:
        registry = store.registry()
        assert registry is not None
        return registry.views[view_id].code


def test_the_parts_lie_under_two_codes_and_count_once(valkey: str, tables: Tables) -> None:
    tables.commit(PII, [rows(range(3), 5)])
    result = sync_one(valkey, tables, PII, now=at(10))
    code = code_of(valkey)
    assert names(valkey) == {f"{mark}{code}{{{key}}}" for mark in ("", "!") for key in range(3)}
    assert (result.mode, result.rows, result.online) == ("full", 3, 3)
    assert online_rows(valkey, PII) == expected_rows(PII, tables.rows(PII), at(10))
    with redis.Redis.from_url(valkey) as client:
        assert b"example.com" not in client.get(f"{code}{{1}}")
        assert b"example.com" in client.get(f"!{code}{{1}}")


def test_what_changed_is_written_and_what_vanished_is_deleted_in_both_parts(valkey: str, tables: Tables) -> None:
    tables.commit(PII, [rows(range(4), 5)])
    sync_one(valkey, tables, PII, now=at(10))
    (old,) = tables.store.table(PII.id).files()
    tables.commit(PII, [rows(range(1, 6), 6, mark=1)], [old])
    result = sync_one(valkey, tables, PII, now=at(10))
    assert (result.mode, result.rows, result.deleted, result.online) == ("changes", 5, 1, 5)
    assert online_rows(valkey, PII) == expected_rows(PII, tables.rows(PII), at(10))
    assert len(names(valkey)) == 10


def test_with_a_ttl_both_parts_expire_at_one_instant(valkey: str, tables: Tables) -> None:
    view = make_view(features=FEATURES, pii={"email"}, ttl="400000d")  # at and after now, by the real clock
    tables.commit(view, [rows(range(700), 5)])
    sync_one(valkey, tables, view, now=at(10), expire=True)
    code = code_of(valkey)
    with redis.Redis.from_url(valkey) as client:
        ends = {client.pexpiretime(f"{mark}{code}{{{key}}}") for mark in ("", "!") for key in range(700)}
    assert len(ends) == 1
    assert ends.pop() > 0
    assert online_rows(valkey, view) == expected_rows(view, tables.rows(view), at(10))


@pytest.mark.parametrize(("before", "after"), [(PLAIN, PII), (PII, PLAIN)])
def test_when_pii_changes_all_is_written_anew_and_the_old_goes(
    valkey: str, tables: Tables, before: object, after: object
) -> None:
    tables.commit(PLAIN, [rows(range(5), 5)])
    sync_one(valkey, tables, before, now=at(10))  # type: ignore[arg-type]
    old = code_of(valkey)
    result = sync_one(valkey, tables, after, now=at(10))  # type: ignore[arg-type]
    assert (result.mode, result.leftover) == ("full", ())
    assert code_of(valkey) != old
    assert online_rows(valkey, after) == expected_rows(PLAIN, tables.rows(PLAIN), at(10))  # type: ignore[arg-type]
    assert sync_one(valkey, tables, after, now=at(10)).mode == "changes"  # type: ignore[arg-type]


@pytest.mark.parametrize("sweep", [False, True])
def test_a_view_that_goes_takes_both_parts_with_it(valkey: str, tables: Tables, sweep: bool) -> None:
    tables.commit(PII, [rows(range(5), 5)])
    sync_one(valkey, tables, PII, now=at(10))
    report = run_sync(valkey, tables, now=at(10), sweep=sweep)
    assert [(result.mode, result.deleted) for result in report.results] == [("removed", 5)]
    assert names(valkey) == set()


def test_the_registry_says_what_readers_need_and_only_of_such_a_view(valkey: str, tables: Tables) -> None:
    other = make_view("customer__other")
    tables.commit(PII, [rows(range(2), 5)])
    tables.commit(other, [[(1, at(5), 1.0)]])
    run_sync(valkey, tables, other, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        assert "needs" not in client.get(REGISTRY).decode()
        run_sync(valkey, tables, PII, other, now=at(10))
        stored = json.loads(client.get(REGISTRY))
    assert stored["format"] == 3
    views = stored["online"]["views"]
    assert (views[PII.id]["format"], views[PII.id]["needs"]) == (3, ["pii"])
    assert views[other.id]["format"] == 1
    assert "needs" not in views[other.id]


def test_a_word_that_is_not_known_keeps_readers_from_that_view_alone(valkey: str, tables: Tables) -> None:
    other = make_view("customer__other", features={"total": "float64"})
    tables.commit(PII, [rows(range(2), 5)])
    tables.commit(other, [[(1, at(5), 1.0)]])
    run_sync(valkey, tables, PII, other, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        client.set(REGISTRY, client.get(REGISTRY).replace(b'"needs":["pii"]', b'"needs":["pii","valid_to"]'))
    with FeatureClient(valkey) as client:
        assert client.get([f"{other.id}:total"], customer_id=1)["total"] == 1.0
        with pytest.raises(OnlineStoreError) as raised:
            client.get([f"{PII.id}:spend"], customer_id=1)
    assert raised.value.where == PII.id
    assert raised.value.got == "valid_to"
    assert "newer version" in str(raised.value.remedy)
    with pytest.raises(OnlineStoreError, match="does not know"):
        sync_one(valkey, tables, PII, now=at(10))


def test_the_version_before_is_not_written_for_what_it_would_not_keep_apart(valkey: str, tables: Tables) -> None:
    tables.commit(PII, [rows(range(2), 5)])
    with pytest.raises(FeatureStoreError, match="format 1 does not keep features that tell of a person apart"):
        sync_one(valkey, tables, PII, now=at(10), full=True, format=1)
    assert names(valkey) == set()


def test_verify_finds_a_part_that_is_gone_or_of_another_time(valkey: str, tables: Tables) -> None:
    tables.commit(PII, [rows(range(5), 5)])
    sync_one(valkey, tables, PII, now=at(10))
    code, table = code_of(valkey), tables.store

    def causes() -> list[str]:
        with OnlineStore(valkey) as online:
            found = verify(PII, online, table, now_us=at_us(10), sample=0)
        return [difference.online[:48].rstrip("…. -") for difference in found.differences]

    assert causes() == []
    with redis.Redis.from_url(valkey) as client:
        client.delete(f"!{code}{{1}}")
        stored = client.get(f"{code}{{2}}")
        client.set(f"{code}{{2}}", (1).to_bytes(8, "little") + stored[8:])
        client.set(f"!{code}{{77}}", client.get(f"!{code}{{3}}"))
    assert sorted(causes()) == [
        "a row that cannot be read: a part of it is gone",
        "a row that cannot be read: a part of it is gone",
        "a row that cannot be read: its parts are of 1970",
    ]


def at_us(minutes: float) -> int:
    from feature_server.times import to_us

    return to_us(at(minutes))


def test_a_read_while_syncs_write_never_sees_parts_of_two_rows(valkey: str, tables: Tables) -> None:
    tables.commit(PII, [rows(range(300), 1)])
    sync_one(valkey, tables, PII, now=at(100))
    done, seen = threading.Event(), set[int]()

    def write() -> None:
        for mark in range(1, 12):
            tables.commit(PII, [rows(range(300), 1 + mark, mark=mark)])
            sync_one(valkey, tables, PII, now=at(100), full=mark % 4 == 0)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    asked = [f"{PII.id}:{name}" for name in ("email", "orders")]
    with FeatureClient(valkey) as client:
        while not done.is_set():
            found = client.get_many(asked, customer_id=list(range(300))).to_dict()
            for key, email, orders in zip(range(300), found["email"], found["orders"], strict=True):
                assert email == f"{key}-{orders}@example.com"
                seen.add(orders)
    writer.join()
    assert len(seen) > 2


def test_other_views_are_stored_byte_for_byte_as_before(valkey: str, tables: Tables) -> None:
    tables.commit(VIEW, [[(key, at(0), 1.5) for key in range(3)]])
    sync_one(valkey, tables, VIEW, now=at(10))
    with redis.Redis.from_url(valkey) as client:
        assert {name: client.get(name).hex() for name in sorted(names(valkey))} == {
            f"1{{{key}}}": (at_us(0).to_bytes(8, "little") + b"\0" + bytes.fromhex("000000000000f83f")).hex()
            for key in range(3)
        }
    assert registry_of(VIEW).feature_views[0].pii_names == ()
