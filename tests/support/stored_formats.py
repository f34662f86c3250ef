"""A small feature store as some version of this package leaves it: its files and its Redis, kept as JSON and put back.

Run as `python -m tests.support.stored_formats FOLDER` in a checkout of that version, it writes FOLDER's files.
"""

from __future__ import annotations

import json
import sys
import tempfile
from base64 import b64decode, b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import redis

from feature_server.client.features import FeatureClient
from feature_server.online.embedded import EmbeddedValkey
from feature_server.settings import load_settings
from tests.support.live_project import NOW, LiveProject, make_live_view, payment
from tests.support.published import make_view, training_store

DAY = 24 * 60
OVER = "over (partition by customer order by paid_at range between unbounded preceding and current row)"
PAYMENTS = make_live_view()
SHOPS = make_live_view(
    {
        "payments": (f"count(*) {OVER}", "bigint"),
        "total": (f"sum(amount) {OVER}", "decimal(38,2)"),
        "last_shop": (f"last(merchant) {OVER}", "varchar"),
        "latest_shop": ("merchant", "varchar"),
    },
    name="customer__shops",
)
PROFILE = make_view(
    "customer__profile",
    {"customer": "bigint"},
    {"country": "varchar", "score": "double", "limit_eur": "decimal(12,2)", "tags": "bigint[]", "since": "date"},
    ttl_us=30 * 86_400_000_000,
)
LIMITS = make_view("customer__limits", {"customer": "bigint"}, {"daily": "bigint", "active": "boolean"})
VIEWS = (LIMITS, PAYMENTS, PROFILE, SHOPS)
CUSTOMERS = (0, 1, 2, 3, 9)
LANDED = [payment(10 + i, i % 3, (9 + i) * DAY, f"{i % 4}0.50") for i in range(9)]
LANDED += [payment(100 + i, i % 4, i * 20, f"{i % 5}.25") for i in range(12)]
PUSHED = (payment(200, 1, 5, "3.00"), payment(201, 9, 3, "4.00"))


def names_of(*views: Any) -> list[str]:
    return [f"{view.id}:{name}" for view in views for name in view.feature_names]


def fill(folder: Path, url: str) -> LiveProject:
    """Published, synced, and pushed to."""
    project = LiveProject(folder, url, *VIEWS)
    at = f"timestamptz '{NOW - timedelta(days=2)}'"
    with duckdb.connect(str(project.warehouse)) as warehouse:
        warehouse.execute("set TimeZone = 'UTC'")
        warehouse.execute(
            f"create table customer__profile as select * from (values (0::bigint, {at}, 'NL', 0.5::double, "
            f"1.25::decimal(12,2), [1, null]::bigint[], date '2020-01-31'), (1, {at}, null, null, -2.50, [], null), "
            f"(2, {at} - interval 40 days, 'DE', 1.5, 0.01, [7], date '1969-12-31')) "
            "as t(customer, event_timestamp, country, score, limit_eur, tags, since)"
        )
        warehouse.execute(
            f"create table customer__limits as select * from (values (0::bigint, {at}, 100::bigint, true), "
            f"(1, {at}, null, false), (3, {at}, 7, null)) as t(customer, event_timestamp, daily, active)"
        )
    project.landed("a", LANDED)
    project.publish()
    project.sync()
    project.push(*PUSHED)
    return project


def read(url: str) -> dict[str, Any]:
    """Values, statuses and event timestamps of all features, as JSON has them."""
    found = {}
    with FeatureClient(url, settings=load_settings({"FEATURES_CLOCK": NOW.isoformat()})) as client:
        for view in VIEWS:
            got = client.get_many(features=names_of(view), customer=list(CUSTOMERS))
            found[view.id] = {
                name: [got.values[name], got.statuses[name], got.event_timestamps[name]] for name in got.values
            }
    return as_json(found)


def train(folder: Path, registry: Any) -> Any:
    times = pa.array([NOW, NOW - timedelta(days=1), NOW, NOW, NOW - timedelta(days=10)], pa.timestamp("us", "UTC"))
    spine = pa.table({"customer": pa.array(CUSTOMERS, pa.int64()), "event_timestamp": times})
    return training_store(folder, registry).get_historical_features(spine, names_of(*VIEWS), full_feature_names=True)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def dump(url: str) -> dict[str, Any]:
    """All of a Redis database, by key: bytes in base64."""
    found: dict[str, Any] = {}
    with redis.Redis.from_url(url) as client:
        for key in sorted(client.scan_iter(count=1000)):
            kind = client.type(key).decode()
            if kind == "string":
                value: Any = _text(client.get(key))
            elif kind == "hash":
                value = {_text(name): _text(of) for name, of in client.hgetall(key).items()}
            else:
                entries = client.xrange(key)
                value = [[entry.decode(), {_text(a): _text(b) for a, b in of.items()}] for entry, of in entries]
            found[_text(key)] = {"type": kind, "value": value}
    return found


def load(url: str, stored: dict[str, Any]) -> None:
    with redis.Redis.from_url(url) as client:
        for name, entry in stored.items():
            key, value = b64decode(name), entry["value"]
            if entry["type"] == "string":
                client.set(key, b64decode(value))
            elif entry["type"] == "hash":
                client.hset(key, mapping={b64decode(a): b64decode(b) for a, b in value.items()})
            else:
                for entry_id, fields in value:
                    client.xadd(key, {b64decode(a): b64decode(b) for a, b in fields.items()}, id=entry_id)


def pack_folder(folder: Path) -> dict[str, str]:
    kept = ("offline", "landing", "registry.json", "training.parquet")
    files = [path for name in kept for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): _text(path.read_bytes()) for path in sorted(files)}


def unpack_folder(folder: Path, stored: dict[str, str]) -> None:
    for name, content in stored.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b64decode(content))


def _text(content: bytes) -> str:
    return b64encode(content).decode()


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary, EmbeddedValkey(Path(temporary) / "valkey") as server:
        folder = Path(temporary) / "project"
        project = fill(folder, server.url)
        made = train(folder, project.registry)
        made.write_parquet(folder / "training.parquet")
        expected = {"read": read(server.url), "trained": as_json(made.to_arrow().to_pylist())}
        for name, content in (
            ("redis", dump(server.url)), ("files", pack_folder(folder)), ("expected", expected),
        ):  # fmt: skip
            (target / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
