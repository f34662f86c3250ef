"""The event records of a stream view → columns of the features asked for, as their SQL gives them at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..definitions.aggregates import OF_ITS_ARGUMENT, is_lifetime
from ..definitions.facts import Feature
from ..definitions.stream import Node, collect_steps
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType, integer_bounds
from ..errors import OnlineStoreError
from ..layout.decode import Dictionary, EventDecoder
from ..layout.events import arguments_of, plan_of
from ..layout.row import encode_list
from ..online.registry import OnlineView
from ..windows.expression import Column
from ..windows.expression import evaluate as expression
from ..windows.now import WindowsNow
from ..windows.versions import in_force
from ..windows.window import NO_EVENT, Evaluated
from .counts import ValueCounts
from .lifetime import Lifetime
from .rows import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT, ViewColumns, ViewReader


class StreamColumns(ViewColumns):
    """As ViewColumns; `plain_absent` maps the entities without a valid latest event to why, for each plain feature.

    A window has a value also where there is no event; a plain column has the latest event's.
    """

    __slots__ = ("_plain", "_plain_absent")

    def __init__(
        self,
        event_us: Sequence[int],
        columns: Sequence[Sequence[Any]],
        nulls: Sequence[Sequence[int] | None],
        absent: dict[int, str],
        plain: Sequence[bool],
        plain_absent: dict[int, str],
    ) -> None:
        super().__init__(event_us, columns, nulls, absent)
        self._plain, self._plain_absent = plain, plain_absent

    def statuses(self, feature: int) -> list[str] | None:
        flags = self.nulls[feature]
        if flags is None:
            return None
        statuses = [NULL_VALUE if flag else PRESENT for flag in flags]
        for i, status in (self._plain_absent if self._plain[feature] else self.absent or {}).items():
            statuses[i] = status
        return statuses


class StreamViewReader(ViewReader):
    """Evaluates the features asked for over the events of each entity."""

    stream = True

    def __init__(
        self, online: OnlineView, ttl_us: int | None, features: Sequence[Feature], counts: ValueCounts
    ) -> None:
        self.view_id, self.ttl_us = online.definition.id, ttl_us
        self.features, self.online, self.counts = tuple(features), online, counts
        plan = plan_of(online.definition)
        outputs = {output.feature: output for output in plan.outputs}
        self._nodes = [outputs[feature.name].node for feature in features]
        needed, self._latest = set[int](), set[int]()
        self._plain: list[bool] = []
        for node in self._nodes:
            aggregates, latest = set[int](), set[int]()
            collect_steps(node, aggregates, latest)
            self._plain.append(bool(latest) and not aggregates)
            needed |= aggregates
            self._latest |= latest
        lifetime = [i for i in sorted(needed) if is_lifetime(plan, plan.aggregates[i])]
        bounded = [i for i in sorted(needed) if i not in lifetime]
        self._place = {number: place for place, number in enumerate([*bounded, *lifetime])}
        self._aggregates = [plan.aggregates[i] for i in self._place]
        self._plan = msgspec.structs.replace(plan, aggregates=tuple(plan.aggregates[i] for i in bounded))
        arguments = self._latest | {i for aggregate in self._aggregates for i in arguments_of(aggregate)}
        self._decoder = EventDecoder(online.definition, arguments)
        self._dictionary = [
            aggregate.arguments[0] if aggregate.function in OF_ITS_ARGUMENT else None
            for aggregate in self._plan.aggregates
        ]  # what the values of each aggregate may be places in: lifetimes have theirs behind the arguments'
        self._dictionary += [len(plan.arguments) + i for i in range(len(lifetime))]
        self._lifetime = Lifetime(online.definition, [plan.aggregates[i] for i in lifetime]) if lifetime else None
        self.bases = bool(lifetime)
        self._windows = WindowsNow(self._plan, self._latest)
        self._numbers = [self._as_it_is(node, feature) for node, feature in zip(self._nodes, features, strict=True)]

    def _as_it_is(self, node: Node, feature: Feature) -> tuple[int, np.dtype[Any] | None]:
        """The place of the aggregate that is the feature, and the NumPy type with which its numbers are the values."""
        kind = feature.dtype.kind
        if node.op != "aggregate" or not (kind in FLOAT_WIDTHS or kind in INTEGER_WIDTHS):
            return -1, None
        place = self._place[node.value]
        return place, np.dtype(kind) if self._aggregates[place].dtype == feature.dtype else None

    def read(
        self,
        rows: Sequence[bytes | None],
        now_us: int,
        unknown: set[int] | None = None,
        bases: Sequence[bytes | None] = (),
    ) -> StreamColumns:
        events, dictionaries = self._decoder.decode(rows)
        if self._lifetime is not None:
            events = in_force(events)
        found = self._windows.evaluate(events, now_us)
        if self._lifetime is not None:
            for aggregate, dictionary in self._lifetime.evaluate(events, dictionaries, bases, now_us):
                found.aggregates.append(aggregate)
                dictionaries.append(dictionary)
        latest_us = found.latest_us
        never = latest_us == NO_EVENT
        absent = dict.fromkeys(unknown or (), NOT_FOUND)
        plain_absent = self._without_latest(latest_us, never, now_us) | absent if self._latest else absent
        if plain_absent:
            for number in self._latest:
                values = found.latest[number]
                assert values is not None
                values.null = values.null.copy()
                values.null[list(plain_absent)] = True
        columns: list[list[Any]] = []
        nulls: list[list[bool] | None] = []
        for i, plain in enumerate(self._plain):
            missing = plain_absent if plain else absent
            place, number_type = self._numbers[i]
            if number_type is not None and not missing:
                values = found.aggregates[place]
                if values.values.dtype is number_type and not np.count_nonzero(values.null):
                    columns.append(values.values.tolist())
                    nulls.append(None)
                    continue
            column, dictionary = self._value(self._nodes[i], self.features[i].dtype, found, dictionaries)
            if missing:
                column.null = column.null.copy()
                column.null[list(missing)] = True
            columns.append(self._stored(self.features[i], column, dictionary))
            nulls.append(column.null.tolist() if np.count_nonzero(column.null) else None)
        event_us = (np.where(never, 0, latest_us) if np.count_nonzero(never) else latest_us).tolist()
        read = StreamColumns(event_us, columns, nulls, absent, self._plain, plain_absent)
        self._count_values(len(rows), nulls, absent, plain_absent)
        return read

    def _without_latest(
        self, latest_us: npt.NDArray[np.int64], never: npt.NDArray[np.bool_], now_us: int
    ) -> dict[int, str]:
        """The entities without a latest event that plain columns may tell of, and why."""
        found = dict.fromkeys(np.flatnonzero(never).tolist(), NOT_FOUND)
        if self.ttl_us is not None:
            expired = ~never & (latest_us < now_us - self.ttl_us)
            found |= dict.fromkeys(np.flatnonzero(expired).tolist(), OUTSIDE_MAX_AGE)
        return found

    def _value(
        self, node: Node, dtype: DType, found: Evaluated, dictionaries: Sequence[Dictionary]
    ) -> tuple[Column, Dictionary]:
        """A feature's values, and what they are places in."""
        if node.op in ("latest", "aggregate"):
            column, dictionary = self._input(node.op, node.value, found, dictionaries)
            if column.dtype == dtype:
                return column, dictionary
        needed, latest = set[int](), set[int]()
        collect_steps(node, needed, latest)
        count = len(found.latest_us)
        inputs: dict[str, list[Column | None]] = {"aggregate": [], "latest": []}
        for op, numbers in (("aggregate", needed), ("latest", latest)):
            inputs[op] = [None] * (max(numbers, default=-1) + 1)
            for number in numbers:
                column, dictionary = self._input(op, number, found, dictionaries)
                inputs[op][number] = column if dictionary is None else _spelled(column, dictionary)
        column = expression(node, inputs["aggregate"], inputs["latest"], dtype, count)
        if dtype.kind == "string":
            column.values = np.array([str(value).encode() for value in column.values], dtype=object)
        return column, None

    def _input(
        self, op: str, number: int, found: Evaluated, dictionaries: Sequence[Dictionary]
    ) -> tuple[Column, Dictionary]:
        if op == "latest":
            values, dtype, dictionary = found.latest[number], self._plan.arguments[number].dtype, dictionaries[number]
        else:
            place = self._place[number]
            values, dtype, dictionary = found.aggregates[place], self._aggregates[place].dtype, None
            if (own := self._dictionary[place]) is not None:
                dictionary = dictionaries[own]
        assert values is not None
        return Column(values.values, values.null, dtype), dictionary

    def _stored(self, feature: Feature, column: Column, dictionary: Dictionary) -> list[Any]:
        """Values as a packed row would hold them (see `layout.row.from_stored`); those under a null are arbitrary."""
        kind, null = feature.dtype.kind, column.null
        numbers: npt.NDArray[Any] = column.values
        if dictionary is not None:
            return [b"" if missing else dictionary[i] for i, missing in zip(numbers.tolist(), null, strict=True)]
        if kind == "list":
            item = str(feature.dtype.item)
            return [b"" if missing else encode_list(item, v) for v, missing in zip(numbers, null, strict=True)]
        if kind in ("string", "uuid"):
            return [b"" if missing else value for value, missing in zip(numbers, null, strict=True)]
        if np.count_nonzero(null):
            numbers = np.where(null, numbers.dtype.type(0) if numbers.dtype != object else 0, numbers)
        if kind == "decimal":
            if feature.dtype.fixed_width == 8:
                return numbers.tolist()
            return [int(number).to_bytes(16, "little", signed=True) for number in numbers.tolist()]
        if kind in FLOAT_WIDTHS:
            return numbers.astype(np.float32 if kind == "float32" else np.float64).tolist()
        if kind == "bool":
            return numbers.astype(np.bool_).tolist()
        found: list[Any] = numbers.tolist()
        if kind in INTEGER_WIDTHS and found:
            low, high = integer_bounds(kind)
            if min(found) < low or max(found) > high:
                raise OnlineStoreError(
                    "a window's value is out of range", where=f"{self.view_id}:{feature.name}",
                    expected=str(feature.dtype), got=str(max(found, key=abs)), remedy="give the column a wider type",
                )  # fmt: skip
        return found

    def _count_values(
        self, rows: int, nulls: Sequence[Sequence[int] | None], absent: dict[int, str], plain_absent: dict[int, str]
    ) -> None:
        counts = self.counts
        if nulls.count(None) == len(nulls):
            counts.present += rows * len(nulls)
            return
        for flags, plain in zip(nulls, self._plain, strict=True):
            missing = (plain_absent if plain else absent) if flags is not None else {}
            expired = sum(1 for status in missing.values() if status is OUTSIDE_MAX_AGE)
            empty = sum(flags) if flags is not None else 0
            counts.present += rows - empty
            counts.outside_max_age += expired
            counts.not_found += len(missing) - expired
            counts.null_value += empty - len(missing)


def _spelled(column: Column, dictionary: Sequence[bytes]) -> Column:
    """Strings out of their places."""
    texts = np.empty(len(column.values), dtype=object)
    texts[:] = [
        "" if null else dictionary[i].decode() if column.dtype.kind == "string" else dictionary[i]
        for i, null in zip(column.values.tolist(), column.null, strict=True)
    ]
    return Column(texts, column.null, column.dtype)
