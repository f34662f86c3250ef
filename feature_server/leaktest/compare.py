"""Two builds of one relation, compared: what is known by an instant has to be the same in both, row by row."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import SettingsError, nearest_name
from ..offline.session import connect
from ..offline.sql import literal, quote

_ROUNDING = {"DOUBLE": 1e-9, "FLOAT": 1e-5}  # relative: sums of floats in another order differ by less
_NTH = "__features_nth"
_SIDES = ("first", "later")
_TRIED = 12  # columns that may be a key where none is named


class Table(NamedTuple):
    """A relation in a DuckDB file."""

    file: Path
    schema: str
    name: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A column that has other values in `rows` of the rows compared: their share, and an example with both values.

    Without an example, the column is of another type in each build, or in one of them alone: these are then the values.
    """

    column: str
    rows: int
    share: float
    example: dict[str, str | None]
    first: str | None
    later: str | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What two builds say of the rows known by an instant.

    `rows` are in both. `appeared` only the later build has, `gone` only the first, with an example of each.
    `unclaimed` do not say when they were known, and are not compared; `repeated` rows share their keys with another.
    `by` are the keys; where none are named, columns that turn out to be unique. Where there are none of these rows are
    told apart by all their values but floats: another value is then a row gone and one appeared.
    """

    rows: int
    by: tuple[str, ...] = ()
    appeared: int = 0
    gone: int = 0
    appeared_example: dict[str, str | None] | None = None
    gone_example: dict[str, str | None] | None = None
    columns: tuple[Difference, ...] = ()
    unclaimed: int = 0
    repeated: int = 0

    @property
    def same(self) -> bool:
        return not (self.appeared or self.gone or self.columns)


def compare(first: Table, later: Table, *, known_at: str, by_us: int, keys: Sequence[str]) -> Compared:
    """The rows of both builds whose `known_at` is no later than an instant, by their keys."""
    with connect(first.file.parent / "spill") as connection:
        shapes = []
        for name, table in (("first", first), ("later", later)):
            connection.execute(f"attach {literal(str(table.file))} as {name}_file (read_only)")
            relation = ".".join(map(quote, (f"{name}_file", table.schema, table.name)))
            connection.execute(f"create temp view {name}_rows as from {relation}")
            described = connection.execute(f"describe {name}_rows").fetchall()
            shapes.append({name: kind for name, kind, *_ in described})
        types = {name: kind for name, kind in shapes[1].items() if shapes[0].get(name) == kind}
        _check_columns(types, [known_at, *keys])
        _check_time(connection, types, known_at)
        unclaimed = _take(connection, types, known_at, by_us)
        by = [name for name in types if name.lower() in {key.lower() for key in keys}]
        by = by or _unique(connection, types, known_at)
        told = by or [name for name, kind in types.items() if kind not in _ROUNDING]
        others = [name for name in types if name not in told]
        repeated = _number(connection, told, others)
        found = _differences(connection, told, others, types)
    changed = [
        Difference(
            column=name, rows=found.rows, share=1.0, example={}, first=shapes[0].get(name), later=shapes[1].get(name)
        )
        for name in dict.fromkeys([*shapes[0], *shapes[1]])
        if name not in types
    ]  # fmt: skip
    return msgspec.structs.replace(
        found, by=tuple(by), unclaimed=unclaimed, repeated=repeated if by else 0, columns=(*found.columns, *changed)
    )


def _check_columns(types: Mapping[str, str], named: Sequence[str]) -> None:
    known = {name.lower() for name in types}
    for name in named:
        if name.lower() not in known:
            near = nearest_name(name, types)
            raise SettingsError(
                "the model has no such column in both builds", where="--known-at, --keys or its YAML", got=name,
                expected=", ".join(types), remedy=f"did you mean {near}?" if near else None,
            )  # fmt: skip


def _check_time(connection: Any, types: Mapping[str, str], known_at: str) -> None:
    """SettingsError where a column holds no times; text does where some of it is one."""
    (kind,) = (kind for name, kind in types.items() if name.lower() == known_at.lower())
    if kind.startswith(("TIMESTAMP", "DATE")):
        return
    times = f"count(try_cast({quote(known_at)} as timestamptz))"
    read = [
        connection.execute(f"select count({quote(known_at)}), {times} from {side}_rows").fetchall()[0]
        for side in _SIDES
    ]
    if kind != "VARCHAR" or (any(values for values, _ in read) and not any(found for _, found in read)):
        raise SettingsError(
            "the column that says when a row was known holds no times", where="--known-at or its YAML",
            expected="a timestamp, a date or text that is one", got=f"{known_at} {kind}",
            remedy="name another column, or cast it in the model",
        )  # fmt: skip


def _take(connection: Any, types: Iterable[str], known_at: str, by_us: int) -> int:
    """Make tables of what both builds say was known by an instant; how many rows do not say when they were."""
    claimed, unclaimed = f"try_cast({quote(known_at)} as timestamptz)", 0
    for side in _SIDES:
        connection.execute(
            f"create temp table {side} as select {', '.join(map(quote, types))}, 1::bigint as {_NTH} from {side}_rows"
            f" where {claimed} <= make_timestamptz({by_us})"
        )
        count = f"select count(*) from {side}_rows where {claimed} is null"
        unclaimed = max(unclaimed, int(connection.execute(count).fetchall()[0][0]))
    return unclaimed


def _unique(connection: Any, types: Mapping[str, str], known_at: str) -> list[str]:
    """One column, or one and `known_at`, that no two rows of a build share and most rows of both have; or none."""
    names = [name for name, kind in types.items() if kind not in _ROUNDING][:_TRIED]
    best, most = list[str](), 0
    pairs = [[one for one in names if one in (name, known_at)] for name in names if name != known_at]
    for columns in [[name] for name in names] + pairs:
        listed = ", ".join(map(quote, columns))
        once = " and ".join(f"(select count(*) = count(distinct row({listed})) from {side})" for side in _SIDES)
        both = f"(select count(*) from (select {listed} from first intersect select {listed} from later))"
        matched = connection.execute(f"select case when {once} then {both} else 0 end").fetchall()[0][0]
        best, most = (columns, matched) if matched > most else (best, most)
    return best


def _number(connection: Any, told: Sequence[str], others: Sequence[str]) -> int:
    """Number the rows that share their keys, in the order of their values; how many a build has of them."""
    groups, repeated = ", ".join(map(quote, told)), 0
    for side in _SIDES:
        more = f"select coalesce(sum(n), 0) from (select count(*) as n from {side} group by {groups} having n > 1)"
        repeated = max(repeated, int(connection.execute(more).fetchall()[0][0]))
    order = f" order by {', '.join(map(quote, others))}" if others else ""
    for side in _SIDES if repeated else ():
        connection.execute(
            f"create or replace temp table {side} as select * replace"
            f" (row_number() over (partition by {groups}{order}) as {_NTH}) from {side}"
        )
    return repeated


def _differences(connection: Any, told: Sequence[str], others: Sequence[str], types: dict[str, str]) -> Compared:
    same = " and ".join(f"f.{quote(name)} is not distinct from l.{quote(name)}" for name in [*told, _NTH])
    connection.execute(
        f"create temp view pairs as select f, l from (select first as f from first) full join"
        f" (select later as l from later) on {same}"
    )
    differ = {name: _differs(name, types[name]) for name in others}
    counts = [f"count(*) filter (f is not null and l is not null and {sql})" for sql in differ.values()]
    both, appeared, gone, *changed = connection.execute(
        "select count(*) filter (f is not null and l is not null), count(*) filter (f is null),"
        f" count(*) filter (l is null){''.join(', ' + each for each in counts)} from pairs"
    ).fetchall()[0]
    found = []
    for name, rows in zip(others, changed, strict=True):
        if rows:
            where = f"f is not null and l is not null and {differ[name]}"
            example = _example(connection, told, where, "f", [f"f.{quote(name)}", f"l.{quote(name)}"])
            before, after = (example.pop(each) for each in (f"f.{quote(name)}", f"l.{quote(name)}"))
            share = rows / both
            found.append(Difference(column=name, rows=rows, share=share, example=example, first=before, later=after))
    return Compared(
        rows=both,
        appeared=appeared,
        gone=gone,
        columns=tuple(found),
        appeared_example=_example(connection, told, "f is null", "l") if appeared else None,
        gone_example=_example(connection, told, "l is null", "f") if gone else None,
    )


def _differs(name: str, kind: str) -> str:
    one, other = f"f.{quote(name)}", f"l.{quote(name)}"
    sql = f"{one} is distinct from {other}"
    if kind in _ROUNDING:
        near = (
            f"isfinite({one}) and isfinite({other}) and abs({one}::double / 2 - {other}::double / 2)"
            f" <= {_ROUNDING[kind] / 2} * greatest(abs({one}), abs({other}))"
        )
        sql = f"({sql} and not coalesce({near}, false))"
    return sql


def _example(
    connection: Any, told: Sequence[str], where: str, side: str, more: Sequence[str] = ()
) -> dict[str, str | None]:
    """The row with the lowest keys, as text: its keys by name, and what else of it by its SQL."""
    columns = {name: f"{side}.{quote(name)}" for name in told} | {sql: sql for sql in more}
    listed = ", ".join(f"{each}::varchar" for each in columns.values())
    order = ", ".join(f"{side}.{quote(name)}" for name in told)
    row = connection.execute(f"select {listed} from pairs where {where} order by {order} limit 1").fetchall()[0]
    return dict(zip(columns, row, strict=True))
