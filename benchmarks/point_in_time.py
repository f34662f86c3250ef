"""Training sets: a spine joined with one view and with three by the point-in-time rule.

The limit is the best of several hand-written SQL queries on the Parquet files of the same offline tables, by the same
DuckDB with its own number of threads. Feast reads the same rows from a Parquet file sorted by time. `first` counts
making the local index, which the other cases find there; `memory` makes it with less memory than the data takes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import BenchmarkFailed, Numbers, in_child, stopwatch

VIEWS = ("a", "b", "c")
ROWS = {"tiny": 100_000, "default": 1_000_000, "full": 10_000_000}
HISTORY = 10  # rows of an entity
TARGETS = {"cpu_s/limit": "<= 1.5", "cpu_s/feast": "<= 0.5", "peak_mb/feast": "<= 0.5"}


def ours(home: str, spine: str, features: list[str], first: bool = False, memory_limit: str | None = None) -> Numbers:
    """The product's training set as an Arrow table; with `first`, from the published tables alone."""
    from feature_server.training.store import FeatureStore

    store = FeatureStore(home=home, memory_limit=memory_limit)
    if first:
        shutil.rmtree(store.settings.index_path, ignore_errors=True)
    with stopwatch() as seen:
        table = store.get_historical_features(spine, features).to_arrow()
    return {**seen, **_facts(table, features)}


def sql(home: str, spine: str, features: list[str], shape: str) -> Numbers:
    """A hand-written query of one of SHAPES, its result as an Arrow table."""
    import duckdb

    from feature_server.training.store import FeatureStore

    store = FeatureStore(home=home)
    views: dict[str, list[str]] = {}
    for feature in features:
        view, _, name = feature.partition(":")
        views.setdefault(view, []).append(name)
    files = {view: [str(file.path) for file in store.table(view).files()] for view in views}
    ttl_us = {view: store.table(view).view().ttl_us for view in views}
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        with stopwatch() as seen:
            table = SHAPES[shape](connection, spine, views, files, ttl_us)
    return {**seen, **_facts(table, features)}


def _facts(table: Any, features: list[str]) -> Numbers:
    last = table.column(features[-1].partition(":")[2])
    return {"rows": table.num_rows, "not_null": table.num_rows - last.null_count}


def _hash_join(view: str, names: list[str], files: list[str], ttl_us: int) -> tuple[str, str]:
    """CTEs of where the row is that counts, by a hash join on the key and arg_max, and of that row, fetched last."""
    source = f"read_parquet({files}, hive_partitioning = false, file_row_number = true)"
    features = ", ".join(f"history.{name}" for name in names)
    return (
        f"""found_{view} as materialized (
            select spine.n, arg_max((history.file_index << 40) + history.file_row_number,
                (history.event_timestamp, history.created_timestamp)) as place
            from {source} as history join spine on spine.entity_id = history.entity_id
                and history.event_timestamp <= spine.event_timestamp
                and history.event_timestamp >= spine.event_timestamp - to_microseconds({ttl_us})
            group by spine.n
        )""",
        f"""values_{view} as (
            select found.n, {features} from found_{view} as found join {source} as history
                on (history.file_index << 40) + history.file_row_number = found.place
        )""",
    )


def _hash_joins(connection: Any, spine: str, views: dict[str, list[str]], files: Any, ttl_us: Any) -> Any:
    """All views in one query."""
    ctes = [f"spine as materialized (select *, row_number() over () as n from read_parquet('{spine}'))"]
    for view, names in views.items():
        ctes += _hash_join(view, names, files[view], ttl_us[view])
    features = ", ".join(f"values_{view}.{name}" for view, names in views.items() for name in names)
    joins = " ".join(f"left join values_{view} on values_{view}.n = spine.n" for view in views)
    sql = f"with {', '.join(ctes)} select spine.* exclude (n), {features} from spine {joins}"
    return connection.sql(sql).to_arrow_table()


def _hash_join_each(connection: Any, spine: str, views: dict[str, list[str]], files: Any, ttl_us: Any) -> Any:
    """A query for each view, each in the spine's order, their columns put side by side."""
    import pyarrow as pa

    connection.execute(f"create temp table spine as select *, row_number() over () as n from read_parquet('{spine}')")
    table = connection.sql("select * exclude (n) from spine order by n").to_arrow_table()
    for view, names in views.items():
        ctes = _hash_join(view, names, files[view], ttl_us[view])
        features = ", ".join(f"values_{view}.{name}" for name in names)
        sql = f"with {', '.join(ctes)} select {features} from spine left join values_{view} using (n) order by spine.n"
        part = connection.sql(sql).to_arrow_table()
        table = pa.table([*table.columns, *part.columns], names=[*table.column_names, *names])
    return table


def _asof(connection: Any, spine: str, views: dict[str, list[str]], files: Any, ttl_us: Any) -> Any:
    """DuckDB's ASOF join, which picks any of several rows of one event time."""
    features, joins = [], []
    for view, names in views.items():
        valid = f"{view}.event_timestamp >= spine.event_timestamp - to_microseconds({ttl_us[view]})"
        features += [f"case when {valid} then {view}.{name} end as {name}" for name in names]
        joins.append(
            f"asof left join read_parquet({files[view]}, hive_partitioning = false) as {view} "
            f"on spine.entity_id = {view}.entity_id and spine.event_timestamp >= {view}.event_timestamp"
        )
    sql = f"select spine.*, {', '.join(features)} from read_parquet('{spine}') as spine {' '.join(joins)}"
    return connection.sql(sql).to_arrow_table()


SHAPES = {"hash joins": _hash_joins, "hash join each": _hash_join_each, "asof": _asof}


def best_sql(arguments: Numbers, shapes: Sequence[str], runs: int) -> Numbers:
    """The numbers of the shape that takes the least CPU."""
    tried = {shape: in_child("benchmarks.point_in_time:sql", {**arguments, "shape": shape}, runs=1) for shape in shapes}
    shape = min(tried, key=lambda name: tried[name]["cpu_s"])
    return {**in_child("benchmarks.point_in_time:sql", {**arguments, "shape": shape}, runs=runs), "shape": shape}


def main(arguments: Sequence[str] | None = None) -> int:
    from .common import make_case, parser, write_results
    from .data import ViewSize, feature_names, published, spine_file, view_file
    from .feast_env import FEAST_ENV, feast_repository

    options = parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=None, help="rows of a view; spines have 1 and 10 % of that")
    chosen = options.parse_args(arguments)
    work, runs = chosen.work.resolve(), chosen.runs or 3
    size = ViewSize(entities=(chosen.rows or ROWS[chosen.size]) // HISTORY, history=HISTORY)
    for name in VIEWS:
        view_file(work, name, size)
    home = str(published(work, VIEWS, size).home)
    repository = feast_repository(chosen.feast_python, work, VIEWS, size) if chosen.feast_python else None
    cases = []

    def measure(spine_rows: int, views: Sequence[str], **how: Any) -> Numbers:
        features = [f"{view}:{name}" for view in views for name in feature_names(view, size)]
        common = {"home": home, "spine": str(spine_file(work, spine_rows, size)), "features": features, **how}
        return common

    for spine_rows in (size.rows // 100, size.rows // 10):
        for views in (VIEWS[:1], VIEWS):
            call = measure(spine_rows, views)
            limit = best_sql(call, [name for name in SHAPES if len(views) > 1 or name != "hash join each"], runs)
            feast = None
            if repository is not None:
                request = {"repository": str(repository), "spine": call["spine"], "features": call["features"]}
                feast = in_child(
                    "benchmarks.feast_calls:historical", request, runs=runs, python=chosen.feast_python, env=FEAST_ENV
                )  # fmt: skip
            title = f"{spine_rows:,} × {size.rows:,} rows × {size.features} features, {_count(views)}"
            first = in_child("benchmarks.point_in_time:ours", {**call, "first": True}, runs=1)
            again = in_child("benchmarks.point_in_time:ours", call, runs=runs)
            for numbers in (first, again, feast or again):
                _check_equal(title, numbers, limit)
            cases.append(make_case(title, ours=again, limit=limit, feast=feast, targets=TARGETS))
            cases.append(make_case(f"{title}, first", ours=first, limit=limit, feast=feast, targets={}))
    spilled = measure(size.rows // 100, VIEWS[:1], first=True, memory_limit=f"{max(40, size.rows // 100_000)}MB")
    memory = in_child("benchmarks.point_in_time:ours", spilled, runs=1)
    cases.append(make_case(f"memory_limit={spilled['memory_limit']}, first", ours=memory, targets={}))
    write_results(Path(chosen.out), "Training sets", cases)
    return 0


def _count(views: Sequence[str]) -> str:
    return "1 view" if len(views) == 1 else f"{len(views)} views"


def _check_equal(title: str, numbers: Numbers, limit: Numbers) -> None:
    if (numbers["rows"], numbers["not_null"]) != (limit["rows"], limit["not_null"]):
        raise BenchmarkFailed(f"{title}: results differ: {numbers} and {limit}")


if __name__ == "__main__":
    sys.exit(main())
