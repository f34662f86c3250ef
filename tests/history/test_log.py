"""Every event that was acknowledged lands, whatever Redis' clock or history did: ids of log entries tell no order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_server.definitions.stream import SourceColumn
from feature_server.dtypes import parse_sql_type
from feature_server.errors import OfflineStoreError
from feature_server.history import checksum
from feature_server.history import log as online_log
from feature_server.history.events import open_history
from feature_server.history.log import land, landed_damage
from feature_server.ingest.worker import dead_letters
from feature_server.layout.keys import DEAD, NAMES
from feature_server.online.store import OnlineStore
from feature_server.verify.files import check_landed
from tests.support.live_project import SOURCE, LiveProject, make_live_view, payment

VIEW = make_live_view()
LOG = NAMES.log(SOURCE.name)
NEXT = b"features:landing:" + SOURCE.name.encode()  # what the next file holds, as agreed by all that land
FUTURE = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1000


@pytest.fixture
def project(tmp_path: Path, valkey: str) -> LiveProject:
    project = LiveProject(tmp_path, valkey, VIEW)
    project.landed("a", [payment(1, 1, 60)])
    project.publish()
    project.sync()
    return project


@pytest.fixture
def online(project: LiveProject) -> Iterator[OnlineStore]:
    with OnlineStore(project.url) as online:
        yield online


def landed_ids(project: LiveProject) -> list[int]:
    sql = f"select payment_id from read_parquet('{project.landing}/live-*.parquet') order by all"
    return [number for (number,) in duckdb.sql(sql).fetchall()] if any(project.landing.glob("live-*")) else []


def pushed(project: LiveProject, *numbers: int) -> list[dict[bytes, bytes]]:
    """What pushes of these payments, one each, put in the log."""
    for number in numbers:
        project.push(payment(number, 2, 10))
    with OnlineStore(project.url) as online:
        return [fields for _, fields in online.client.xrange(LOG)][-len(numbers) :]


def log_is(online: OnlineStore, entries: dict[str, dict[bytes, bytes]]) -> None:
    """Make the log as a Redis that came back empty has it after some pushes: with ids by its own clock."""
    online.client.delete(LOG)
    for name, fields in entries.items():
        online.client.xadd(LOG, fields, id=name)


def test_events_pushed_to_a_redis_whose_clock_is_behind_the_newest_landed_file_land(
    project: LiveProject, online: OnlineStore
) -> None:
    first, second, third = pushed(project, 100, 101, 102)
    log_is(online, {f"{FUTURE}-0": first})
    assert land(online, SOURCE, project.landing).events == 1
    log_is(online, {"5-0": second, "5-1": third})
    assert land(online, SOURCE, project.landing).events == 2
    assert landed_ids(project) == [100, 101, 102]
    assert online.client.xlen(LOG) == 0


def test_an_entry_whose_id_lies_among_those_of_a_landed_file_lands(project: LiveProject, online: OnlineStore) -> None:
    first, second, third, fourth = pushed(project, 100, 101, 102, 103)
    log_is(online, {"5-0": first, "9-0": second})
    land(online, SOURCE, project.landing)
    log_is(online, {"5-0": third, "7-0": fourth, "9-0": second})  # 9-0 came back, the others are new
    assert land(online, SOURCE, project.landing).events == 2
    assert landed_ids(project) == [100, 101, 102, 103]
    log_is(online, {"5-0": first, "9-0": second})
    assert land(online, SOURCE, project.landing).events == 0


def test_two_logs_with_the_same_ids_end_in_two_files(project: LiveProject, online: OnlineStore) -> None:
    first, second = pushed(project, 100, 101)
    log_is(online, {"1-1": first})
    land(online, SOURCE, project.landing)
    log_is(online, {"1-1": second})
    land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101]
    assert len(list(project.landing.glob("live-1_1-1_1-*.parquet"))) == 2


def test_a_file_named_as_files_were_before_does_not_keep_later_events_from_landing(
    project: LiveProject, online: OnlineStore
) -> None:
    (first,) = pushed(project, 100)
    table = pa.ipc.open_stream(first[b"events"]).read_all()
    online_log.pq.write_table(table, project.landing / f"live-1_0-{FUTURE}_0.parquet")
    pushed(project, 101)
    log_is(online, {"7-0": pushed(project, 101)[0]})
    land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101]


@pytest.mark.parametrize("agreed", [f"{FUTURE}-0 {FUTURE}-1", "1-0 3-0", "4-0 5-1"])
def test_an_agreement_that_outlived_its_log_takes_nothing_out_of_the_next_one(
    project: LiveProject, online: OnlineStore, agreed: str
) -> None:
    first, second = pushed(project, 100, 101)
    log_is(online, {"5-0": first, "5-1": second})
    online.client.set(NEXT, agreed)
    land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101]
    assert online.client.exists(LOG, NEXT) == 1  # the log, empty
    assert online.client.xlen(LOG) == 0


def test_a_log_that_outlived_the_agreement_lands_once(project: LiveProject, online: OnlineStore) -> None:
    pushed(project, 100, 101)
    before = online.client.dump(LOG)
    land(online, SOURCE, project.landing, max_entries=1)
    online.client.restore(LOG, 0, before, replace=True)
    pushed(project, 102)
    land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101, 102]


@pytest.mark.parametrize("keep_agreement", [True, False])
def test_what_is_pushed_while_a_file_is_written_and_redis_comes_back_empty_stays(
    project: LiveProject, online: OnlineStore, monkeypatch: pytest.MonkeyPatch, keep_agreement: bool
) -> None:
    first, second = pushed(project, 100, 101)
    log_is(online, {"5-0": first})
    write: Callable[..., Any] = online_log.write_whole

    def write_and_lose(*arguments: Any) -> None:
        write(*arguments)
        monkeypatch.setattr(online_log, "write_whole", write)
        log_is(online, {"3-0": second})
        if not keep_agreement:
            online.client.delete(NEXT)

    monkeypatch.setattr(online_log, "write_whole", write_and_lose)
    land(online, SOURCE, project.landing)
    land(online, SOURCE, project.landing)
    assert landed_ids(project) == [100, 101]


def test_workers_that_land_at_the_same_time_land_each_event_once(project: LiveProject) -> None:
    pushed(project, *range(100, 130))

    def work(_: int) -> int:
        with OnlineStore(project.url) as online:
            return land(online, SOURCE, project.landing, max_entries=2).events

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert landed_ids(project) == list(range(100, 130))


def test_an_entry_that_cannot_be_read_becomes_a_dead_letter_and_the_others_land(
    project: LiveProject, online: OnlineStore
) -> None:
    pushed(project, 100)
    damaged = online.client.xadd(LOG, {"events": b"\xff\xff\xff\xff\x10\x00\x00\x00no arrow at all"})
    foreign = online.client.xadd(LOG, {"other": "thing"})
    wrong = pa.table({"payment_id": [7]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, wrong.schema) as writer:
        writer.write_table(wrong)
    narrow = online.client.xadd(LOG, {"events": bytes(sink.getvalue())})
    pushed(project, 101)
    with open_history(VIEW, None, spill=project.folder / "spill", live=(online, SOURCE, project.landing)) as history:
        assert history.connection.execute("select count(*) from live").fetchone() == (2,)  # one row an event
    done = land(online, SOURCE, project.landing)
    assert (done.events, done.refused, str(done)) == (2, 3, "landed shop.payments events=2 files=1 refused=3")
    assert landed_ids(project) == [100, 101]
    letters = list(dead_letters(online, SOURCE.name))
    assert [letter.id.encode() for letter in letters] == [damaged, foreign, narrow]
    assert letters[0].reason.startswith("an entry of features:log:shop.payments that cannot be read: ")
    assert letters[1].reason.endswith("no field `events`")
    assert letters[2].reason.endswith("no column 'paid_at'")
    assert land(online, SOURCE, project.landing).refused == 0
    assert online.client.xlen(DEAD + SOURCE.name.encode()) == 3


def test_events_pushed_before_and_after_a_column_was_added_land(project: LiveProject, online: OnlineStore) -> None:
    (fields,) = pushed(project, 100)
    table = pa.ipc.open_stream(fields[b"events"]).read_all().append_column("channel", pa.array(["web"]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    online.client.xadd(LOG, {"events": bytes(sink.getvalue())})
    pushed(project, 101)
    more = msgspec.structs.replace(
        SOURCE, columns=(*SOURCE.columns, SourceColumn("channel", parse_sql_type("varchar")))
    )

    def known() -> Any:
        with open_history(VIEW, None, spill=project.folder / "spill", live=(online, more, project.landing)) as history:
            return history.connection.execute("select event_id from live order by all").fetchall()

    assert known() == [(100,), (101,)]
    assert land(online, more, project.landing).events == 3
    assert landed_ids(project) == [100, 100, 101]
    assert known() == [(100,), (101,)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:40],
        lambda whole: b"",
        lambda whole: whole + b"more",
        lambda whole: whole[:-9] + b"\xff" + whole[-8:],
        lambda whole: whole[:4] + b"\xff" * 20 + whole[24:],
    ],
)
def test_a_damaged_file_of_landed_events_is_named(project: LiveProject, damage: Callable[[bytes], bytes]) -> None:
    project.push(payment(100, 2, 10))
    with OnlineStore(project.url) as online:
        (path,) = land(online, SOURCE, project.landing).files
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OfflineStoreError, match="a file of landed events is damaged") as raised:
        project.sync(full=True)
    assert raised.value.where == str(path)


def test_any_byte_of_a_landed_file_that_changes_is_found(project: LiveProject) -> None:
    with OnlineStore(project.url) as online:
        pushed(project, *range(100, 103))
        (path,) = land(online, SOURCE, project.landing).files
    whole = path.read_bytes()
    assert landed_damage(path) == (True, None)
    name = whole.rindex(checksum.KEY.encode())  # which is no value, nor says where one lies
    places = range(name, name + len(checksum.KEY) + 2)  # with the length of what follows
    for place in set(range(0, len(whole), 7)) | set(range(len(whole) - 60, len(whole))) - set(places):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        checked, what = landed_damage(path)
        assert what is not None or (not checked and place in places), place


def test_verify_reads_landed_files_and_says_which_has_changed_and_which_cannot_tell(project: LiveProject) -> None:
    pushed(project, 100)
    with OnlineStore(project.url) as online:
        (path,) = land(online, SOURCE, project.landing).files
    earlier = path.with_name("live-1_0-2_0.parquet")
    pq.write_table(pq.read_table(path), earlier)
    found = check_landed(SOURCE, project.folder)
    assert (found.files, found.damaged, found.unchecked, found.remedy) == (2, (), 1, None)
    path.write_bytes(path.read_bytes().replace(b"shop 2", b"shop 3", 1))
    assert pq.read_table(path)["merchant"].to_pylist() == ["shop 3"], "which no reader of Parquet sees"
    earlier.write_bytes(earlier.read_bytes()[:-1])
    found = check_landed(SOURCE, project.folder)
    changed, unreadable = found.damaged
    assert changed == f"{path}: a file of landed events has changed since it landed"
    assert unreadable.startswith(f"{earlier}: a file of landed events cannot be read: ")
    assert (found.unchecked, "put each back from a copy" in (found.remedy or "")) == (0, True)
