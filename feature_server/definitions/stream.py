"""How a stream view's SQL is evaluated on live events: the result of compiling it, as frozen facts.

`compiler` makes a StreamPlan from the dbt model; training, ingest, reading and `explain` follow it. A plan has four
parts: row-level arguments computed from each event by DuckDB (`row_sql`), frames, aggregates of arguments over frames,
and one output expression a feature.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..dtypes import DType

_LOCATION = re.compile(r"'((?:[^']|'')+\.parquet)'")
PATTERN = (
    "meta.external_location with a pattern of Parquet files, e.g. landing/transactions/*.parquet; of a table, such a "
    "pattern as `landing` in event_stream"
)


def is_pattern(text: object) -> bool:
    """Whether a text is a pattern of Parquet files that files of live events fit."""
    name = PurePath(text).name if isinstance(text, str) else ""
    return bool(re.search(r"[*?\[]", name)) and PurePath("live-0_0-0_0-0.parquet").match(name)


class SourceColumn(msgspec.Struct, frozen=True):
    """A column of an event source. `pii` as that of a feature."""

    name: str
    dtype: DType
    pii: bool | UnsetType = UNSET


class EventSource(msgspec.Struct, frozen=True, kw_only=True):
    """A dbt source whose rows are events that also arrive live, e.g. `payments.transactions`.

    `event_id` is the column that identifies an event: sent twice, it counts once; of several versions the one with the
    latest `created_timestamp` counts. `relation` is what a model reads for it, as SQL: a table or files. `landing` is
    the pattern of files that live events of a table land as, which its relation is to have too.
    """

    name: str
    columns: tuple[SourceColumn, ...]
    event_id: str
    event_timestamp: str
    created_timestamp: str | None = None
    relation: str = ""
    path: str = ""
    landing: str | None = None

    @property
    def pattern(self) -> str | None:
        """The Parquet files that the relation reads; None where files of live events would not be among them."""
        if self.landing is not None:
            return self.landing
        found = _LOCATION.search(self.relation)
        pattern = found[1].replace("''", "'") if found else ""
        return pattern if is_pattern(pattern) else None


class Frame(msgspec.Struct, frozen=True):
    """The events with `t - preceding_us <= event time <= t - delay_us`; `preceding_us` None is a lifetime."""

    preceding_us: int | None
    delay_us: int = 0


class Argument(msgspec.Struct, frozen=True):
    """A row-level expression of the model, a column `name` of `row_sql`. `pii` as that of a feature."""

    name: str
    dtype: DType
    sql: str
    pii: bool | UnsetType = UNSET


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One window function: `function` over arguments (positions in StreamPlan.arguments) of the events in a frame.

    `filter` is the position of a boolean argument that must be true; `parameter` a quantile or the n of a list of the
    last n.
    """

    name: str
    function: str
    arguments: tuple[int, ...] = ()
    distinct: bool = False
    filter: int | None = None
    frame: int
    parameter: float | None = None
    dtype: DType


class Node(msgspec.Struct, frozen=True):
    """An output expression as a tree.

    `op` is `aggregate` or `latest` (value: a position), `literal` (value: the constant), `cast` (value: the type's SQL
    name), or an operator or scalar function with `args`.
    """

    op: str
    args: "tuple[Node, ...]" = ()
    value: Any = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: its tree, and the same as SQL over columns `g0…` (aggregates) and `a0…` (the latest event)."""

    feature: str
    node: Node
    sql: str
    source_sql: str


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A stream view, compiled.

    `row_sql` is a DuckDB query over a relation `events` with the source's columns; it gives the join keys, then
    `event_timestamp`, `created_timestamp`, `event_id` (of type `event_id`), `counts` and the arguments. An event that
    the model filters out has a row too, with `counts` false: a later version of an event that counted must take it out.
    One that it drops before it chooses among versions has no key in its row either, and is none for the view.

    `versioned` says that the model itself keeps the latest version of each event, `known_by_build` that it reads what
    was known by a constant instant, that of the build.
    """

    source: str
    row_sql: str
    event_id: DType = DType("int64")
    versioned: bool = False
    known_by_build: bool = False
    arguments: tuple[Argument, ...]
    frames: tuple[Frame, ...]
    aggregates: tuple[Aggregate, ...]
    outputs: tuple[Output, ...]

    @property
    def longest_us(self) -> int | None:
        """How long an event can matter to a bounded frame; None without one."""
        return max((frame.preceding_us for frame in self.frames if frame.preceding_us is not None), default=None)


class Needs(msgspec.Struct, frozen=True):
    """What some features of a plan are computed from: positions of aggregates, of arguments' latest values, of all
    arguments."""

    aggregates: tuple[int, ...]
    latest: tuple[int, ...]
    arguments: tuple[int, ...]


def needs(plan: StreamPlan, features: Sequence[str]) -> Needs:
    aggregates, latest = steps_of(*(output.node for output in plan.outputs if output.feature in features))
    arguments = set(latest)
    for number in aggregates:
        aggregate = plan.aggregates[number]
        arguments |= {*aggregate.arguments, *([] if aggregate.filter is None else [aggregate.filter])}
    return Needs(tuple(sorted(aggregates)), tuple(sorted(latest)), tuple(sorted(arguments)))


def steps_of(*nodes: Node) -> tuple[set[int], set[int]]:
    """The positions of the aggregates, and of the arguments' latest values, that expressions need."""
    found, waiting = {"aggregate": set[int](), "latest": set[int]()}, [*nodes]
    for node in waiting:
        waiting += node.args
        if node.op in found:
            found[node.op].add(node.value)
    return found["aggregate"], found["latest"]
