"""Why a stream view's feature has the value it has: the windows' bounds, the events in them, the SQL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..definitions.facts import FeatureView
from ..definitions.stream import Frame, StreamPlan, needs
from ..errors import DamagedValue, NotSynced, OfflineStoreError, RequestError, cut
from ..history.events import History, open_history
from ..history.values import events_in, values_at
from ..layout import keys
from ..layout.events import GRACE_US, plan_of
from ..offline.sql import quote, sql_type
from ..offline.store import OfflineStore, OfflineTable
from ..online.memory import registry_in_force
from ..online.registry import OnlineRegistry, OnlineView
from ..online.store import OnlineStore
from ..serving.statuses import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from ..times import from_us, to_us
from .events import live_of, served_values, unequal
from .explanation import Explanation, Window
from .rows import named_keys

SHOWN_EVENTS = 20


def explain(
    feature: str,
    key: Mapping[str, Any],
    online: OnlineStore,
    store: OfflineStore,
    *,
    at_us: int,
    now_us: int,
    project_dir: Path,
    pii_seen: frozenset[str] | None = None,
) -> Explanation:
    """Explain `view:feature` for a key, given as its join keys' values, at an instant.

    With `pii_seen` what is pii is masked, but for these features of the view and what they are made of.

    OfflineStoreError where the view was published elsewhere, so that its history is not here.
    """
    registry = registry_in_force(online)
    found, name = _find(registry, feature)
    view, plan = found.definition, plan_of(found.definition)
    table = _table(store, found)
    _check_begin(feature, at_us - (plan.longest_us or 0))
    live = live_of(online, registry, view, project_dir)
    spill, known_by_us = store.root / ".spill", now_us + GRACE_US
    with open_history(view, table, spill=spill, live=live, known_by_us=known_by_us) as history:
        values = _choose(history, key)
        output = next(output for output in plan.outputs if output.feature == name)
        needed = needs(plan, [name])
        _, newest = events_in(history, Frame(None), at_us=at_us, last=1)
        wanted, place = values_at(history, view, at_us=at_us)[0], view.feature_names.index(name)
        if at_us < now_us - GRACE_US:
            served, agree = wanted, None
            plain = bool(needed.latest) and not needed.aggregates
            status = _past_status(wanted[place], newest, ttl_us=view.ttl_us, plain=plain, at_us=at_us)
        else:
            stored, base = _stored(history, online, found)
            try:
                (served,), read = served_values(found, [stored], [base], at_us)
            except DamagedValue as error:
                raise error.of(", ".join(f"{name}={value}" for name, value in values.items())) from None
            agree = place not in unequal(served, wanted)
            (status,) = read.statuses(place) or [PRESENT]
        explanation = Explanation(
            feature=f"{view.id}:{name}",
            key=values,
            at=from_us(at_us),
            value=served[place],
            status=status,
            warehouse=wanted[place],
            agree=agree,
            windows=tuple(_window(history, plan, number, at_us) for number in needed.aggregates),
            latest=_shown(plan, newest[0]) if needed.latest and newest else None,
            newest_event=newest[0]["event_timestamp"] if newest else None,
            sql=output.source_sql,
            file=view.path,
        )
    if pii_seen is None:
        return explanation
    return explanation.masked(*_unseen(registry.registry.feature_view(view.id), view, name, pii_seen))


def _check_begin(feature: str, begin_us: int) -> None:
    try:
        from_us(begin_us)
    except OverflowError:
        raise RequestError(
            "the windows begin before the year 1", where=feature, expected="a later time", got=f"{begin_us} µs"
        ) from None


def _unseen(now: FeatureView, stored: FeatureView, feature: str, seen: frozenset[str]) -> tuple[bool, frozenset[str]]:
    """Whether a feature's value is to be masked, and the SQL of the arguments that are: by the definitions in force and
    by those that rows are stored by."""
    pii = {argument.sql for view in (now, stored) for argument in plan_of(view).arguments if argument.pii}
    plan = plan_of(stored)
    shown = {plan.arguments[number].sql for number in needs(plan, [*seen & set(stored.pii_names)]).arguments}
    is_pii = feature in now.pii_names or feature in stored.pii_names
    return is_pii and feature not in seen, frozenset(pii - shown)


def _table(store: OfflineStore, found: OnlineView) -> OfflineTable | None:
    view_id = found.definition.id
    table = store.table(view_id) if store.exists(view_id) else None
    if table is None and found.table_id:
        raise OfflineStoreError(
            "the view's history is not in this offline store", where=view_id, got=str(store.root),
            expected="the offline store that the view was published to",
            remedy="set FEATURES_OFFLINE and FEATURES_PROJECT_DIR, or run `features explain` where views are published",
        )  # fmt: skip
    return table


def _find(registry: OnlineRegistry, feature: str) -> tuple[OnlineView, str]:
    (ref,) = registry.registry.resolve([feature])
    if registry.registry.feature_view(ref.view).stream is None:
        raise RequestError(
            "only features of stream views can be explained", where=feature, expected="a view with `stream`",
            remedy=f"`features verify {ref.view}` compares the latest rows of batch views",
        )  # fmt: skip
    found = registry.view(ref.view)
    if found.definition.stream is None or ref.feature not in found.definition.feature_names:
        raise NotSynced(
            f"feature {ref.feature!r} is not online yet", where=ref.view, remedy=f"run `features sync {ref.view}`"
        )
    return found, ref.feature


def _stored(history: History, online: OnlineStore, found: OnlineView) -> list[bytes | None]:
    """What Redis holds of the chosen key: its events, and the base of its lifetime windows."""
    ((row_key, _),) = named_keys(history.connection, history.view).values()
    code = found.code.encode()
    return list(online.values([code + row_key, code + keys.BASE + row_key]))


def _past_status(value: Any, newest: list[dict[str, Any]], *, ttl_us: int | None, plain: bool, at_us: int) -> str:
    """The status that a read at an instant would have given; `plain` for a feature of the latest event alone."""
    if value is not None:
        return PRESENT
    if plain and not newest:
        return NOT_FOUND
    if plain and ttl_us is not None and to_us(newest[0]["event_timestamp"]) < at_us - ttl_us:
        return OUTSIDE_MAX_AGE
    return NULL_VALUE


def _window(history: History, plan: StreamPlan, number: int, at_us: int) -> Window:
    aggregate = plan.aggregates[number]
    frame, condition = plan.frames[aggregate.frame], "true"
    arguments = ", ".join(plan.arguments[i].sql for i in aggregate.arguments)
    spelled = f"{aggregate.function}({arguments})" if aggregate.function != "count_star" else "count(*)"
    if aggregate.filter is not None:
        spelled += f" filter (where {plan.arguments[aggregate.filter].sql})"
        condition = quote(plan.arguments[aggregate.filter].name)
    events, shown = events_in(history, frame, at_us=at_us, last=SHOWN_EVENTS, condition=condition)
    return Window(
        aggregate=spelled,
        start=None if frame.preceding_us is None else from_us(at_us - frame.preceding_us),
        end=from_us(at_us - frame.delay_us),
        events=events,
        shown=tuple(_shown(plan, event) for event in shown),
    )


def _shown(plan: StreamPlan, event: dict[str, Any]) -> dict[str, Any]:
    """An event with its arguments under the SQL they are computed by."""
    named = {argument.name: argument.sql for argument in plan.arguments}
    return {named.get(name, name): value for name, value in event.items() if name != "counts"}


def _choose(history: History, key: Mapping[str, Any]) -> dict[str, Any]:
    """Make `chosen`, this one key; its values with their types."""
    join_keys = history.view.join_keys
    if sorted(key) != sorted(history.view.key_names):
        raise RequestError(
            "the key is not that of the view", where=history.view.id, got=cut(", ".join(key)) or "nothing",
            expected=" ".join(f"{name}=…" for name in history.view.key_names),
        )  # fmt: skip
    given: dict[str, Any] = {}
    for join_key in join_keys:
        value = key[join_key.name]
        value = keys.key_value(join_key, value) if isinstance(value, str) else value
        keys.key_encoder(join_key)(value)
        given[join_key.name] = value
    listed = ", ".join(f"cast(? as {sql_type(of.dtype)}) as {quote(of.name)}" for of in join_keys)
    history.connection.execute(
        f"create or replace temp table chosen as select 0 as n, {listed}", [given[of.name] for of in join_keys]
    )
    return given
