"""A damaged index is built anew: whatever happens to its files, a training set has the same values."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from feature_server.index import seal
from feature_server.training.store import FeatureStore
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.published import Project, make_view, training_store

T0 = datetime(2024, 1, 1, tzinfo=UTC)
ORDERS = make_view(
    "orders", {"customer": "bigint", "shop": "varchar"},
    {"amount": "double", "city": "varchar", "tags": "integer[]"}, created=True,
)  # fmt: skip
SPINE = pl.DataFrame(
    {
        "customer": [n % 40 for n in range(300)],
        "shop": [f"shop {n % 3}" for n in range(300)],
        "event_timestamp": [T0 + timedelta(hours=n) for n in range(300)],
    }
)


def flip(path: Path, rng: random.Random) -> None:
    """One bit, with or without a trace in the time of the file's last change."""
    before, body = path.stat(), bytearray(path.read_bytes())
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    with path.open("r+b") as file:
        file.write(body)
    if rng.random() < 0.7:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def empty(path: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def replace(path: Path, rng: random.Random) -> None:
    """By another file of the index, its times and all."""
    others = [other for other in path.parents[1].rglob("*") if other.is_file() and other != path]
    shutil.copy2(rng.choice(others), path)


def put_a_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def put_a_file_for_the_folder(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_bytes(b"x")


def swap_folders(path: Path, rng: random.Random) -> None:
    """The folder by the content of another."""
    others = [other for other in path.parents[1].iterdir() if other.is_dir() and other != path.parent]
    if others:
        shutil.rmtree(path.parent)
        shutil.copytree(rng.choice(others), path.parent)


DAMAGE = [flip, flip, flip, cut, empty, remove, replace, put_a_folder, put_a_file_for_the_folder, swap_folders]


def fuzz(index: Path, train: Callable[[], pa.Table], rounds: int, seed: int) -> None:
    rng, expected = random.Random(seed), train()
    for number in range(rounds):
        path = rng.choice(sorted(path for path in index.rglob("*") if path.is_file()))
        damage = rng.choice(DAMAGE)
        damage(path, rng)
        found = train()
        assert found.equals(expected), (number, damage.__name__, path)


def orders(tmp_path: Path) -> FeatureStore:
    """Two versions, so that columns lie in two folders."""
    project = Project(tmp_path / "project")
    rows = """select n % 40, 'shop ' || n % 3, timestamptz '2024-01-01' + to_hours(n::int), timestamptz '2024-01-02',
        n + 0.5, if(n % 7 = 0, null, 'city ' || n), [n, null] from range(400) numbers(n)"""
    project.publish(ORDERS, rows)
    names = ["orders:amount", "orders:city", "orders:tags"]
    project.store.get_historical_features(SPINE, names).to_arrow()
    project.publish(
        ORDERS, f"{rows} union all select 1, 'shop 1', timestamptz '2024-01-09', timestamptz '2025-01-09', -1, 'x', []"
    )
    return project.store


def features(store: FeatureStore) -> pa.Table:
    return store.get_historical_features(SPINE, ["orders:amount", "orders:city", "orders:tags"]).to_arrow()


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_an_index_changes_a_value(tmp_path: Path, seed: int) -> None:
    store = orders(tmp_path)
    fuzz(store.settings.index_path, lambda: features(store), rounds=70, seed=seed)


def test_no_damage_to_the_index_of_a_stream_view_changes_a_value(tmp_path: Path, valkey: str) -> None:
    view = make_live_view({"last_shop": ("merchant", "varchar")})
    project = LiveProject(tmp_path, valkey, view)
    project.landed("a", [payment(n, n % 9, n, f"{n}.50", version=n % 2) for n in range(300)])
    project.publish()
    store = training_store(tmp_path, project.registry)
    spine = pl.DataFrame(
        {"customer": [n % 12 for n in range(100)], "event_timestamp": [NOW - timedelta(minutes=n) for n in range(100)]}
    )
    names = [f"{view.id}:{name}" for name in view.feature_names]
    fuzz(store.settings.index_path, lambda: store.get_historical_features(spine, names).to_arrow(), rounds=70, seed=1)


def test_a_damaged_part_is_told_in_the_log_and_nothing_else_is_built_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = orders(tmp_path)
    expected = features(store)
    index = store.settings.index_path / "orders"
    before = {path: path.stat().st_ino for path in index.rglob("*") if path.is_file()}
    (events,) = index.glob("order-*/event_us") if len(list(index.glob("order-*"))) == 1 else [
        path for path in index.glob("order-*/event_us") if path.parent.name == newest(index)
    ]  # fmt: skip
    flip(events, random.Random(0))
    with caplog.at_level(logging.WARNING):
        assert features(store).equals(expected)
    (record,) = caplog.records
    assert f"{events.parent}: it is damaged: event_us holds other bytes than were written" in record.getMessage()
    after = {path: path.stat().st_ino for path in index.rglob("*") if path.is_file()}
    assert {path for path in before if after.get(path) == before[path]} >= {
        path for path in before if path.parent != events.parent
    }


def test_a_dead_link_in_the_place_of_a_views_index_is_put_away(tmp_path: Path) -> None:
    store = orders(tmp_path)
    expected = features(store)
    index = store.settings.index_path / "orders"
    shutil.rmtree(index)
    index.symlink_to("nowhere")
    assert features(store).equals(expected)


def test_an_index_without_seals_as_before_them_is_built_anew_and_not_called_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = orders(tmp_path)
    expected = features(store)
    seals = list((store.settings.index_path / "orders").glob("*/seal.json"))
    for path in seals:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert features(store).equals(expected)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) > 1
    assert all(text.endswith("it has no seal.json, as those of the version before") for text in told), told
    assert "damaged" not in "".join(told)


def newest(index: Path) -> str:
    return max(index.glob("order-*"), key=lambda path: path.stat().st_mtime).name


def test_an_index_that_was_copied_is_read_once_and_then_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = orders(tmp_path)
    expected = features(store)
    index = store.settings.index_path
    shutil.copytree(index, tmp_path / "copy")
    shutil.rmtree(index)
    shutil.copytree(tmp_path / "copy", index)
    arrow_files = {path: path.stat().st_ino for path in index.rglob("*.arrow")}
    assert features(store).equals(expected)
    assert {path: path.stat().st_ino for path in index.rglob("*.arrow")} == arrow_files
    monkeypatch.setattr(seal, "_sealed", None)  # nothing is read again
    assert features(store).equals(expected)


def test_files_are_read_again_a_week_after_they_last_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = orders(tmp_path)
    expected, read = features(store), []
    real = seal._sealed
    monkeypatch.setattr(seal, "_sealed", lambda path: read.append(path.name) or real(path))
    features(store)
    assert read == []
    monkeypatch.setattr(seal, "_TRUSTED_SECONDS", -1)
    assert features(store).equals(expected)
    assert {"keys.arrow", "event_us", "positions", "0.arrow"} <= set(read)
