"""A dbt project of any number of small feature views of every kind, whose values follow a formula."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import stream_project, tiny_project

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
CUSTOMERS = (1, 2, 3, 4)
WIDE = 200  # features of the view customer__wide
_KINDS = ("plain", "ttl", "shop", "visit", "window", "versions", "plain", "ttl", "lifetime", "visit", "plain", "shop")
_KEYS = {
    "customer": {"customer_id": "bigint"},
    "shop": {"country": "varchar", "shop_number": "integer"},
}


class View(NamedTuple):
    """The feature view of a number: what it is called, of which kind and entities, and its feature."""

    number: int
    id: str
    kind: str
    entities: tuple[str, ...]

    @property
    def feature(self) -> str:
        return f"value_{self.number}"

    def value(self, customer: int) -> int:
        """Its feature at NOW, for the customer and the shop of this number: see `_model` and `write_payments`."""
        if self.kind == "window":
            return min(self.number // 7, 40)  # one payment every 7 minutes, 40 of them
        if self.kind == "lifetime":
            return 40
        return 1000 * self.number + customer


def views(count: int) -> list[View]:
    """Views 1 to `count`."""
    found = []
    for number in range(1, count + 1):
        kind = _KINDS[number % len(_KINDS)]
        entities = {"shop": ("shop",), "visit": ("customer", "shop")}.get(kind, ("customer",))
        name = f"{'_'.join(entities)}__v{number:03}"
        found.append(View(number, f"{name}@v2" if kind == "versions" else name, kind, entities))
    return found


def many_project(count: int) -> dict[str, str]:
    """The files of a project with views 1 to `count` and customer__wide; services `sixty` and `wide`."""
    files = {
        name: text
        for name, text in tiny_project.FILES.items()
        if "customer" not in name.replace("customers", "") and "features" not in name and "services" not in name
    }
    files |= {
        "dbt_project.yml": tiny_project.DBT_PROJECT,
        "profiles/profiles.yml": tiny_project.PROFILES.replace("tiny.duckdb", ".features/warehouse.duckdb").replace(
            "threads: 1", "threads: 2"
        ),
        "models/sources.yml": stream_project.SOURCES,
        "models/stg_payments__transactions.sql": stream_project.STAGING,
    }
    for view in views(count):
        name, _, version = view.id.partition("@")
        for suffix in ("_v1", "_v2") if version else ("",):
            files[f"models/{name}{suffix}.sql"] = _model(view)
        files[f"models/{name}.yml"] = _yaml(view)
    columns = ", ".join(f"{1000 * i} + customer_id as wide_{i}" for i in range(WIDE))
    files["models/customer__wide.sql"] = f"select customer_id, timestamptz '{NOW}' as event_timestamp, {columns} from "
    files["models/customer__wide.sql"] += _rows("customer_id", CUSTOMERS)
    wide = View(0, "customer__wide", "plain", ("customer",))
    files["models/customer__wide.yml"] = _yaml(wide, [f"wide_{i}" for i in range(WIDE)])
    return files | {"models/services.yml": _services(views(count)[:60])}


def write_payments(folder: Path) -> None:
    """Payments of each customer 7, 14, … 280 minutes before NOW, where the project's source reads them."""
    types = {
        "transaction_id": pa.int64(), "customer_id": pa.int64(), "merchant": pa.string(), "kind": pa.string(),
        "amount_eur": pa.decimal128(12, 2), "occurred_at": pa.timestamp("us", "UTC"),
        "ingested_at": pa.timestamp("us", "UTC"),
    }  # fmt: skip
    rows = [
        (100 * customer + i, customer, "m", "purchase", Decimal(5), NOW - timedelta(minutes=7 * i), NOW)
        for customer in CUSTOMERS
        for i in range(1, 41)
    ]
    path = folder / "landing" / "transactions" / "first.parquet"
    path.parent.mkdir(parents=True)
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), types.values(), strict=True)]
    pq.write_table(pa.table(columns, schema=pa.schema(types)), path)


def _rows(name: str, values: tuple[int, ...]) -> str:
    return f"(values {', '.join(f'({value}::bigint)' for value in values)}) as listed({name})"


def _model(view: View) -> str:
    """An older row that must not win and the one of an hour ago; of a window, how many payments it holds."""
    if view.kind in ("window", "lifetime"):
        since = "unbounded" if view.kind == "lifetime" else f"interval {view.number} minutes"
        return f"""
            select customer_id, occurred_at as event_timestamp, count(*) over payments as {view.feature}
            from {{{{ ref('stg_payments__transactions') }}}}
            window payments as (
                partition by customer_id order by occurred_at range between {since} preceding and current row
            )
        """
    keys = ["number as customer_id"] if "customer" in view.entities else []
    keys += ["'NL' as country", "number::integer as shop_number"] if "shop" in view.entities else []
    created = ", event_timestamp as created_timestamp" if view.kind == "ttl" else ""
    return f"""
        select
            {", ".join(keys)}, event_timestamp{created},
            1000 * {view.number} + number - earlier * 500 as {view.feature}
        from {_rows("number", CUSTOMERS)},
            (values (1, timestamptz '2024-04-30 11:00:00+00'), (0, timestamptz '2024-05-01 11:00:00+00'))
            as times(earlier, event_timestamp)
    """


def _yaml(view: View, features: list[str] | None = None) -> str:
    name, _, version = view.id.partition("@")
    keys = {key: dtype for entity in view.entities for key, dtype in _KEYS[entity].items()}
    block = f"entities: [{', '.join(view.entities)}], refresh: {'daily' if view.number % 2 else 'hourly'}"
    block += ", ttl: 30d, created_timestamp: created_timestamp" if view.kind == "ttl" else ""
    block += ", stream: payments.transactions" if view.kind in ("window", "lifetime") else ""
    columns = keys | {"event_timestamp": "timestamptz"}
    columns |= {"created_timestamp": "timestamptz"} if view.kind == "ttl" else {}
    columns |= dict.fromkeys(features or [view.feature], "bigint")
    listed = "\n".join(
        f"      - {{name: {column}, data_type: {dtype}, description: A column.}}" for column, dtype in columns.items()
    )
    versions = "    latest_version: 2\n    versions: [{v: 1}, {v: 2}]\n" if version else ""
    return (
        f"models:\n  - name: {name}\n    description: View {view.number}.\n"
        f"    config: {{group: risk, meta: {{feature_view: {{{block}}}}}}}\n{versions}    columns:\n{listed}\n"
    )


def _services(chosen: list[View]) -> str:
    services = {
        "sixty": [f"{view.id}:{view.feature}" for view in chosen],
        "wide": [f"customer__wide:wide_{i}" for i in range(WIDE)],
    }
    text = "exposures:\n"
    for name, features in services.items():
        models = dict.fromkeys(feature.partition(":")[0] for feature in features)
        refs = [f"\"ref('{m.partition('@')[0]}', v=2)\"" if "@" in m else f"ref('{m}')" for m in models]
        text += (
            f"  - name: {name}\n    type: ml\n    owner: {{name: Risk models, email: models@example.com}}\n"
            f"    description: Reads many.\n    depends_on: [{', '.join(refs)}]\n"
            f"    config: {{meta: {{feature_service: {{features: {features}}}}}}}\n"
        )
    return text
