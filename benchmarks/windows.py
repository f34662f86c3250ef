"""Training values of windows: count, sum, min and max of three windows over events, at a spine's times.

The limit is DuckDB running the view's own windows over the same events and the spine together, one row each. `first`
counts making the local index.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import BenchmarkFailed, Numbers, in_child, stopwatch

ROWS = {"tiny": 100_000, "default": 1_000_000, "full": 10_000_000}
EVENTS_OF_A_KEY = 100
DAYS = 30
WINDOWS = {"1h": "1 hour", "1d": "1 day", "7d": "7 days"}
AGGREGATES = {"n": "count(*)", "total": "sum(amount)", "least": "min(amount)", "most": "max(amount)"}
TARGETS = {"cpu_s/limit": "<= 1", "peak_mb": "<= 3000"}
FULL_TARGETS = {**TARGETS, "cpu_s": "<= 3"}
COLUMNS = {"payment_id": "bigint", "customer": "bigint", "amount": "double", "paid_at": "timestamptz"}


def features() -> list[str]:
    return [f"{aggregate}_{window}" for window in WINDOWS for aggregate in AGGREGATES]


def model_sql(source: str, *, real: str = "") -> str:
    """The view's SQL; `real` is a filter that leaves the spine's rows out of a count."""
    columns = ", ".join(
        f"{sql}{real if sql == 'count(*)' else ''} over w{window} as {aggregate}_{window}"
        for window in WINDOWS
        for aggregate, sql in AGGREGATES.items()
    )
    frames = ", ".join(
        f"w{window} as (partition by customer order by paid_at "
        f"range between interval '{length}' preceding and current row)"
        for window, length in WINDOWS.items()
    )
    return f"select payment_id, customer, paid_at as event_timestamp, {columns} from {source} window {frames}"


def ours(home: str, spine: str, first: bool = False) -> Numbers:
    import pandas  # noqa: F401  (pyarrow loads it when first used)

    from feature_server.training.store import FeatureStore

    store = FeatureStore(home=home)
    if first:
        shutil.rmtree(store.settings.index_path, ignore_errors=True)
    with stopwatch() as seen:
        table = store.get_historical_features(spine, [f"customer__payments:{name}" for name in features()]).to_arrow()
    return {**seen, **_facts(table)}


def sql(home: str, spine: str) -> Numbers:
    import duckdb

    from feature_server.training.store import FeatureStore

    files = [str(file.path) for file in FeatureStore(home=home).table("customer__payments").files()]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        with stopwatch() as seen:
            both = f"""(select event_id as payment_id, customer, a0 as amount, event_timestamp as paid_at
                from read_parquet({files}, hive_partitioning = false)
                union all select null, customer, null, event_timestamp from read_parquet('{spine}'))"""
            query = model_sql(both, real=" filter (where payment_id is not null)")
            table = connection.sql(f"select * from ({query}) where payment_id is null").to_arrow_table()
    return {**seen, **_facts(table)}


def _facts(table: Any) -> Numbers:
    import pyarrow.compute as pc

    sums = {name: pc.sum(table.column(name)).as_py() for name in ("n_7d", "least_1h", "most_7d")}
    return {"rows": table.num_rows, **{name: round(float(value or 0), 3) for name, value in sums.items()}}


def stream_view() -> tuple[Any, Any]:
    """The view of the benchmark, compiled, and the source of its events."""
    import msgspec

    from feature_server.compiler.layers import EVENTS
    from feature_server.compiler.model import CompiledModel, compile_stream_view
    from feature_server.definitions.facts import Feature, FeatureView, JoinKey
    from feature_server.definitions.stream import EventSource, SourceColumn
    from feature_server.dtypes import parse_sql_type
    from feature_server.manifest.views import fingerprint
    from feature_server.offline.session import event_types

    source = EventSource(
        name="shop.payments",
        columns=tuple(SourceColumn(name, parse_sql_type(text)) for name, text in COLUMNS.items()),
        event_id="payment_id",
        event_timestamp="paid_at",
        relation="warehouse.main.payments",
    )
    types = {name: parse_sql_type("bigint" if name.startswith("n_") else "double") for name in features()}
    model = CompiledModel(
        sql=model_sql("payments"),
        join_keys=("customer",),
        event_timestamp="event_timestamp",
        created_timestamp=None,
        features=tuple(types),
        types=types,
    )
    with event_types(source) as describe:
        plan = compile_stream_view(model, source, lambda table: EVENTS, describe)
    keys = (JoinKey("customer", parse_sql_type("bigint")),)
    view = FeatureView(
        name="customer__payments",
        entities=("customer",),
        join_keys=keys,
        features=tuple(Feature(name=name, dtype=dtype) for name, dtype in types.items()),
        stream=plan,
    )
    view = msgspec.structs.replace(view, fingerprint=fingerprint(view))
    return view, source


def prepare(work: str, rows: int) -> Numbers:
    """Events in a warehouse, published; a spine a tenth as long. Made once."""
    import duckdb

    from feature_server.definitions.facts import Entity
    from feature_server.definitions.registry import Registry, write_registry
    from feature_server.offline.store import OfflineStore
    from feature_server.publish.run import publish
    from feature_server.warehouse.relations import open_warehouse

    home = Path(work) / f"windows-{rows}"
    spine = home / "spine.parquet"
    if spine.exists():
        return {"home": str(home), "spine": str(spine)}
    home.mkdir(parents=True, exist_ok=True)
    view, source = stream_view()
    moment = f"timestamptz '2024-01-01 00:00:00+00' + to_microseconds((random() * {DAYS} * 86400e6)::bigint)"
    with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
        connection.execute("set TimeZone = 'UTC'; select setseed(0.5)")
        customers = max(rows // EVENTS_OF_A_KEY, 1)
        connection.execute(
            f"""create table payments as select range as payment_id, (random() * {customers})::bigint as customer,
                round(random() * 1000, 2) as amount, {moment} as paid_at from range({rows})"""
        )
        connection.execute(
            f"""copy (select (random() * {customers})::bigint as customer, {moment} as event_timestamp
                from range({rows // 10})) to '{spine}.new' (format parquet)"""
        )
    with open_warehouse(home / "warehouse.duckdb", sources=[source]) as warehouse:
        publish(view, warehouse, OfflineStore(home / "offline"))
    registry = Registry(
        project="shop",
        entities=(Entity(name="customer", join_keys=view.join_keys),),
        sources=(source,),
        feature_views=(view,),
    )
    write_registry(home / "registry.json", registry)
    (home / "warehouse.duckdb").unlink()
    Path(f"{spine}.new").rename(spine)
    return {"home": str(home), "spine": str(spine)}


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results

    options = parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=None, help="events; the spine has 10 % of that")
    chosen = options.parse_args(arguments)
    rows, runs = chosen.rows or ROWS[chosen.size], chosen.runs or 3
    made = in_child("benchmarks.windows:prepare", {"work": str(chosen.work.resolve()), "rows": rows}, runs=1)
    call = {"home": made["home"], "spine": made["spine"]}
    limit = in_child("benchmarks.windows:sql", call, runs=1)
    first = in_child("benchmarks.windows:ours", {**call, "first": True}, runs=1)
    again = in_child("benchmarks.windows:ours", call, runs=runs)
    title = f"{rows // 10:,} × {rows:,} events × {len(WINDOWS)} windows × {len(AGGREGATES)} aggregates"
    for numbers in (first, again):
        if any(abs(numbers[name] - limit[name]) > 1e-6 * abs(limit[name]) for name in ("rows", "n_7d", "least_1h")):
            raise BenchmarkFailed(f"{title}: results differ: {numbers} and {limit}")
    targets = FULL_TARGETS if rows >= ROWS["full"] else TARGETS
    cases = [
        make_case(title, ours=again, limit=limit, targets=targets),
        make_case(f"{title}, first", ours=first, limit=limit, targets={}),
    ]
    write_results(Path(chosen.out), "Windows at training time", cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
