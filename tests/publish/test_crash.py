"""A publisher killed at any moment: readers stay on the version before, and the next run makes good."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.relations import SPEND, Relations

VIEW = SPEND
PUBLISH = """
import os, signal, sys
from pathlib import Path
from tests.support import relations
from feature_server.publish.run import publish
from feature_server.warehouse.relations import open_warehouse
VIEW = relations.SPEND

def die(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

made = relations.Relations.__new__(relations.Relations)
folder = Path(sys.argv[1])
store = relations.OfflineStore(folder / "offline")
print("ready", flush=True)
with open_warehouse(folder / "warehouse.duckdb") as warehouse:
    publish(VIEW, warehouse, store, bucket_rows=3000, progress=die)
"""


def publisher(folder: Path, dies_after_files: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(folder), str(dies_after_files)], env=environment, stdout=subprocess.PIPE
    )


@pytest.fixture
def relations(tmp_path: Path) -> Relations:
    """30,000 rows over ten months, published; then corrected everywhere, two months deleted and one added."""
    made = Relations(tmp_path)
    made.execute(
        """create table spend as
           select i % 100 as customer_id, timestamptz '2013-01-01' + to_minutes(i * 14) as event_timestamp,
           timestamptz '2013-01-01' + to_minutes(i * 14) as ingested_at, i::double as spend_eur, 'x' || i as city
           from range(30000) numbers(i)"""
    )
    assert made.publish(VIEW, bucket_rows=3000).changed_buckets == 10
    made.execute(
        "create table before as from spend",
        "update spend set spend_eur = spend_eur + 1 where customer_id = 7",
        "delete from spend where event_timestamp between '2013-03-01' and '2013-05-01'",
        "insert into spend select * replace (event_timestamp + interval 1 year as event_timestamp) from spend limit 99",
    )
    return made


def assert_old_version_then_repair(relations: Relations) -> None:
    table = relations.store.table("spend")
    assert table.version == 0
    assert relations.differences(table, "before") == []
    relations.publish(VIEW, bucket_rows=3000)
    assert relations.assert_published(VIEW).version == 1


@pytest.mark.parametrize("files_written", [0, 4, 9])
def test_killed_before_the_commit_changes_nothing(relations: Relations, tmp_path: Path, files_written: int) -> None:
    process = publisher(tmp_path, files_written)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    written = list((tmp_path / "offline" / "spend").glob("*/*.parquet"))
    assert len(written) == 10 + files_written
    assert_old_version_then_repair(relations)


def test_killed_before_the_first_commit_there_is_no_table(tmp_path: Path) -> None:
    relations = Relations(tmp_path)
    relations.execute(
        "create table spend as select 1::bigint as customer_id, timestamptz '2013-01-01' as event_timestamp, "
        "timestamptz '2013-01-01' as ingested_at, 1.0::double as spend_eur, 'x' as city"
    )
    publisher(tmp_path, 1).communicate()
    assert list((tmp_path / "offline").glob("spend/*/*.parquet"))
    assert not relations.store.exists("spend")
    relations.publish(VIEW)
    relations.assert_published(VIEW)


def test_killed_at_any_moment_the_table_is_old_or_new_and_the_next_run_repairs_it(
    relations: Relations, tmp_path: Path
) -> None:
    moments = random.Random(20130101)
    seen = set()
    for _ in range(6):
        process = publisher(tmp_path, -1)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        table = relations.store.table("spend")
        seen.add(table.version)
        assert relations.differences(table, "before" if table.version == 0 else "spend") == []
    assert seen <= {0, 1}
    relations.publish(VIEW, bucket_rows=3000)
    assert relations.assert_published(VIEW).version == 1
