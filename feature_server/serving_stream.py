"""The event records of a stream view → columns of the features asked for, as their SQL gives them at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .codec import encode_list
from .definitions import Feature
from .dtypes import FLOAT_WIDTHS, INTEGER_WIDTHS, DType
from .errors import OnlineStoreError
from .metrics import ValueCounts
from .online_registry import OnlineView
from .serving_rows import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT, ViewColumns, ViewReader
from .stream_decoding import Dictionary, EventDecoder
from .stream_plan import Node, Output
from .stream_records import latest_arguments, plan_of
from .stream_reduce import Values
from .stream_window import NO_EVENT, Evaluated, evaluate


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
        self._plan = plan_of(online.definition)
        outputs = {output.feature: output for output in self._plan.outputs}
        self._outputs = [outputs[feature.name] for feature in features]
        self._plain = [any(True for _ in latest_arguments(output.node)) for output in self._outputs]
        self._decoder = EventDecoder(online.definition)

    def read(self, rows: Sequence[bytes | None], now_us: int, unknown: set[int] | None = None) -> StreamColumns:
        events, dictionaries = self._decoder.decode(rows)
        groups = np.arange(len(rows))
        found = evaluate(self._plan, events, groups, np.full(len(rows), now_us), as_known=False)
        latest_us = found.latest_us
        never = latest_us == NO_EVENT
        absent = dict.fromkeys(unknown or (), NOT_FOUND)
        plain_absent = dict.fromkeys(np.flatnonzero(never).tolist(), NOT_FOUND) | absent
        if self.ttl_us is not None:
            expired = ~never & (latest_us < now_us - self.ttl_us)
            plain_absent |= dict.fromkeys(np.flatnonzero(expired).tolist(), OUTSIDE_MAX_AGE)
        columns, nulls = [], []
        for feature, output, plain in zip(self.features, self._outputs, self._plain, strict=True):
            values, dtype, dictionary = self._value(output, found, dictionaries)
            null = values.null.copy()
            null[list(plain_absent if plain else absent)] = True
            columns.append(self._stored(feature, Values(values.values, null), dtype, dictionary))
            nulls.append(null.tolist() if null.any() else None)
        event_us = np.where(never, 0, latest_us).tolist()
        read = StreamColumns(event_us, columns, nulls, absent, self._plain, plain_absent)
        self._count_values(len(rows), nulls, absent, plain_absent)
        return read

    def _value(
        self, output: Output, found: Evaluated, dictionaries: Sequence[Dictionary]
    ) -> tuple[Values, DType, Dictionary]:
        """A feature's values, their type, and what they are places in."""
        node = output.node
        if node.op == "latest":
            return found.latest[node.value], self._plan.arguments[node.value].dtype, dictionaries[node.value]
        if node.op == "aggregate":
            aggregate = self._plan.aggregates[node.value]
            dictionary = dictionaries[aggregate.arguments[0]] if _keeps_values(aggregate.function) else None
            return found.aggregates[node.value], aggregate.dtype, dictionary
        return self._expression(node, found)

    def _expression(self, node: Node, found: Evaluated) -> tuple[Values, DType, Dictionary]:
        raise OnlineStoreError(
            "an expression over windows that cannot be read yet", where=self.view_id, got=node.op,
            remedy="read its parts as features of their own",
        )  # fmt: skip

    def _stored(self, feature: Feature, values: Values, dtype: DType, dictionary: Dictionary) -> list[Any]:
        """Values as a packed row would hold them (see `codec.from_stored`); those under a null are arbitrary."""
        kind = feature.dtype.kind
        if dictionary is not None:
            return [b"" if null else dictionary[i] for i, null in zip(values.values.tolist(), values.null, strict=True)]
        numbers: npt.NDArray[Any] = values.values
        if kind == "list":
            item = str(feature.dtype.item)
            return [b"" if null else encode_list(item, v) for v, null in zip(numbers, values.null, strict=True)]
        numbers = np.where(values.null, numbers.dtype.type(0) if numbers.dtype != object else 0, numbers)
        if kind == "decimal":
            return _decimals(feature.dtype, dtype, numbers.tolist())
        if kind in FLOAT_WIDTHS:
            return numbers.astype(np.float32 if kind == "float32" else np.float64).tolist()
        if kind == "bool":
            return numbers.astype(np.bool_).tolist()
        found: list[Any] = numbers.tolist()
        if kind in INTEGER_WIDTHS and found:
            bits = INTEGER_WIDTHS[kind] * 8
            low, high = (0, 2**bits) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
            if min(found) < low or max(found) >= high:
                raise OnlineStoreError(
                    "a window's value is out of range", where=f"{self.view_id}:{feature.name}",
                    expected=str(feature.dtype), got=str(max(found, key=abs)), remedy="give the column a wider type",
                )  # fmt: skip
        return found

    def _count_values(
        self, rows: int, nulls: Sequence[Sequence[int] | None], absent: dict[int, str], plain_absent: dict[int, str]
    ) -> None:
        counts = self.counts
        for flags, plain in zip(nulls, self._plain, strict=True):
            missing = (plain_absent if plain else absent) if flags is not None else {}
            expired = sum(1 for status in missing.values() if status is OUTSIDE_MAX_AGE)
            empty = sum(flags) if flags is not None else 0
            counts.present += rows - empty
            counts.outside_max_age += expired
            counts.not_found += len(missing) - expired
            counts.null_value += empty - len(missing)


def _keeps_values(function: str) -> bool:
    return function in ("min", "max", "first", "last", "arg_min", "arg_max", "quantile_disc")


def _decimals(target: DType, given: DType, numbers: list[Any]) -> list[Any]:
    factor = 10 ** ((target.scale or 0) - (given.scale or 0))
    scaled = numbers if factor == 1 else [number * factor for number in numbers]
    if target.fixed_width == 8:
        return scaled
    return [int(number).to_bytes(16, "little", signed=True) for number in scaled]
