"""A registry of very many views: what is made of all of them gives others their turns."""

from __future__ import annotations

import asyncio
import json
import pkgutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feature_server.errors import OnlineStoreError
from feature_server.layout.keys import NAMES, REGISTRY
from feature_server.online.registry import LARGE, decode_online_registry
from feature_server.protocol import GetOnlineFeatures
from feature_server.serving.plan import A_STEP
from feature_server.serving.reader import FeatureReader
from feature_server.times import to_us
from tests.support.in_process import InProcess
from tests.support.online_rows import NOW, OnlineRows, view
from tests.support.serving_cases import AT_NOW

READ, VIEWS, FEATURES = "/get-online-features", 60, 20
MANY = [
    view(f"customer__v{n:02}", {"customer_id": "int64"}, {f"f{i}": "int64" for i in range(FEATURES)})
    for n in range(VIEWS)
]
ASKED = [f"{each.id}:f{i}" for each in MANY for i in range(FEATURES)]


@pytest.fixture
def rows(valkey: str) -> OnlineRows:
    rows = OnlineRows(valkey)
    rows.define(*MANY)
    for number, each in enumerate(MANY):
        rows.put(each.id, 1, NOW, *range(number, number + FEATURES))
    return rows


@pytest.fixture
def server(rows: OnlineRows, valkey: str) -> InProcess:
    return InProcess(valkey, AT_NOW)


def asked(features: list[str]) -> bytes:
    request = {"features": features, "entities": {"customer_id": [1]}, "full_feature_names": True}
    return json.dumps(request).encode()


def test_planning_a_read_of_many_views_gives_others_their_turns(rows: OnlineRows) -> None:
    reader, request = FeatureReader(lambda: to_us(NOW)), msgspec.json.decode(asked(ASKED), type=GetOnlineFeatures)
    reader.load(rows.redis.mget(NAMES.reload))

    def pauses() -> int:
        steps, count = reader.read(request), 0
        while (wanted := next(steps)) == []:
            count += 1
        assert wanted is not None
        assert len(wanted) == 1 + VIEWS
        return count

    assert pauses() >= VIEWS * FEATURES // (2 * A_STEP)
    assert pauses() == 0


def test_what_is_planned_in_steps_is_answered_in_order(server: InProcess) -> None:
    _, pieces = asyncio.run(server.ask(READ, asked(ASKED)))
    found = json.loads(b"".join(pieces))
    assert found["metadata"]["feature_names"][1:] == [name.replace(":", "__") for name in ASKED]
    values = [each["values"] for each in found["results"][1:]]
    assert values == [[number + i] for number in range(VIEWS) for i in range(FEATURES)]


def test_definitions_that_change_while_a_read_is_planned_are_those_it_is_answered_by(
    server: InProcess, rows: OnlineRows
) -> None:
    asyncio.run(server.ask(READ, asked(ASKED[:1])))
    changed = [view(each.id, {"customer_id": "int64"}, {f"f{i}": "float64" for i in range(FEATURES)}) for each in MANY]

    def change(turn: int) -> None:
        if turn == first + 3:
            rows.define(*changed)
            for each in changed:
                rows.put(each.id, 1, NOW, *[0.5] * FEATURES)

    first = server.turns
    status, pieces = asyncio.run(server.ask(READ, asked(ASKED), change))
    found = json.loads(b"".join(pieces))
    assert status == 200
    assert set(found["metadata"]["feature_types"][1:]) == {"float64"}
    assert {value for each in found["results"][1:] for value in each["values"]} == {0.5}


def test_reads_planned_at_the_same_time_share_a_plan(server: InProcess) -> None:
    async def both() -> None:
        answers = await asyncio.gather(*(server.answer(READ, asked(ASKED)) for _ in range(3)))
        assert [status for status, _ in answers] == [200] * 3
        server.app.redis.close()

    asyncio.run(both())
    loaded = server.app.reader.loaded
    assert loaded is not None
    assert len(loaded.plans) == 1


@pytest.mark.parametrize(
    ("path", "made_by"), [("/feature-views", "pages.describe_view"), ("/metrics", "counting.exposition")]
)
def test_reads_are_answered_while_a_page_is_made(
    rows: OnlineRows, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, made_by: str
) -> None:
    begun, answered, make = threading.Event(), threading.Event(), pkgutil.resolve_name(f"feature_server.app.{made_by}")

    def slowly(*facts: Any) -> Any:
        begun.set()
        assert answered.wait(60)
        return make(*facts)

    monkeypatch.setattr(f"feature_server.app.{made_by}", slowly)
    server = InProcess(valkey, AT_NOW)
    server.app.counts.share(tmp_path, "0.counts")

    async def both() -> None:
        page = asyncio.create_task(server.answer(path))
        await asyncio.to_thread(begun.wait)
        status, _ = await server.answer(READ, asked(ASKED[:1]))
        assert status == 200
        answered.set()
        status, _ = await page
        assert status == 200
        server.app.redis.close()

    asyncio.run(both())


def test_a_large_online_registry_is_decoded_as_a_small_one_is(
    rows: OnlineRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = rows.redis.get(REGISTRY)
    assert isinstance(stored, bytes)
    assert len(stored) > LARGE
    in_parts = decode_online_registry(stored)
    wrong = stored.replace(b'"table_version":1', b'"table_version":"x"', 1)
    with pytest.raises(OnlineStoreError) as told:
        decode_online_registry(wrong)
    monkeypatch.setattr("feature_server.online.registry.LARGE", 1 << 30)
    whole = decode_online_registry(stored)
    assert in_parts == whole
    assert msgspec.json.encode(in_parts) == msgspec.json.encode(whole)
    with pytest.raises(OnlineStoreError) as whole_told:
        decode_online_registry(wrong)
    assert str(told.value) == str(whole_told.value)
