"""Damaged and lost files of an offline table: every reader names them, `publish` in full writes their rows anew."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from feature_server.catalog.status import read_status
from feature_server.definitions.registry import Registry, write_registry
from feature_server.errors import FeatureStoreError, OfflineStoreError
from feature_server.offline.damage import DamagedFile, damages
from feature_server.offline.store import DataFile
from feature_server.online.store import OnlineStore
from feature_server.publish.run import publish
from feature_server.sync.run import SyncOptions, SyncResult, sync
from feature_server.times import to_us
from feature_server.training.store import FeatureStore
from feature_server.verify.events import verify_events
from feature_server.verify.explain import explain
from feature_server.verify.files import check_files
from feature_server.verify.rows import Verified, verify
from feature_server.warehouse.relations import open_warehouse
from tests.support.live_project import NOW as LIVE_NOW
from tests.support.live_project import SOURCE, LiveProject, make_live_view, payment
from tests.support.relations import Relations, view_of

NOW = datetime(2014, 1, 1, tzinfo=UTC)
VIEW = view_of("spend", {"customer_id": "bigint"}, {"spend_eur": "double", "city": "varchar"})
SPINE = pl.DataFrame({"customer_id": list(range(200)), "event_timestamp": [NOW] * 200})


class Shop(Relations):
    """600 rows of 200 customers in three buckets, published, synced to the Redis at `url` and trained on."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.folder, self.url = folder, url
        self.registry = Registry(project="test", feature_views=(VIEW,))
        write_registry(folder / "registry.json", self.registry)
        self.execute(
            """create table spend as
               select n % 200 as customer_id, timestamptz '2013-01-15' + to_months((n // 200)::int) as event_timestamp,
                   random() as spend_eur, 'city ' || n as city
               from range(600) numbers(n)"""
        )
        self.publish(VIEW, bucket_rows=200)

    @property
    def settings(self) -> FeatureStore:
        return FeatureStore(self.folder, home=self.folder, offline=self.store.root, redis_url=self.url)

    def train(self, path: Path) -> None:
        self.settings.get_historical_features(SPINE, ["spend:spend_eur", "spend:city"]).write_parquet(path)

    def sync(self, *, full: bool = False) -> SyncResult:
        with OnlineStore(self.url) as online:
            options = SyncOptions(full=full, expire=False)
            report = sync(online, self.store, self.registry, now_us=lambda: to_us(NOW), options=options)
        for error in report.failures.values():
            raise error
        return report.results[0]

    def verify(self) -> Verified:
        with OnlineStore(self.url) as online:
            return verify(VIEW, online, self.store, now_us=to_us(NOW), sample=0)

    def last_file(self) -> DataFile:
        return self.store.table("spend").files()[-1]


@pytest.fixture
def shop(tmp_path: Path, valkey: str) -> Shop:
    return Shop(tmp_path, valkey)


def remove(path: Path) -> None:
    path.unlink()


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def overwrite_the_footer(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[:-60] + b"\xff" * 52 + body[-8:])


def overwrite_the_pages(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[:4] + b"\xff" * 2000 + body[2004:])


def replace_by_other_rows(path: Path) -> None:
    duckdb.sql(f"copy (select * replace (spend_eur + 1 as spend_eur) from '{path}') to '{path}x' (format parquet)")
    Path(f"{path}x").rename(path)


WAYS = [remove, put_a_folder, empty, cut, overwrite_the_footer, overwrite_the_pages, replace_by_other_rows]


@pytest.mark.parametrize("damage", WAYS)
def test_a_damaged_file_is_named_by_every_reader_and_mended_by_a_full_publish(
    shop: Shop, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shop.sync()
    shop.train(tmp_path / "set.parquet")
    wanted = (tmp_path / "set.parquet").read_bytes()
    file = shop.last_file()
    damage(file.path)

    shutil.rmtree(tmp_path / "index")
    readers: dict[str, Callable[[], object]] = {
        "train": lambda: shop.train(tmp_path / "again.parquet"),
        "reproduce": lambda: shop.settings.reproduce(tmp_path / "set.parquet").to_arrow(),
        "sync": lambda: shop.sync(full=True),
        "verify": shop.verify,
        "spine": lambda: shop.settings.get_historical_features(
            "select customer_id, event_timestamp, city as label from spend", ["spend:spend_eur"]
        ).to_arrow(),
    }
    if damage not in (overwrite_the_footer, overwrite_the_pages):  # told without reading
        readers["publish"] = lambda: shop.publish(VIEW)
        (view,) = read_status(shop.settings.settings, shop.registry).views
        assert [problem for problem in view.problems if str(file.path) in problem]
    for name, read in readers.items():
        with pytest.raises(DamagedFile) as raised:
            read()
        error = raised.value
        assert "spend" in str(error.where), name
        assert str(file.path) in str(error.where), name
        assert error.remedy == "run `features publish --full spend`, which writes its rows anew", name
    (line,) = check_files(VIEW, shop.store).damaged
    assert line.startswith(f"{file.path}: a data file ")

    mended = shop.publish(VIEW, full=True)
    assert (mended.rows_written, mended.changed_buckets, mended.committed) == (200, 1, True)
    assert mended.damaged == (line,)
    shop.assert_published(VIEW)
    assert check_files(VIEW, shop.store).damaged == ()
    assert shop.publish(VIEW, full=True).committed is False
    shop.train(tmp_path / "again.parquet")
    assert pl.read_parquet(tmp_path / "again.parquet").equals(pl.read_parquet(tmp_path / "set.parquet"))
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(DamagedFile) as raised:
        shop.settings.reproduce(tmp_path / "set.parquet")
    assert str(file.path) in str(raised.value.where)
    assert raised.value.remedy == "restore the file, or use the latest version, which does without it"
    shop.sync()
    assert shop.verify().differences == ()
    with OnlineStore(shop.url) as online:
        assert len({key.split(b"{")[0] for key in online.client.keys("*{*")}) == 1
    assert wanted == (tmp_path / "set.parquet").read_bytes()


def test_any_flipped_byte_is_found_or_changes_no_value(shop: Shop) -> None:
    rng = random.Random(7)
    table, file = shop.store.table("spend"), shop.last_file()
    body = file.path.read_bytes()
    found = 0
    for _ in range(150):
        flipped = bytearray(body)
        flipped[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        file.path.write_bytes(flipped)
        if list(damages(table)):
            found += 1
        else:
            assert shop.differences(table, "spend") == []
    file.path.write_bytes(body)
    assert found > 75
    assert list(damages(table)) == []


def test_fingerprints_of_every_type_are_those_in_the_files_names(tmp_path: Path) -> None:
    features = {
        "u8": "utinyint", "u64": "ubigint", "f32": "real", "f64": "double", "b": "boolean", "s": "varchar", "d": "date",
        "n": "timestamp", "z": "timestamptz", "u": "uuid", "dec": "decimal(9,2)", "huge": "decimal(38,10)",
        "l": "real[]", "lu": "ubigint[]", "a": "float[2]",
    }  # fmt: skip
    view, relations = view_of("types", {"key": "uuid", "k2": "ubigint"}, features), Relations(tmp_path)
    listed = ", ".join(f"{name} {type_}" for name, type_ in features.items())
    relations.execute(
        f"create table types(key uuid, k2 ubigint, event_timestamp timestamp, {listed})",
        """insert into types values
        (uuid(), 18446744073709551615, '2013-01-01', 255, 18446744073709551615, 'nan', '-0.0', true, 'ü', '0001-01-01',
         '9999-12-31 23:59:59.999999', 'infinity', uuid(), -9999999.99, 1234567890123456789012345678.0123456789,
         ['inf', null, 'nan', '-0.0'], [18446744073709551615, null], [1, 2]),
        (uuid(), 0, '1969-12-31 23:59:59.999999', null, null, null, null, null, null, null, null, null, null, null,
         null, null, null, null)""",
    )
    relations.publish(view)
    assert list(damages(relations.store.table("types"))) == []


@pytest.mark.parametrize("damage", [remove, overwrite_the_pages])
def test_a_damaged_file_of_a_stream_views_events_is_named_and_mended(
    tmp_path: Path, valkey: str, damage: Callable[[Path], None]
) -> None:
    view = make_live_view()
    project = LiveProject(tmp_path, valkey, view)
    project.landed("a", [payment(n, n % 50, n / 100) for n in range(2000)])
    project.publish()
    project.sync(now=LIVE_NOW)
    (file,) = project.offline.table(view.id).files()
    damage(file.path)
    with OnlineStore(valkey) as online:
        at = {"now_us": to_us(LIVE_NOW), "project_dir": tmp_path}
        readers: list[Callable[[], object]] = [
            lambda: verify_events(view, online, project.offline, **at),
            lambda: explain(f"{view.id}:n", {"customer": 1}, online, project.offline, at_us=to_us(LIVE_NOW), **at),
            lambda: project.sync(now=LIVE_NOW, full=True),
        ]
        for read in readers:
            with pytest.raises(DamagedFile) as raised:
                read()
            assert str(file.path) in str(raised.value.where)
        with open_warehouse(project.warehouse, sources=[SOURCE], project_dir=tmp_path) as warehouse:
            assert publish(view, warehouse, project.offline, full=True).rows_written == 2000
        project.sync(now=LIVE_NOW)
        assert verify_events(view, online, project.offline, **at).differences == ()


@pytest.mark.parametrize("body", [b"", b'{"commitInfo": ', b"\xff\xfe", b"7\n"])
@pytest.mark.parametrize("version", [0, 1])
def test_a_damaged_commit_is_named(shop: Shop, version: int, body: bytes) -> None:
    shop.execute("update spend set spend_eur = 2")
    shop.publish(VIEW)
    commit = shop.store.path("spend") / "_delta_log" / f"{version:020}.json"
    commit.write_bytes(body)
    for read in (shop.verify, lambda: shop.sync(full=True), lambda: shop.publish(VIEW, full=True)):
        with pytest.raises(FeatureStoreError) as raised:
            read()
        assert str(commit) in str(raised.value.where)
        assert "features publish spend" in str(raised.value.remedy)
    (view,) = read_status(shop.settings.settings, shop.registry).views
    assert [problem for problem in view.problems if str(commit) in problem]


def put_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def test_a_log_that_cannot_be_read_is_named(shop: Shop) -> None:
    path = shop.store.path("spend") / "_delta_log" / f"{0:020}.json"
    put_a_loop(path)
    for read in (shop.verify, lambda: shop.sync(full=True), lambda: shop.publish(VIEW, full=True)):
        with pytest.raises(OfflineStoreError, match="the table's log is damaged") as raised:
            read()
        assert str(path) in str(raised.value.where)
        assert f"move {shop.store.path('spend')} away" in str(raised.value.remedy)
    (view,) = read_status(shop.settings.settings, shop.registry).views
    assert [problem for problem in view.problems if str(path) in problem]


def test_what_stands_in_a_buckets_place_is_named_by_a_full_publish(shop: Shop) -> None:
    bucket = shop.last_file().path.parent
    shutil.rmtree(bucket)
    bucket.symlink_to("nowhere")
    with pytest.raises(OfflineStoreError, match="move away what stands in its place") as raised:
        shop.publish(VIEW, full=True)
    assert raised.value.where == str(bucket)
    bucket.unlink()
    shop.publish(VIEW, full=True)
    assert shop.store.table("spend").rows == 600


def test_a_damaged_checkpoint_is_named_and_may_be_removed(shop: Shop) -> None:
    shop.store.table("spend").delta.create_checkpoint()
    log = shop.store.path("spend") / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    cut(checkpoint)
    with pytest.raises(OfflineStoreError) as raised:
        shop.store.table("spend")
    assert str(checkpoint) in str(raised.value.where)
    assert raised.value.remedy == (f"remove it and {log / '_last_checkpoint'}: the log says the same without them")
    checkpoint.unlink()
    (log / "_last_checkpoint").unlink()
    assert shop.store.table("spend").rows == 600
