"""`features verify`: what differs between online and offline at one instant, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import redis

from feature_server.definitions.facts import FeatureView
from feature_server.definitions.registry import Registry
from feature_server.errors import OfflineStoreError, RequestError
from feature_server.layout.keys import row_key
from feature_server.online.store import OnlineStore
from feature_server.sync.run import SyncOptions, sync
from feature_server.times import to_us
from feature_server.verify.files import check_files
from feature_server.verify.rows import DAMAGED, Verified, check_online, same, verify
from tests.support.packed import RowCodec
from tests.support.relations import Relations, view_of

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double", "city": "varchar"}, created="known_at")
HOURLY = msgspec.structs.replace(VIEW, ttl_us=3_600_000_000)
TABLE = """create table spend(customer_id bigint, event_timestamp timestamptz, known_at timestamptz, spend_eur double,
city varchar)"""


class Stores(Relations):
    """A warehouse, its offline store and an online store."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url

    def sync(self, view: FeatureView = VIEW, *, now: datetime = NOON, expire: bool = False) -> None:
        registry = Registry(project="test", feature_views=(view,))
        with OnlineStore(self.url) as online:
            report = sync(online, self.store, registry, now_us=lambda: to_us(now), options=SyncOptions(expire=expire))
        assert report.failures == {}

    def verify(self, view: FeatureView = VIEW, *, now: datetime = NOON, sample: int = 0) -> Verified:
        with OnlineStore(self.url) as online:
            return verify(view, online, self.store, now_us=to_us(now), sample=sample)

    def write_online(self, customer_id: int, event: datetime, *values: object) -> None:
        """Put a row into Redis behind sync's back."""
        with OnlineStore(self.url) as online, redis.Redis.from_url(self.url) as connection:
            registry = online.registry()
            assert registry is not None
            code = registry.views["spend"].code.encode()
            packed = RowCodec(VIEW.features).encode(to_us(event), values)
            connection.set(row_key(code, [str(customer_id)]), packed)


@pytest.fixture
def stores(tmp_path: Path, valkey: str) -> Stores:
    """Three customers' rows at 10:00 and 11:30, published and synced at noon; and a row of 13:00 of customer 3."""
    stores = Stores(tmp_path, valkey)
    stores.execute(
        TABLE,
        """insert into spend
           select k, event, event, if(k = 2, 'nan'::double, k), if(k = 1, null, 'c' || k)
           from range(1, 4) keys(k),
           (values (timestamptz '2024-01-01 10:00+00'), (timestamptz '2024-01-01 11:30+00')) times(event)""",
        "insert into spend values (3, '2024-01-01 13:00+00', '2024-01-01 13:00+00', 30, 'late')",
    )
    stores.publish(VIEW)
    stores.sync()
    return stores


def lines(verified: Verified, cause: str) -> set[str]:
    """The differences as text, all of which have this cause."""
    assert {difference.cause for difference in verified.differences} == {cause}
    return {str(difference).removesuffix(f": {cause}") for difference in verified.differences}


def test_a_synced_view_has_no_differences(stores: Stores) -> None:
    verified = stores.verify()
    assert (verified.keys, verified.differences, verified.unexplained) == (3, (), 0)
    assert (verified.online_version, verified.offline_version, verified.behind_versions) == (0, 0, 0)
    assert verified.behind_seconds == 0


def test_rows_published_but_not_synced_are_said_to_be_so(stores: Stores) -> None:
    stores.execute(
        "insert into spend values (1, '2024-01-01 11:45+00', '2024-01-01 12:00+00', 7, 'new')",
        "insert into spend values (9, '2024-01-01 11:50+00', '2024-01-01 12:00+00', 9, 'first')",
        "delete from spend where customer_id = 2",
    )
    stores.publish(VIEW)
    verified = stores.verify()
    assert lines(verified, "not yet synced") == {
        "customer_id=1 city: online None, offline 'new'",
        "customer_id=1 event_timestamp: online 2024-01-01T11:30:00+00:00, offline 2024-01-01T11:45:00+00:00",
        "customer_id=1 spend_eur: online 1.0, offline 7.0",
        "customer_id=2 *: online a row of 2024-01-01T11:30:00+00:00, offline no value",
        "customer_id=9 *: online no value, offline a row of 2024-01-01T11:50:00+00:00",
    }
    assert (verified.different, verified.unexplained) == (3, 0)
    assert (verified.behind_versions, verified.behind_seconds) == (1, 20 * 60)
    stores.sync()
    assert stores.verify().differences == ()


def test_a_row_whose_time_came_since_the_sync_is_not_yet_synced(stores: Stores) -> None:
    later = stores.verify(now=NOON + timedelta(hours=1))
    assert lines(later, "not yet synced") == {
        "customer_id=3 event_timestamp: online 2024-01-01T11:30:00+00:00, offline 2024-01-01T13:00:00+00:00",
        "customer_id=3 spend_eur: online 3.0, offline 30.0",
        "customer_id=3 city: online 'c3', offline 'late'",
    }


def test_values_that_no_sync_explains_are_wrong(stores: Stores) -> None:
    half_past = NOON - timedelta(minutes=30)
    stores.write_online(1, half_past, -0.0, None)
    stores.write_online(2, half_past - timedelta(seconds=1), float("nan"), "c2")
    stores.write_online(77, half_past, 1.0, "nobody")
    with redis.Redis.from_url(stores.url) as connection:
        (name,) = connection.keys("*{3}")
        connection.delete(name)
        (unknown,) = connection.keys("*{77}")
    verified = stores.verify()
    assert lines(verified, "wrong") == {
        "customer_id=1 spend_eur: online -0.0, offline 1.0",
        "customer_id=2 event_timestamp: online 2024-01-01T11:29:59+00:00, offline 2024-01-01T11:30:00+00:00",
        "customer_id=3 *: online no value, offline a row of 2024-01-01T11:30:00+00:00",
        f"{unknown.decode()} *: online a row of 2024-01-01T11:30:00+00:00, offline no value",
    }
    assert (verified.different, verified.unexplained) == (4, 4)


def test_long_values_are_cut_to_where_they_differ(stores: Stores) -> None:
    half_past = NOON - timedelta(minutes=30)
    stores.execute("update spend set city = repeat('a', 5000) || 'x' || repeat('b', 5000) where customer_id < 3")
    stores.publish(VIEW)
    stores.sync()
    stores.write_online(1, half_past, 1.0, "a" * 5000 + "y" + "b" * 5000)
    stores.write_online(2, half_past, float("nan"), "short")
    assert lines(stores.verify(), "wrong") == {
        "customer_id=1 city: "
        f"online ...{'a' * 33}y{'b' * 11}...{'b' * 47}', offline ...{'a' * 33}x{'b' * 11}...{'b' * 47}'",
        f"customer_id=2 city: online 'short', offline '{'a' * 47}...{'b' * 47}'",
    }


def test_zeros_of_either_sign_and_any_nan_are_equal(stores: Stores) -> None:
    stores.execute("update spend set spend_eur = 0 where customer_id = 1")
    stores.publish(VIEW)
    stores.sync()
    stores.write_online(1, NOON - timedelta(minutes=30), -0.0, None)
    stores.write_online(2, NOON - timedelta(minutes=30), -float("nan"), "c2")
    assert stores.verify().differences == ()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0.0, -0.0, True),
        ([1.0, -0.0, None], [1.0, 0.0, None], True),
        ([float("nan")], [-float("nan")], True),
        (Decimal("1.0"), Decimal("1.00"), True),
        ([0.0, None], [0.0, 0.0], False),
        ([0.0], [0.0, 0.0], False),
        (float("nan"), 0.0, False),
        (None, 0.0, False),
        (0.1 + 0.2, 0.3, False),
    ],
)
def test_values_are_equal_as_sql_has_it(one: object, other: object, equal: bool) -> None:
    assert same(one, other) is same(other, one) is equal


def test_negative_zeros_and_nan_of_either_sign_are_published_and_verified_as_they_are(
    tmp_path: Path, valkey: str
) -> None:
    view = view_of("odd", {"k": "bigint"}, {"d": "double", "f": "real", "l": "double[]"})
    stores = Stores(tmp_path, valkey)
    stores.execute(
        """create table odd as select k, timestamptz '2024-01-01 10:00+00' as event_timestamp,
           [0.0::double, '-0.0', 'nan', '-nan', null, 1.5][1 + k % 6] as d,
           [0.0::real, '-0.0', 'nan', '-nan', null, 1.5][1 + k % 6] as f,
           [['-0.0'::double, 'nan', null], [0.0::double, '-nan'], []][1 + k % 3] as l
           from range(500) keys(k)"""
    )
    stores.publish(view)
    stores.sync(view)
    assert stores.verify(view).differences == ()
    assert check_files(view, stores.store).damaged == ()


def test_an_expired_value_equals_none(stores: Stores) -> None:
    stores.sync(HOURLY)
    assert stores.verify(HOURLY, now=NOON + timedelta(minutes=30)).differences == ()
    after = stores.verify(HOURLY, now=NOON + timedelta(minutes=30, microseconds=1))
    assert (after.keys, after.differences) == (3, ())


def test_a_value_that_redis_let_expire_by_a_clock_ahead_is_expired_early(stores: Stores) -> None:
    stores.sync(HOURLY, expire=True)
    verified = stores.verify(HOURLY)
    row = "offline a row of 2024-01-01T11:30:00+00:00"
    assert lines(verified, "expired early") == {f"customer_id={k} *: online no value, {row}" for k in (1, 2, 3)}
    assert verified.unexplained == 3


def test_a_view_that_was_never_synced_is_a_difference(tmp_path: Path, valkey: str) -> None:
    stores = Stores(tmp_path, valkey)
    with pytest.raises(OfflineStoreError, match="features publish spend"):
        stores.verify()
    stores.execute(TABLE, "insert into spend values (1, '2024-01-01', '2024-01-01', 1, 'x')")
    stores.publish(VIEW)
    verified = stores.verify()
    assert lines(verified, "never synced") == {"* *: online nothing, offline 1 rows"}
    assert (verified.unexplained, verified.online_version) == (1, None)


def test_a_definition_that_changed_since_the_sync_is_compared_as_it_was_synced(stores: Stores) -> None:
    view = view_of("spend", {"customer_id": "bigint"}, {"city": "varchar"}, created="known_at")
    stores.publish(view)
    verified = stores.verify(view)
    assert [difference.cause for difference in verified.differences] == ["not yet synced"]
    assert (verified.keys, verified.unexplained, verified.behind_versions) == (3, 0, 1)
    stores.sync(view)
    assert stores.verify(view).differences == ()


def test_a_sample_has_the_same_keys_every_time(stores: Stores) -> None:
    stores.execute("insert into spend select k, '2024-01-01', '2024-01-01', k, 'x' from range(100, 300) keys(k)")
    stores.publish(VIEW)
    first, second = stores.verify(sample=20), stores.verify(sample=20)
    assert first.keys == 20
    assert first.differences == second.differences != ()
    assert stores.verify(sample=0).different == 200


def test_keys_of_every_type_are_found(tmp_path: Path, valkey: str) -> None:
    view = view_of(
        "types",
        {"s": "varchar", "u": "uuid", "d": "date", "b": "boolean", "n": "ubigint"},
        {"l": "real[]", "dec": "decimal(20,4)", "z": "timestamptz", "day": "date", "big": "ubigint", "id": "uuid"},
    )
    stores = Stores(tmp_path, valkey)
    stores.execute(
        """create table types as select s, uuid() as u, date '2013-12-31' as d, n % 2 = 0 as b,
           18446744073709551615 - n as n, timestamptz '2024-01-01' as event_timestamp, [0.1, null, n]::real[] as l,
           (n / 10)::decimal(20,4) as dec, timestamptz '2024-01-01 00:00:00.000001' as z, date '1582-01-01' as day,
           if(n = 0, null, 18446744073709551615)::ubigint as big, uuid() as id
           from (values ('', 0::ubigint), ('%|{}', 1), ('Köln', 2)) given(s, n)"""
    )
    stores.publish(view)
    stores.sync(view)
    verified = stores.verify(view)
    assert (verified.keys, verified.differences) == (3, ())


def test_a_view_that_is_not_online_cannot_be_verified() -> None:
    with pytest.raises(RequestError, match="not served online"):
        check_online([msgspec.structs.replace(VIEW, online=False)])


def test_a_row_that_was_cut_and_a_key_of_another_type_are_named_and_the_others_compared(stores: Stores) -> None:
    with redis.Redis.from_url(stores.url) as connection:
        (cut,), (foreign,) = connection.keys("*{1}"), connection.keys("*{2}")
        connection.set(cut, connection.get(cut)[:-1])
        connection.delete(foreign)
        connection.hset(foreign, "a", "b")
    verified = stores.verify()
    assert (verified.keys, verified.different, verified.unexplained) == (3, 2, 2)
    found = {difference.key: difference for difference in verified.differences}
    assert found["customer_id=1"].online.startswith("a row that cannot be read:")
    assert found["customer_id=2"].online == "a hash"
    assert {difference.cause for difference in verified.differences} == {DAMAGED}
