"""The SQL of lifetime windows' bases: the states of each key's events up to its cut-off, and the events after it.

It works in the session of an `history.events.History`, with a relation `cuts` (join keys, `cut_`); a key that is not
there has the cut-off given.
"""

from collections.abc import Mapping

import pyarrow as pa

from ..definitions.aggregates import part_calls
from ..layout.events import part_features, plan_of
from ..layout.records import BASED
from ..offline.sql import quote, sql_type
from .events import History


def hold_back(history: History, cut_us: int) -> None:
    """Make `cuts`: before the events, all versions of them, of which one is not in the offline table.

    A base has the table's events alone, so that it is the same whoever reckons it.
    """
    history.connection.execute(
        f"create or replace temp table cuts as select {history.keys}, "
        f"least(min(event_timestamp) - interval 1 microsecond, make_timestamptz({cut_us})) as cut_ "
        f"from known semi join unlanded using ({history.keys}, event_id) group by {history.keys}"
    )


def records_since(history: History, cut_us: int, *, changed: bool = False, flagged: bool = False) -> str:
    """A SELECT of the events after the cut-offs, and of each key the latest up to it that counts, for plain columns; if
    none counts the latest, so that a key with a base has a record.

    All versions of an event are needed if one is after the cut-off. With `changed`, of the keys in that relation. With
    `flagged` a column says of those up to the cut-off that their key has a base: there is one where they are.
    """
    flag = f", event_timestamp <= cut_at_ as {BASED}" if flagged else ""
    latest = "arg_max(event_id, (coalesce(in_force_, false), event_timestamp, created_timestamp, tie_)) as event_id"
    return f"""
        with keyed as ({_cut(history, "known", cut_us, changed)}),
        since as (select distinct {history.keys}, event_id from keyed where event_timestamp > cut_at_),
        newest as (
            select {history.keys}, {latest}
            from (select *, {history.in_force} as in_force_, {history.tie} as tie_ from keyed)
            where event_timestamp <= cut_at_ group by {history.keys}
        )
        select {history.columns}{flag}
        from keyed semi join (from since union from newest) as needed using ({history.keys}, event_id)
        {history.order}, place_
    """


def added_before(history: History) -> str:
    """A SELECT of the rows up to the cut-offs that the table has had only since the last sync, of keys in `changed`."""
    return f"""
        select {history.columns}
        from added semi join changed using ({history.keys}) join cuts using ({history.keys})
        where event_timestamp <= cut_
        {history.order}
    """


def bases(history: History, cut_us: int, *, changed: bool = False) -> str:
    """A SELECT of the bases' columns (join keys, `cut_`, states) of the keys with stored events up to the cut-off."""
    plan = plan_of(history.view)
    states = []
    for part, features in part_features(plan):
        names = [quote(plan.arguments[i].name) for i in part.arguments]
        condition = "in_force_"
        if part.filter is not None:
            condition += f" and {quote(plan.arguments[part.filter].name)}"
        if len(names) > 1:  # of arg_min and arg_max only events that have both values count
            condition += "".join(f" and {name} is not null" for name in names)
        for feature, call in zip(features, part_calls(part, names), strict=True):
            filtered = f"{call} filter (where {condition})"
            states.append(f", cast({filtered} as {sql_type(feature.dtype)}) as {feature.name}")
    numbered = f"*, {history.in_force} as in_force_, {history.tie} as tie_"
    return f"""
        select {history.keys}, cut_at_ as cut_{"".join(states)}
        from (select {numbered} from ({_cut(history, "stored", cut_us, changed)}))
        where event_timestamp <= cut_at_
        group by {history.keys}, cut_at_
        order by {history.keys}
    """


def leave_late_out(history: History, cut_offs: Mapping[int, int]) -> set[int]:
    """Make `known` without late events: those not stored with an event time up to their key's cut-off.

    `cut_offs` are of some chosen keys, by n. Returns the keys of which that does not tell what their lifetime windows
    have: those with late versions of events that also have one after the cut-off, or with a late event for the latest.
    """
    keys, connection = history.keys, history.connection
    connection.register("cut_offs", pa.table({"n": list(cut_offs), "us": list(cut_offs.values())}))
    connection.execute(
        f"create or replace temp table cuts as select {keys}, n, make_timestamptz(us) as cut_ "
        f"from chosen join cut_offs using (n)"
    )
    connection.unregister("cut_offs")
    connection.execute(
        f"create or replace temp table arrived as select unlanded.*, event_timestamp <= cut_ as late_ "
        f"from unlanded left join cuts using ({keys})"
    )
    found = connection.execute(
        f"""
        with events as (
            select {keys}, n, event_id,
                bool_or(event_timestamp > cut_) as since, bool_or(event_timestamp <= cut_) as before
            from known join cuts using ({keys}) group by {keys}, n, event_id
        ),
        moved as (select n from events semi join arrived using ({keys}, event_id) where since and before),
        without_since as (select n from events group by n having not bool_or(since))
        from moved union
        select n from without_since join cuts using (n) semi join (from arrived where late_) as late using ({keys})
        """
    ).fetchall()
    history.know("arrived where late_ is not true")
    return {n for (n,) in found}


def _cut(history: History, relation: str, cut_us: int, changed: bool) -> str:
    """The rows of a relation with their key's cut-off, `cut_at_`."""
    chosen = f"(select * from {relation} semi join changed using ({history.keys}))" if changed else relation
    return (
        f"select of_.*, coalesce(cuts.cut_, make_timestamptz({cut_us})) as cut_at_ "
        f"from {chosen} as of_ left join cuts using ({history.keys}) where {history.present}"
    )
