"""Whether a stream view's dbt relation has the values that training and reads make of the same events.

Those count the versions of one event once, the model's SQL counts what rows it is given. So keys are compared of which
the offline table holds an event more than once, each at the time of the latest such event.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..definitions.facts import FeatureView
from ..errors import WarehouseError
from ..history.events import History
from ..history.values import values_at
from ..offline.sql import literal, quote, sql_type
from ..times import from_us
from ..warehouse.relations import Warehouse, open_warehouse
from .difference import Difference, described
from .rows import same

COMPARED = 50  # keys
REPEATED = (
    "the dbt relation counts an event that its source holds more than once: keep one row of each in the model, "
    "e.g. `qualify row_number() over (partition by <event id> order by <created timestamp> desc) = 1`"
)


def relation_differences(
    history: History, view: FeatureView, warehouse: Path, *, now_us: int, attached: Mapping[str, Path] | None = None
) -> tuple[list[Difference], str | None]:
    """What the relation says otherwise, and why it could not be compared, if so.

    A key of which the relation lacks an event that the table has by then, or has one more, was built of other events
    and is left out. So is a value that is not what counting every version gives: a correction that landed between the
    build and the publish is in the table, and has its event's time. Changes `chosen` and `known` of the history.
    """
    names, connection = history.keys, history.connection
    repeated = connection.execute(
        f"select {names}, epoch_us(max(at_)) from (select {names}, max(event_timestamp) as at_ from stored "
        f"semi join chosen using ({names}) where {history.present} and event_timestamp <= make_timestamptz({now_us}) "
        f"group by {names}, event_id having count(*) > 1) group by {names} order by hash({names}), {names} "
        f"limit {COMPARED}"
    ).fetchall()
    if not repeated:
        return [], None
    history.know("unlanded where false")
    found: list[Difference] = []
    try:
        with open_warehouse(warehouse, attached=attached) as opened:
            for *key, at_us in repeated:
                found += _of_key(history, view, opened, key, at_us)
    except WarehouseError as error:
        return [], f"{error.what}: {error.got or error.where}"
    return found, None


def _of_key(history: History, view: FeatureView, warehouse: Warehouse, key: list[Any], at_us: int) -> list[Difference]:
    built = warehouse.built(view, key, until_us=at_us)
    condition = " and ".join(
        f"{quote(join_key.name)} = cast({literal(str(value))} as {sql_type(join_key.dtype)})"
        for join_key, value in zip(view.join_keys, key, strict=True)
    )
    execute = history.connection.execute
    execute(
        f"create or replace temp table chosen as select distinct 0 as n, {history.keys} from stored where {condition}"
    )
    times = execute(
        f"select distinct epoch_us(event_timestamp) from (select known.* from known semi join chosen "
        f"using ({history.keys}) qualify {history.in_force}) where event_timestamp <= make_timestamptz({at_us})"
    ).fetchall()
    if {us for (us,) in times} != {us for us, *_ in built}:
        return []
    rows = [values for us, *values in built if us == at_us]
    (wanted,) = values_at(history, view, at_us=at_us).values()
    once, history.in_force = (
        history.in_force,
        "(counts and row_number() over () > 0)",
    )  # QUALIFY wants a window
    (doubled,) = values_at(history, view, at_us=at_us).values()
    history.in_force = once
    shown = ", ".join(f"{name}={value}" for name, value in zip(view.key_names, key, strict=True))
    places = [
        (name, repr(wanted[i]), repr(rows[0][i]))
        for i, name in enumerate(view.feature_names)
        if rows
        and not any(same(wanted[i], row[i], close=True) for row in rows)
        and any(same(doubled[i], row[i], close=True) for row in rows)
    ]
    return described(f"{shown} at {from_us(at_us).isoformat()}", places, REPEATED)
