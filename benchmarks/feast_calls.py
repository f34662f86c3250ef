"""What Feast does, run by Feast's interpreter through `measure.in_child`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from typing import Any

from .measure import Numbers, stopwatch


def historical(repository: str, spine: str, features: list[str]) -> Numbers:
    """Feast's training set as an Arrow table; reading the spine is not counted."""
    import pandas as pd
    from feast import FeatureStore

    store = FeatureStore(repo_path=repository)
    rows = pd.read_parquet(spine)
    with stopwatch() as seen:
        table = store.get_historical_features(entity_df=rows, features=features).to_arrow()
    column = features[-1].partition(":")[2]
    return {**seen, "rows": table.num_rows, "not_null": table.num_rows - table.column(column).null_count}


def materialize(repository: str, view: str, start: str, end: str) -> Numbers:
    """The latest row of each entity between two ISO times, written to Redis."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=repository)
    store.get_feature_view(view)
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere), stopwatch() as seen:
        store.materialize(first, last, feature_views=[view])
    return seen


def online(repository: str, features: list[str], *, entities: int, known: int, calls: int) -> Numbers:
    """Reads of `entities` of the `known` entity ids at a time, in process: CPU of this process a call."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=repository)
    draw = random.Random(3)
    requests = [[{"entity_id": draw.randrange(known)} for _ in range(entities)] for _ in range(calls)]

    def read(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return store.get_online_features(features=features, entity_rows=rows).to_dict()

    found = read(requests[0])
    assert found[features[0].partition(":")[2]], "nothing came back"
    walls = []
    with stopwatch() as seen:
        for rows in requests:
            begun = time.perf_counter()
            read(rows)
            walls.append(time.perf_counter() - begun)
    walls.sort()
    return {
        **seen,
        "cpu_us": seen["cpu_s"] / calls * 1e6,
        "p50_ms": walls[calls // 2] * 1e3,
        "p99_ms": walls[min(calls - 1, int(calls * 0.99))] * 1e3,
    }


def push(repository: str, count: int) -> Numbers:
    """`store.push` of batches of JSON lines, to Redis: the latest row of each key is kept."""
    import pandas as pd
    from feast import FeatureStore

    from .stream_events import batches

    store, sent = FeatureStore(repo_path=repository), batches(count)

    def send(lines: list[bytes]) -> None:
        frame = pd.DataFrame([json.loads(line) for line in lines])
        for name in ("occurred_at", "ingested_at"):
            frame[name] = pd.to_datetime(frame[name], format="ISO8601")
        store.push("payments", frame)

    send(sent[0])
    with stopwatch() as seen:
        for lines in sent:
            send(lines)
    return {**seen, "events_per_s": count / seen["wall_s"], "events_per_cpu_s": count / seen["cpu_s"]}


def version() -> Numbers:
    import feast

    return {"feast": feast.__version__, "python": sys.version.split()[0]}
