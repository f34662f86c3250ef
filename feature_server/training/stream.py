"""A stream view's features at any times: its aggregates by `windows.window`, its expressions by DuckDB.

The value at time t is what the model's SQL gives on an extra row (key, t) that itself contributes nothing. Plain
columns are the latest event's, null when there is none or it is older than the view's ttl.
"""

from collections.abc import Sequence
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import arrow_type
from ..definitions.aggregates import FUNCTIONS, is_of_argument
from ..definitions.facts import FeatureView
from ..definitions.stream import Aggregate, needs
from ..errors import RequestError
from ..index.events import StreamIndex
from ..index.values import decode
from ..offline.session import connect
from ..offline.sql import quote, sql_type
from ..windows.reduce import Values
from ..windows.window import NO_EVENT, evaluate


class StreamReader:
    """Features of one stream view, from its events."""

    def __init__(self, view: FeatureView, features: Sequence[str], events: StreamIndex) -> None:
        assert view.stream is not None
        self.view, self.features, self.events = view, features, events
        self.needs = needs(view.stream, features)
        self.aggregates = [view.stream.aggregates[number] for number in self.needs.aggregates]
        self.plan = msgspec.structs.replace(view.stream, aggregates=tuple(self.aggregates))
        each = {name: needs(view.stream, [name]) for name in features}
        self.only_latest = {name for name, of in each.items() if of.latest and not of.aggregates}
        self.outputs = {output.feature: output for output in view.stream.outputs}

    def at(
        self, keys: Sequence[pa.Array], at_us: np.ndarray, no_time: np.ndarray, *, as_known: bool
    ) -> tuple[list[Any], np.ndarray]:
        """Each feature's values at n (key, time) pairs, and whether the key had an event by then.

        A pair with a null in its key or without a time has nulls.
        """
        events, groups = self.events.of_groups(self.events.index.groups(keys))
        found = evaluate(self.plan, events, groups, at_us, as_known=as_known)
        known = (found.latest_us != NO_EVENT) & ~no_time
        in_ttl = known if self.view.ttl_us is None else known & (found.latest_us >= at_us - self.view.ttl_us)
        columns: dict[str, Any] = {}
        for aggregate, values in zip(self.aggregates, found.aggregates, strict=True):
            columns[aggregate.name] = self._decoded(aggregate, values)
        for number in self.needs.latest:
            argument, latest = self.plan.arguments[number], found.latest[number]
            assert latest is not None
            values = Values(latest.values, latest.null | ~in_ttl)
            columns[argument.name] = decode(values, argument.dtype, self.events.dictionaries[number])
        nothing = no_time.copy()
        for key in keys:
            if key.null_count:
                nothing |= pc.is_null(key).to_numpy(zero_copy_only=False)
        return self._evaluated(columns, nothing, in_ttl), known & ~nothing

    def _decoded(self, aggregate: Aggregate, values: Values) -> Any:
        dictionary = self.events.dictionaries.get(aggregate.arguments[0]) if is_of_argument(aggregate) else None
        try:
            return decode(values, aggregate.dtype, dictionary)
        except OverflowError as error:
            raise RequestError(
                "a window's sum is too large", where=f"{self.view.id}: {aggregate.function}", got=str(error),
                remedy="sum a decimal or a double instead",
            ) from None  # fmt: skip

    def _evaluated(self, columns: dict[str, Any], nothing: np.ndarray, in_ttl: np.ndarray) -> list[Any]:
        """The features out of aggregates and latest values."""
        dtypes = {feature.name: feature.dtype for feature in self.view.features}
        done: dict[str, Any] = {}
        asked: dict[str, str] = {}
        for name in self.features:
            output = self.outputs[name]
            if output.sql in columns and columns[output.sql].type == arrow_type(dtypes[name]):
                done[name] = columns[output.sql]
            else:
                sql = f"cast({output.sql} as {sql_type(dtypes[name])})"
                asked[name] = f"cast({sql} as varchar)" if dtypes[name].kind == "uuid" else sql
        if asked:
            done |= self._by_duckdb(asked, columns, len(nothing))
        for name in self.features:
            null = nothing | ~in_ttl if name in self.only_latest else nothing
            if null.any():
                done[name] = pc.if_else(pa.array(~null), done[name], pa.scalar(None, done[name].type))
        return [done[name].cast(arrow_type(dtypes[name])) for name in self.features]

    def _by_duckdb(self, asked: dict[str, str], columns: dict[str, Any], rows: int) -> dict[str, Any]:
        exact = {a.name: "uuid" for a in self.aggregates if a.dtype.kind == "uuid"}
        exact |= {a.name: "uuid" for a in self.plan.arguments if a.dtype.kind == "uuid"}
        sums = (a for a in self.aggregates if FUNCTIONS[a.function].gives == "sum")
        exact |= {a.name: "hugeint" for a in sums if a.dtype.kind == "int64"}
        inputs = [f"cast({name} as {exact[name]}) as {name}" if name in exact else name for name in columns]
        table = pa.table({"n": pa.array(np.arange(rows)), **columns})
        outputs = ", ".join(f"{sql} as {quote(name)}" for name, sql in asked.items())
        query = f"select {outputs} from (select {', '.join(['n', *inputs])} from found)"
        with connect() as connection:
            connection.register("found", table)
            try:
                result = connection.sql(query).to_arrow_table()
            except duckdb.Error as error:
                raise RequestError(
                    "an expression of the model fails", where=self.view.id, got=str(error).splitlines()[0],
                    remedy="guard it in the model, e.g. with nullif(…, 0) under a division",
                ) from None  # fmt: skip
        return {name: result.column(name).combine_chunks() for name in asked}
