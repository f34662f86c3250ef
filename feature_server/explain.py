"""Why a stream view's feature has the value it has: the windows' bounds, the events in them, the SQL."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from . import keys
from .dtypes import INTEGER_WIDTHS
from .errors import NotSynced, RequestError, UnknownNameError
from .offline import OfflineStore
from .offline_events import History, open_history
from .offline_types import quote, sql_type
from .offline_windows import events_in, values_at
from .online import OnlineStore, redis_errors
from .online_log import landing_folder
from .parity_events import event_source, named_keys, served_values, unequal
from .settings import EPOCH
from .stream_plan import Frame, Node, StreamPlan
from .stream_records import plan_of

SHOWN_EVENTS = 20


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One window function of a feature: what it is over, both bounds included, and the events there that count."""

    aggregate: str
    start: datetime | None
    end: datetime
    events: int
    shown: tuple[dict[str, Any], ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A feature's value at an instant: `value` as reads serve it, `warehouse` as SQL gives it over table, files, log.

    `newest_event` is the time of the key's newest event that counts then; `latest` is that event, where the feature
    takes a plain column of it.
    """

    feature: str
    key: dict[str, Any]
    at: datetime
    value: Any
    warehouse: Any
    agree: bool
    windows: tuple[Window, ...]
    latest: dict[str, Any] | None
    newest_event: datetime | None
    sql: str
    file: str

    def lines(self) -> list[str]:
        """The explanation as text."""
        key = " ".join(f"{name}={value}" for name, value in self.key.items())
        lines = [f"{self.feature} {key} at {self.at.isoformat()}: {self.value}"]
        if not self.agree:
            lines.append(f"but SQL over the known events gives {self.warehouse}: run `features verify`")
        for window in self.windows:
            start = window.start.isoformat() if window.start else "the first event"
            bounds = f"from {start} to {window.end.isoformat()}, both included"
            lines.append(f"{window.aggregate}: {window.events} events {bounds}")
            if window.events > len(window.shown):
                lines.append(f"  … {window.events - len(window.shown)} earlier ones")
            lines += ["  " + " ".join(f"{name}={value}" for name, value in event.items()) for event in window.shown]
        if self.latest is not None:
            lines.append("latest event: " + " ".join(f"{name}={value}" for name, value in self.latest.items()))
        lines.append(f"newest event: {self.newest_event.isoformat() if self.newest_event else 'none'}")
        lines.append(f"SQL: {self.sql}" + (f" ({self.file})" if self.file else ""))
        return lines


def explain(
    feature: str,
    key: Mapping[str, Any],
    online: OnlineStore,
    store: OfflineStore,
    *,
    at_us: int,
    project_dir: Path,
) -> Explanation:
    """Explain `view:feature` for a key, given as its join keys' values, at an instant."""
    registry = online.registry()
    if registry is None:
        raise NotSynced("the online store is empty", remedy="run `features sync`")
    view_name, _, name = feature.partition(":")
    view = registry.registry.feature_view(view_name)
    if name not in view.feature_names:
        raise UnknownNameError("feature", name, view.feature_names, where=view.id)
    if view.stream is None:
        raise RequestError(
            "only features of stream views can be explained", where=feature, expected="a view with `stream`",
            remedy=f"`features verify {view.id}` compares the latest rows of batch views",
        )  # fmt: skip
    found = registry.view(view.id)
    view, plan = found.definition, plan_of(found.definition)
    if name not in view.feature_names:
        raise NotSynced(f"feature {name!r} is not online yet", where=view.id, remedy=f"run `features sync {view.id}`")
    source = event_source(registry, view)
    table = store.table(view.id) if store.exists(view.id) else None
    live = (online, source, landing_folder(source, project_dir))
    with open_history(view, table, spill=store.root / ".spill", live=live) as history:
        values = _choose(history, key)
        ((row_key, _),) = named_keys(history).values()
        with redis_errors():
            stored = online.client.get(found.code.encode() + row_key)
        place = view.feature_names.index(name)
        served, wanted = served_values(found, [stored], at_us)[0], values_at(history, view, at_us=at_us)[0]
        aggregates, plain = set[int](), set[int]()
        output = next(output for output in plan.outputs if output.feature == name)
        _collect(output.node, aggregates, plain)
        newest = events_in(history, Frame(None), at_us=at_us, last=1)
        return Explanation(
            feature=f"{view.id}:{name}",
            key=values,
            at=_moment(at_us),
            value=served[place],
            warehouse=wanted[place],
            agree=place not in unequal(served, wanted),
            windows=tuple(_window(history, plan, number, at_us) for number in sorted(aggregates)),
            latest=_shown(plan, newest[-1]) if plain and newest else None,
            newest_event=newest[-1]["event_timestamp"] if newest else None,
            sql=output.source_sql,
            file=view.path,
        )


def _window(history: History, plan: StreamPlan, number: int, at_us: int) -> Window:
    aggregate = plan.aggregates[number]
    frame = plan.frames[aggregate.frame]
    events = events_in(history, frame, at_us=at_us)
    arguments = ", ".join(plan.arguments[i].sql for i in aggregate.arguments)
    spelled = f"{aggregate.function}({arguments})" if aggregate.function != "count_star" else "count(*)"
    if aggregate.filter is not None:
        condition = plan.arguments[aggregate.filter]
        spelled += f" filter (where {condition.sql})"
        events = [event for event in events if event[condition.name]]
    return Window(
        aggregate=spelled,
        start=None if frame.preceding_us is None else _moment(at_us - frame.preceding_us),
        end=_moment(at_us - frame.delay_us),
        events=len(events),
        shown=tuple(_shown(plan, event) for event in events[-SHOWN_EVENTS:]),
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
            "the key is not that of the view", where=history.view.id, got=", ".join(key) or "nothing",
            expected=" ".join(f"{name}=…" for name in history.view.key_names),
        )  # fmt: skip
    given: dict[str, Any] = {}
    for join_key in join_keys:
        value = key[join_key.name]
        if isinstance(value, str) and join_key.dtype.kind in INTEGER_WIDTHS and value.lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, str) and join_key.dtype.kind == "bool" and value in ("true", "false"):
            value = value == "true"
        keys.key_encoder(join_key)(value)
        given[join_key.name] = value
    listed = ", ".join(f"cast(? as {sql_type(of.dtype)}) as {quote(of.name)}" for of in join_keys)
    history.connection.execute(
        f"create or replace temp table chosen as select 0 as n, {listed}", [given[of.name] for of in join_keys]
    )
    return given


def _collect(node: Node, aggregates: set[int], plain: set[int]) -> None:
    if node.op in ("aggregate", "latest"):
        (aggregates if node.op == "aggregate" else plain).add(node.value)
    for part in node.args:
        _collect(part, aggregates, plain)


def _moment(at_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=at_us)
