"""What is online while `loop_hold` measures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from .loop_hold import ENTITIES, FEATURES, MANY, VIEWS, WIDE, WIDE_SOURCE
from .measure import Numbers
from .stream_events import CODE, COLUMNS, SOURCE, SQL, VIEW, define, online_view


def fill(url: str) -> Numbers:
    """The definitions, and what is online of them."""
    import numpy as np
    import pyarrow as pa
    import redis

    from feature_server.definitions.facts import Entity, Feature, FeatureRef, FeatureService, FeatureView, JoinKey
    from feature_server.definitions.registry import Registry
    from feature_server.dtypes import parse_dtype
    from feature_server.layout.keys import row_key
    from feature_server.layout.rows import RowPacker
    from feature_server.online.registry import OnlineRegistry
    from feature_server.online.store import OnlineStore

    def batch(name: str, entity: Any, count: int) -> Any:
        return typed(name, entity, {f"f{i}": "float64" for i in range(count)})

    def typed(name: str, entity: Any, types: dict[str, str]) -> Any:
        features = tuple(
            Feature(name=feature, dtype=parse_dtype(dtype), description="A value.") for feature, dtype in types.items()
        )
        return FeatureView(name=name, entities=(entity.name,), join_keys=entity.join_keys, features=features)

    customer = Entity(name="customer", join_keys=(JoinKey("customer_id", parse_dtype("int64")),))
    shop = Entity(name="shop", join_keys=(JoinKey("shop", parse_dtype("string")),))
    views = [batch(f"customer__v{n}", customer, FEATURES) for n in range(VIEWS)]
    views += [batch("customer__many", customer, MANY), batch("shop__names", shop, 1)]
    views.append(typed("customer__amounts", customer, {f"f{i}": "decimal(18,2)" for i in range(FEATURES)}))
    types = {"escaped": "string", "plain": "string", "numbers": "list<float64>"}
    long = [
        typed("customer__long", customer, types),
        typed("customer__texts", customer, {f"f{i}": "string" for i in range(100)}),
    ]
    columns = COLUMNS | {f"c{i}": "bigint" for i in range(WIDE)} | {"note": "varchar"}
    filled = SQL.replace("count(*) over h", "count(c0) over h")
    streams = [define(), define(filled, columns, WIDE_SOURCE, "customer__wide")]
    all_views = tuple(sorted([*views, *long, *(view for _, view in streams)], key=lambda view: view.id))
    refs = tuple(FeatureRef(view.id, f.name, f"{view.id}:{f.name}") for view in all_views[:50] for f in view.features)
    codes = {view.id: f"c{n}" for n, view in enumerate(all_views)} | {VIEW: CODE}
    registry = Registry(
        project="bench", entities=(customer, shop), sources=tuple(source for source, _ in streams),
        feature_views=all_views, feature_services=(FeatureService(name="all", features=refs),),
    )  # fmt: skip
    with OnlineStore(url) as store:
        online = {view.id: online_view(view, codes[view.id]) for view in all_views}
        store.publish(lambda now: OnlineRegistry(registry=registry, views=online))
    chosen, now = np.random.default_rng(1), datetime.now(UTC)
    with redis.Redis.from_url(url) as connection:
        for view in views[:-1]:
            rows = {"customer_id": pa.array(range(ENTITIES))} | {
                feature.name: amounts(chosen, str(feature.dtype)) for feature in view.features
            }
            rows[view.event_timestamp] = pa.array([now] * ENTITIES, pa.timestamp("us", "UTC"))
            packed = RowPacker(view).pack(pa.table(rows))
            connection.mset(
                {row_key(codes[view.id].encode(), [str(i)]): bytes(row) for i, row in enumerate(packed)}  # type: ignore[arg-type]
            )
        put_long(connection, long, codes, now)
    push_events(url, now)
    return {}


def amounts(chosen: Any, dtype: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pa.array(chosen.random(ENTITIES))
    return found if dtype == "float64" else pc.round(found, 2).cast(pa.decimal128(18, 2))


def put_long(connection: Any, long: Sequence[Any], codes: dict[str, str], now: datetime) -> None:
    """Rows of long texts and lists."""
    import numpy as np
    import pyarrow as pa

    from feature_server.layout.keys import row_key
    from feature_server.layout.rows import RowPacker

    values = {
        "escaped": ['"' * 8_000_000, "", "", ""],
        "plain": ["", "x" * 8_000_000, "", ""],
        "numbers": [[], [], np.random.default_rng(2).random(1_000_000), np.random.default_rng(2).random(100_000)],
    }
    texts = {f"f{i}": ["x" * 80_000] for i in range(100)}
    for view, columns_of in zip(long, (values, texts), strict=True):
        count = len(next(iter(columns_of.values())))
        table = pa.table(
            {"customer_id": range(count), view.event_timestamp: pa.array([now] * count, pa.timestamp("us", "UTC"))}
            | columns_of
        )
        for i, row in enumerate(RowPacker(view).pack(table)):
            connection.set(row_key(codes[view.id].encode(), [str(i)]), bytes(row))


def push_events(url: str, now: datetime) -> None:
    """20 events of each key, and 20,000 of some."""
    from feature_server.ingest.transaction import Ingestor
    from feature_server.times import from_us

    with Ingestor(url, lambda: time.time_ns() // 1000) as ingestor:
        for keys, count in ((range(ENTITIES), 20), (range(10**6, 10**6 + 10), 20_000)):
            for start in range(0, len(keys) * count, 20_000):
                events = [
                    {"transaction_id": keys.start * 10**3 + i, "customer_id": keys[i % len(keys)], "merchant_id": 1,
                     "amount_eur": i / 8, "occurred_at": from_us(int(now.timestamp() * 1e6) - i * 1000),
                     "ingested_at": now}
                    for i in range(start, min(start + 20_000, len(keys) * count))
                ]  # fmt: skip
                assert ingestor.push(SOURCE, events).accepted == len(events)
