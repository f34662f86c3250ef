"""A stream view's features of some keys at one instant by plain SQL, on purpose not by what training and reads use.

It works in the session of an `history.events.History`, over its relation `known`, for the keys in a relation `chosen`:
columns `n` and the join keys.
"""

from typing import Any

from ..definitions.aggregates import ORDER, call
from ..definitions.facts import FeatureView
from ..definitions.stream import Aggregate, Frame, StreamPlan
from ..layout.events import plan_of
from ..offline.sql import quote, sql_type
from .events import History


def values_at(history: History, view: FeatureView, *, at_us: int) -> dict[int, tuple[Any, ...]]:
    """The values of the view's features for each chosen key, by its n."""
    plan = plan_of(view)
    aggregates = "".join(f", {_aggregate(plan, aggregate, at_us)} as {aggregate.name}" for aggregate in plan.aggregates)
    names = [argument.name for argument in plan.arguments]
    alive = "true" if view.ttl_us is None else f"latest_us_ >= {at_us - view.ttl_us}"
    latest = "".join(f", case when {alive} then latest_.{name} end as {name}" for name in names)
    reduced = ", ".join(aggregate.name for aggregate in plan.aggregates) or "null as nothing_"
    outputs = {output.feature: output.sql for output in plan.outputs}
    features = "".join(
        f", cast({outputs[feature.name]} as {sql_type(feature.dtype)}) as {quote(feature.name)}"
        for feature in view.features
    )
    sql = f"""
        with counted as (
            select known.*, {history.tie} as tie_ from known semi join chosen using ({history.keys})
            qualify {history.in_force} and event_timestamp <= make_timestamptz({at_us})
        ),
        reduced as (
            select
                chosen.n as n_,
                epoch_us(max(event_timestamp)) as latest_us_{aggregates},
                last(counted {ORDER}) filter (where counted.event_id is not null) as latest_
            from chosen left join counted using ({history.keys})
            group by chosen.n
        ),
        named as (select n_, latest_us_, {reduced} {latest} from reduced)
        select n_{features} from named
    """
    return {n: tuple(values) for n, *values in history.connection.execute(sql).fetchall()}


def events_in(
    history: History, frame: Frame, *, at_us: int, last: int, condition: str = "true"
) -> tuple[int, list[dict[str, Any]]]:
    """How many events of the chosen keys lie in a frame and count, and the `last` of them, oldest first.

    Each is its version in force, with all columns; `condition` is SQL over those.
    """
    relation = history.connection.sql(
        f"""
        select {history.columns}, count(*) over () as total_ from (
            select known.*, {history.tie} as tie_ from known semi join chosen using ({history.keys})
            qualify {history.in_force} and {_inside(frame, at_us)} and ({condition})
        )
        order by event_timestamp desc, created_timestamp desc, tie_ desc, event_id desc
        limit {int(last)}
        """
    )
    rows = relation.fetchall()
    names = relation.columns[:-1]
    return rows[0][-1] if rows else 0, [dict(zip(names, row, strict=False)) for row in reversed(rows)]


def _aggregate(plan: StreamPlan, aggregate: Aggregate, at_us: int) -> str:
    names = [plan.arguments[i].name for i in aggregate.arguments]
    inside = _inside(plan.frames[aggregate.frame], at_us)
    if aggregate.filter is not None:
        inside += f" and {plan.arguments[aggregate.filter].name}"
    found = f"{call(aggregate.function, names, aggregate.parameter)} filter (where {inside})"
    if aggregate.function == "list" and aggregate.parameter is not None:
        return f"({found})[-{int(aggregate.parameter)}:]"
    return found


def _inside(frame: Frame, at_us: int) -> str:
    inside = f"event_timestamp <= make_timestamptz({at_us - frame.delay_us})"
    if frame.preceding_us is not None:
        inside += f" and event_timestamp >= make_timestamptz({at_us - frame.preceding_us})"
    return inside
