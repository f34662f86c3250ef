"""What is stored has a format number: an earlier one is read, a later one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import redis

from feature_server.definitions.registry import Registry, read_registry, write_registry
from feature_server.errors import FeatureStoreError, OfflineStoreError, OnlineStoreError, RequestError
from feature_server.formats import check_format
from feature_server.layout.keys import REGISTRY
from feature_server.offline.store import OfflineStore
from feature_server.online.registry import (
    OnlineRegistry,
    OnlineView,
    decode_online_registry,
    encode_online_registry,
    needs_of,
)
from feature_server.online.store import OnlineStore
from feature_server.training.record import METADATA_KEY, read_record
from tests.support import stored_formats
from tests.support.live_project import make_live_view
from tests.support.stored_formats import PAYMENTS, PROFILE, VIEWS, as_json

STORED = Path(__file__).parent / "fixtures" / "format1"
EXPECTED = json.loads((STORED / "expected.json").read_text())
STREAM, BATCH = make_live_view(), PROFILE


@pytest.fixture
def stored(tmp_path: Path, valkey: str) -> str:
    """A feature store in format 1: its files in `tmp_path`, its Redis."""
    stored_formats.unpack_folder(tmp_path, json.loads((STORED / "files.json").read_text()))
    stored_formats.load(valkey, json.loads((STORED / "redis.json").read_text()))
    return valkey


def test_values_in_format_1_are_read_as_they_were(stored: str) -> None:
    assert stored_formats.read(stored) == EXPECTED["read"]


def test_a_training_set_in_format_1_is_made_again_byte_by_byte(stored: str, tmp_path: Path) -> None:
    registry = read_registry(tmp_path / "registry.json")
    assert [view.id for view in registry.feature_views] == [view.id for view in VIEWS]
    assert as_json(stored_formats.train(tmp_path, registry).to_arrow().to_pylist()) == EXPECTED["trained"]
    again = stored_formats.training_store(tmp_path, registry).reproduce(tmp_path / "training.parquet")
    again.write_parquet(tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "training.parquet").read_bytes()


def test_what_is_written_says_its_number(stored: str, tmp_path: Path) -> None:
    write_registry(tmp_path / "registry.json", read_registry(tmp_path / "registry.json"))
    assert json.loads((tmp_path / "registry.json").read_bytes())["format"] == 1
    set_ = stored_formats.train(tmp_path, read_registry(tmp_path / "registry.json")).to_arrow()
    assert json.loads(set_.schema.metadata[METADATA_KEY])["format"] == 1


def _commit_of(folder: Path) -> Path:
    return folder / "offline" / PROFILE.id / "_delta_log" / f"{0:020}.json"


def _change_registry(url: str, folder: Path) -> Callable[[], Any]:
    path = folder / "registry.json"
    path.write_text(json.dumps({"format": 3, "shape": "unknown"}))
    return lambda: read_registry(path)


def _change_commit(url: str, folder: Path) -> Callable[[], Any]:
    path = _commit_of(folder)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["feature_warehouse"] = {"format": 3, "shape": "unknown"}
    path.write_text("\n".join(map(json.dumps, lines)))
    return lambda: OfflineStore(folder / "offline").table(PROFILE.id).definition()


def _change_record(url: str, folder: Path) -> Callable[[], Any]:
    table = pq.read_table(folder / "training.parquet")
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: b'{"format":3}'}), folder / "training.parquet")
    return lambda: read_record(folder / "training.parquet")


def _change_online(url: str, folder: Path) -> Callable[[], Any]:
    with redis.Redis.from_url(url) as client:
        client.set(REGISTRY, b'{"format":4,"shape":"unknown"}')
    return lambda: stored_formats.read(url)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_change_registry, FeatureStoreError, "registry.json is written in format 3, this version reads 1\n"),
        (_change_commit, OfflineStoreError, "the table's commit is written in format 3, this version reads 1\n"),
        (_change_record, RequestError, "the training set's record is written in format 3, this version reads 1\n"),
        (
            _change_online,
            OnlineStoreError,
            "the online registry is written in format 4, this version reads 1, 2 and 3\n",
        ),
    ],
)
def test_a_later_format_is_refused_by_name_before_the_rest_is_decoded(
    stored: str, tmp_path: Path, change: Any, kind: type[FeatureStoreError], said: str
) -> None:
    with pytest.raises(kind) as raised:
        change(stored, tmp_path)()
    assert said in str(raised.value)
    assert raised.value.got in said
    assert raised.value.got != raised.value.expected
    assert "a newer version of feature-warehouse" in str(raised.value.remedy)


@pytest.mark.parametrize("number", ['"2"', "null", "1.5", "true", "[]", "0", "-1"])
def test_what_is_no_format_in_the_numbers_place_is_refused(stored: str, tmp_path: Path, number: str) -> None:
    path = tmp_path / "registry.json"
    path.write_text(_numbered(path.read_text(), number))
    with pytest.raises(FeatureStoreError, match=r"the registry cannot be read\n(.*\n)*.*\$.format"):
        read_registry(path)
    with redis.Redis.from_url(stored) as client:
        client.set(REGISTRY, _numbered(client.get(REGISTRY).decode(), number))
    with pytest.raises(OnlineStoreError, match=r"the online registry cannot be read\n(.*\n)*.*\$.format"):
        stored_formats.read(stored)


def _numbered(stored: str, number: str) -> str:
    """JSON of an object with `format` as its first key."""
    return stored.replace("{", f'{{"format":{number},', 1)


def entry(view: Any, number: int) -> OnlineView:
    return OnlineView(format=number, code="a", definition=view, table_version=0, synced_at_us=0, rows=0, table_id="t")


def test_an_online_registry_keeps_its_shape_until_a_view_is_in_format_2(stored: str) -> None:
    registry = Registry(project="test", feature_views=(BATCH, STREAM))
    before = OnlineRegistry(registry=registry, views={BATCH.id: entry(BATCH, 1), STREAM.id: entry(STREAM, 1)})
    assert json.loads(encode_online_registry(before)).keys() >= {"registry", "views"}
    assert decode_online_registry(encode_online_registry(before)) == before
    after = msgspec.structs.replace(before, views={**before.views, STREAM.id: entry(STREAM, 2)})
    encoded = encode_online_registry(after)
    assert json.loads(encoded).keys() == {"format", "online"}
    assert json.loads(encoded)["format"] == 2
    assert decode_online_registry(encoded) == after
    with pytest.raises(msgspec.ValidationError, match="missing required field `registry`"):
        msgspec.json.decode(encoded, type=OnlineRegistry)  # so says a version without the number


def test_a_view_written_anew_stays_in_the_earlier_format_while_all_streams_are(stored: str) -> None:
    with OnlineStore(stored) as online:
        found = online.registry()
    assert found is not None
    assert found.earlier == ["customer__payments", "customer__shops"]
    assert found.format_of_new(STREAM) == 1
    assert found.format_of_new(BATCH) == 1
    one = msgspec.structs.replace(found, views={**found.views, PAYMENTS.id: entry(PAYMENTS, 2)})
    assert one.format_of_new(STREAM) == 2
    assert OnlineRegistry(registry=found.registry).format_of_new(STREAM) == 2


def test_a_view_with_pii_is_in_format_3_which_the_version_before_refuses() -> None:
    contact = msgspec.structs.replace(
        BATCH, features=tuple(msgspec.structs.replace(feature, pii=True) for feature in BATCH.features)
    )
    online = OnlineRegistry(registry=Registry(project="test", feature_views=(contact,)))
    assert online.format_of_new(contact) == 3
    assert online.format_of_new(STREAM) == 2
    held = msgspec.structs.replace(entry(contact, 3), needs=needs_of(contact))
    encoded = encode_online_registry(msgspec.structs.replace(online, views={contact.id: held}))
    assert decode_online_registry(encoded).views[contact.id].needs == ("pii",)
    with pytest.raises(OnlineStoreError, match="the registry is written in format 3, this version reads 1 and 2"):
        check_format(encoded, "the registry", 2, kind=OnlineStoreError, where="", remedy="")


def test_pii_leaves_the_earlier_format_of_other_views_as_it_is(stored: str) -> None:
    with OnlineStore(stored) as store:
        found = store.registry()
    assert found is not None
    contact = msgspec.structs.replace(entry(BATCH, 3), code="c")
    both = msgspec.structs.replace(found, views={**found.views, "customer__contact": contact})
    assert both.earlier == ["customer__payments", "customer__shops"]
    assert both.format_of_new(STREAM) == 2
    assert both.format_of_new(BATCH) == 1
