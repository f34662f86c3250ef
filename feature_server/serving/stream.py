"""The event records of a stream view → columns of the features asked for, as their SQL gives them at this moment."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..definitions.aggregates import is_lifetime, is_of_argument
from ..definitions.facts import Feature
from ..definitions.stream import Node, steps_of
from ..dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, integer_bounds
from ..errors import DamagedValue, KeysEvicted, OnlineStoreError
from ..layout.decode import Decoded, Dictionary, EventDecoder, objects
from ..layout.events import HAS_BASE, arguments_of, plan_of
from ..layout.row import encode_list
from ..times import NEVER
from ..windows.expression import Column
from ..windows.expression import evaluate as expression
from ..windows.now import WindowsNow
from ..windows.window import NO_EVENT, Evaluated, in_force
from .lifetime import Lifetime
from .rows import ViewColumns, ViewReader
from .statuses import NOT_FOUND, absent_at


class StreamViewReader(ViewReader):
    """Evaluates the features asked for over the events of each entity.

    A window has a value also where there is no event; a plain column has the latest event's.
    """

    stream = True

    def _prepare(self) -> None:
        definition, features = self.online.definition, self.features
        plan = plan_of(definition)
        outputs = {output.feature: output for output in plan.outputs}
        self._nodes = [outputs[feature.name].node for feature in features]
        self._steps = [steps_of(node) for node in self._nodes]  # the aggregates and plain columns that each takes
        self._plain = [bool(latest) and not aggregates for aggregates, latest in self._steps]
        self._latest = set[int]().union(*(latest for _, latest in self._steps))
        needed = sorted(set[int]().union(*(aggregates for aggregates, _ in self._steps)))
        lifetime = [i for i in needed if is_lifetime(plan, plan.aggregates[i])]
        bounded = [i for i in needed if i not in lifetime]
        self._place = {number: place for place, number in enumerate([*bounded, *lifetime])}
        self._aggregates = [plan.aggregates[i] for i in self._place]
        self._plan = msgspec.structs.replace(plan, aggregates=tuple(plan.aggregates[i] for i in bounded))
        arguments = self._latest | {i for aggregate in self._aggregates for i in arguments_of(aggregate)}
        self._decoder = EventDecoder(definition, arguments)
        self._dictionary = [
            aggregate.arguments[0] if is_of_argument(aggregate) else None for aggregate in self._plan.aggregates
        ]  # what the values of each aggregate may be places in: lifetimes have theirs behind the arguments'
        self._dictionary += [len(plan.arguments) + i for i in range(len(lifetime))]
        self._lifetime = Lifetime(definition, [plan.aggregates[i] for i in lifetime]) if lifetime else None
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
        unknown: Collection[int] = (),
        bases: Sequence[bytes | None] = (),
    ) -> ViewColumns:
        if self.doubtful:
            self._check_there(rows, unknown, bases)
        decoded = self._decoder.decode(rows)
        events, dictionaries = decoded.events, decoded.dictionaries
        if self._lifetime is not None:
            if self.online.format > 1:
                self._check_bases(decoded, bases)
            events = in_force(events)
        found = self._windows.evaluate(events, now_us)
        if self._lifetime is not None:
            for aggregate, dictionary in self._lifetime.evaluate(events, dictionaries, bases, now_us):
                found.aggregates.append(aggregate)
                dictionaries.append(dictionary)
        latest_us = found.latest_us
        never = latest_us == NO_EVENT
        absent = dict.fromkeys(unknown, NOT_FOUND)
        plain_absent = absent
        if self._latest and len(latest_us):
            plain_absent = absent_at(np.where(never, NEVER, latest_us), now_us, self.ttl_us) | absent
        if plain_absent:
            for number in self._latest:
                values = found.latest[number]
                assert values is not None
                values.null = values.null.copy()
                values.null[list(plain_absent)] = True
        columns: list[list[Any]] = []
        nulls: list[list[bool] | None] = []
        absent_of = [plain_absent if plain else absent for plain in self._plain]
        for i, missing in enumerate(absent_of):
            place, number_type = self._numbers[i]
            if number_type is not None and not missing:
                values = found.aggregates[place]
                if values.values.dtype is number_type and not np.count_nonzero(values.null):
                    columns.append(values.values.tolist())
                    nulls.append(None)
                    continue
            column, dictionary = self._value(i, found, dictionaries)
            if missing:
                column.null = column.null.copy()
                column.null[list(missing)] = True
            columns.append(self._stored(self.features[i], column, dictionary))
            nulls.append(column.null.tolist() if np.count_nonzero(column.null) else None)
        event_us = (np.where(never, 0, latest_us) if np.count_nonzero(never) else latest_us).tolist()
        for of_plain, missing in ((False, absent), (True, plain_absent)):
            flags = [flags for flags, plain in zip(nulls, self._plain, strict=True) if plain == of_plain]
            self.counts.add(len(rows), len(flags), sum(map(sum, filter(None, flags))), missing)
        return ViewColumns(event_us, columns, nulls, absent_of)

    def _check_there(
        self, rows: Sequence[bytes | None], unknown: Collection[int], bases: Sequence[bytes | None]
    ) -> None:
        """Refuse to answer for keys that may have been evicted: a window of one would read too low."""
        absent = {i for values in (rows, bases) for i, value in enumerate(values) if value is None}.difference(unknown)
        if absent:
            raise KeysEvicted(
                f"Redis has evicted keys, and {len(absent):,} of the {len(rows):,} entities asked for have none now",
                where=self.view_id, expected="all keys of the view's last full sync",
                remedy=f"give Redis room, set maxmemory-policy noeviction, run `features sync --full {self.view_id}`",
            )  # fmt: skip

    def _check_bases(self, decoded: Decoded, bases: Sequence[bytes | None]) -> None:
        """A key has a base where one of its records says so, and nowhere else; else Redis has lost one of the two."""
        says, there = (decoded.of_keys() & HAS_BASE > 0).tolist(), [base is not None for base in bases]
        if says == there:
            return
        place = next(i for i, pair in enumerate(zip(says, there, strict=True)) if pair[0] != pair[1])
        lost, left = ("events", "base") if there[place] else ("base", "events")
        raise DamagedValue(
            f"Redis has lost the {lost} of a key of {self.view_id!r}, of which it has the {left}", where=self.view_id,
            remedy=f"run `features sync {self.view_id} --full`; Redis must evict nothing (maxmemory-policy noeviction)",
        ).at(place)  # fmt: skip

    def _value(self, i: int, found: Evaluated, dictionaries: Sequence[Dictionary]) -> tuple[Column, Dictionary]:
        """A feature's values, and what they are places in."""
        node, dtype = self._nodes[i], self.features[i].dtype
        if node.op in ("latest", "aggregate"):
            column, dictionary = self._input(node.op, node.value, found, dictionaries)
            if column.dtype == dtype:
                return column, dictionary
        aggregates, latest = (
            {number: _spelled(*self._input(op, number, found, dictionaries)) for number in numbers}
            for op, numbers in zip(("aggregate", "latest"), self._steps[i], strict=True)
        )
        column = expression(node, aggregates, latest, dtype, len(found.latest_us))
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


def _spelled(column: Column, dictionary: Dictionary) -> Column:
    """Strings out of their places."""
    if dictionary is None:
        return column
    texts = [
        "" if null else dictionary[i].decode() if column.dtype.kind == "string" else dictionary[i]
        for i, null in zip(column.values.tolist(), column.null, strict=True)
    ]
    return Column(objects(texts), column.null, column.dtype)
