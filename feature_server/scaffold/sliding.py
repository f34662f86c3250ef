"""New stream views: one SELECT with window functions over events, its YAML, and a unit test."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from ..dtypes import DType, parse_sql_type
from ..errors import SettingsError
from ..manifest.blocks import NAME
from ..warehouse.columns import as_written
from .definitions import Folders, NewView, check_name, view_head
from .edits import Edit, quoted
from .live import LiveEvents, plain_name, things_of
from .texts import CREATED, EVENT, column_yaml, rows_yaml, sample, to_say, unit_test_yaml

_LONGEST = timedelta(days=90)
_UNITS = {"second": "s", "minute": "m", "hour": "h", "day": "d", "week": "w"}
_WINDOW = re.compile(rf"(\d{{1,9}})\s*({'|'.join(_UNITS)}|s|sec|m|min|h|d|w)s?")
_FIRST = datetime(2024, 1, 1, 10)
_DEFAULT = ("1 hour", "7 days")


class Sliding(msgspec.Struct, frozen=True):
    """A window that ends now: its length as SQL has it, and as names of columns do."""

    interval: str
    suffix: str
    length: timedelta

    def __str__(self) -> str:
        return f"the last {self.interval.removeprefix('1 ')}"

    @property
    def name(self) -> str:
        return f"last_{self.interval.replace(' ', '_')}"


class _Counted(msgspec.Struct, frozen=True):
    """A feature: its SQL and type, what it is, and the column that is summed; None where events are counted."""

    name: str
    sql: str
    data_type: str
    description: str
    column: str | None
    window: Sliding


def read_windows(texts: Sequence[str]) -> tuple[Sliding, ...]:
    """Windows such as `7 days`, `1 hour` or `30m`, shortest first; SettingsError for what is none."""
    found = {_read_window(text) for text in texts or _DEFAULT}
    return tuple(sorted(found, key=lambda window: window.length))


def _read_window(text: str) -> Sliding:
    read = _WINDOW.fullmatch(" ".join(text.lower().split()))
    unit = next((unit for unit in _UNITS if read and unit[0] == read[2][0]), "second")
    length = timedelta(**{f"{unit}s": int(read[1])}) if read else timedelta()
    if read is None or not timedelta() < length <= _LONGEST:
        raise SettingsError(
            "that is no window", where="--window", got=text, expected="a length of at most 90 days, such as '7 days'"
        )
    number = int(read[1])
    many, whole = (number * 7, "day") if unit == "week" else (number, unit)
    return Sliding(f"{many} {whole}{'s' if many != 1 else ''}", f"{number}{_UNITS[unit]}", length)


def new_stream_view(
    view: NewView, windows: Sequence[Sliding], events: LiveEvents, folders: Folders
) -> tuple[list[Edit], list[str]]:
    """A view with the count of an entity's events in each window, and the sum of each column that is a number; and the
    columns that it leaves out."""
    check_name(view.name, "a feature view")
    folders.check_free(view.name)
    keys = [key for names in view.entities.values() for key in names]
    events.staging.need(keys, "--entity")
    times = {EVENT: events.time} | ({} if events.created is None else {CREATED: events.created})
    summed = [name for name in events.staging.columns if _is_amount(events, name, {*keys, *times.values()})]
    counted = _counted(view, windows, summed, events)
    kept = {*keys, *times.values(), *summed, events.event_id}
    yaml = _yaml(view, counted, keys, times, events)
    what = f"the feature view {view.name}"
    edits = [
        *folders.new("features", view.name, "sql", _sql(counted, windows, keys, times, events), what),
        *folders.new("features", view.name, "yml", yaml, what),
    ]
    return edits, [name for name in events.staging.columns if name not in kept]


def _is_amount(events: LiveEvents, name: str, others: set[str]) -> bool:
    """Whether a column is a number that a sum says something of: not an id."""
    dtype = parse_sql_type(events.staging.columns[name])
    is_id = name == events.event_id or re.fullmatch(r"(.*_)?(id|key|no|nr|number|code|year|month|day)", name.lower())
    return (dtype.is_number or dtype.kind == "decimal") and not is_id and name not in others


def _counted(
    view: NewView, windows: Sequence[Sliding], summed: Sequence[str], events: LiveEvents
) -> tuple[_Counted, ...]:
    things = things_of(events.stream)
    things = things if NAME.fullmatch(things) else "events"
    found = [
        _Counted(f"{things}_{one.suffix}", f"count(*) over {one.name}", "bigint", f"{things} in {one}", None, one)
        for one in windows
    ]
    for column in summed:
        cast, data_type = _sum_type(parse_sql_type(events.staging.columns[column]))
        for one in windows:
            sql = f"coalesce(sum({as_written(column)}) over {one.name}, 0){cast}"
            name = f"{plain_name(column)}_sum_{one.suffix}"
            name = name if NAME.fullmatch(name) else f"of_{name}"
            found.append(_Counted(name, sql, data_type, f"sum of {column} in {one}", column, one))
    if len({one.name for one in found}) < len(found):
        raise SettingsError(
            "two features would have one name", where=f"--from {events.stream}",
            expected="columns whose names differ by more than signs", got=", ".join(one.name for one in found),
            remedy="rename a column of the table in a model, and write the view by hand",
        )  # fmt: skip
    return tuple(found)


def _sum_type(dtype: DType) -> tuple[str, str]:
    if dtype.kind == "decimal":
        return "", f"decimal(38,{dtype.scale})"
    return ("", "double") if "float" in dtype.kind else ("::bigint", "bigint")


def _sql(
    counted: Sequence[_Counted], windows: Sequence[Sliding], keys: Sequence[str], times: Mapping[str, str],
    events: LiveEvents,
) -> str:  # fmt: skip
    said = (name if name == column else f"{as_written(column)} as {name}" for name, column in times.items())
    listed = [*map(as_written, keys), *said, *(f"{one.sql} as {one.name}" for one in counted)]
    by = f"partition by {', '.join(map(as_written, keys))} order by {as_written(events.time)}"
    frames = [
        f"{one.name} as ({by} range between interval {one.interval} preceding and current row)" for one in windows
    ]
    lines = [
        "{{ config(materialized='table') }}",
        "select",
        "    " + ",\n    ".join(listed),
        f"from {{{{ {events.staging.reading} }}}}",
        "window",
        "    " + ",\n    ".join(frames),
    ]
    return "\n".join(lines) + "\n"


def _yaml(
    view: NewView, counted: Sequence[_Counted], keys: Sequence[str], times: Mapping[str, str], events: LiveEvents
) -> str:
    head = msgspec.structs.replace(view, created=events.created)
    columns = {**dict.fromkeys(keys), **times}
    features = [
        f"      - {{name: {quoted(one.name)}, data_type: {_quoted_type(one.data_type)}, "
        f"description: {to_say(one.description)}}}"
        for one in counted
    ]
    lines = [
        *view_head(head, f"what {view.name} says as of this second"),
        f"          stream: {events.stream}",
        "    columns:",
        *(column_yaml(events.staging, name, source or name) + "}" for name, source in columns.items()),
        *features,
        "",
        *_test(view.name, counted, keys, times, events),
    ]
    return "\n".join(lines) + "\n"


def _quoted_type(text: str) -> str:
    return f'"{text}"' if "," in text else text


def _test(
    name: str, counted: Sequence[_Counted], keys: Sequence[str], times: Mapping[str, str], events: LiveEvents
) -> list[str]:
    """A unit test of three events of one key: the second at the end of the shortest window, the third after all."""
    windows = sorted({one.window.length for one in counted})
    at = (_FIRST, _FIRST + windows[0], _FIRST + windows[0] + windows[-1] + timedelta(seconds=1))
    summed = list(dict.fromkeys(one.column for one in counted if one.column))
    types = events.staging.columns
    given, wanted = list[dict[str, str]](), list[dict[str, str]]()
    for place, moment in enumerate(at):
        key = {name: sample(events.staging, name, 0) for name in keys}
        when = {column: _instant(moment, types[column]) for column in times.values()}
        given.append({**key, **when, **{column: str(place + 1) for column in summed}})
        values = dict[str, str]()
        for one in counted:
            inside = [each for each, other in enumerate(at[: place + 1]) if other >= moment - one.window.length]
            values[one.name] = str(len(inside) if one.column is None else sum(each + 1 for each in inside))
        wanted.append({**key, **{name: when[column] for name, column in times.items()}, **values})
    return unit_test_yaml(
        f"{name}_counts_what_is_in_its_windows", name, events.staging.reading, rows_yaml(given), wanted
    )


def _instant(moment: datetime, type_: str) -> str:
    return f'"{moment.isoformat(sep=" ")}{"+00" if type_ == "timestamptz" else ""}"'
