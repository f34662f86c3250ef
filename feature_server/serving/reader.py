"""A request for online features → the rows to fetch → values, statuses and event timestamps.

No input or output happens here: `FeatureReader.read` is a generator that yields what it needs from Redis and is sent
the replies. `online.readers` drives it, sync for the client, async for the server and the async client.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from ..definitions.facts import Feature, FeatureRef, FeatureView, JoinKey
from ..definitions.registry import column_names
from ..errors import (
    DamagedValue,
    FeatureStoreError,
    NotSynced,
    OnlineStoreUnavailable,
    RequestError,
    cut,
    nearest_name,
    shown,
)
from ..layout.keys import BASE, EPOCH, REGISTRY, row_keys, text_encoder
from ..layout.row import UNDECODABLE, damaged, from_stored
from ..online.registry import OnlineRegistry, OnlineView, registry_of
from ..protocol import GetOnlineFeatures
from ..times import YEARS_US
from .counts import Counts
from .rows import ViewColumns, ViewReader, to_datetimes
from .statuses import PRESENT

MAX_VALUES = 1_000_000  # entities × features of one request
MAX_PLANS = 1_000
MANY_NAMES = 20  # of those sent, an error tells no more
ATTEMPTS = 8  # how often the online registry may change under one request
RELOAD_KEYS = [EPOCH, REGISTRY]
# Keys are yielded and their values sent; None instead: fetch RELOAD_KEYS and give them to `FeatureReader.load`.
Steps = Generator["list[bytes] | None", Any, "OnlineFeatures"]


class Column(msgspec.Struct, frozen=True):
    """One column of an answer: a feature's name and type, which of the plan's views holds it and as its how-manieth."""

    name: str
    feature: Feature
    view: int
    position: int


class Plan:
    """How to answer every request for the same features while the online registry stays as it is."""

    def __init__(self, online: OnlineRegistry, request: GetOnlineFeatures, counts: Counts) -> None:
        refs = _resolve(online, request)
        by_view: dict[str, list[FeatureRef]] = {}
        for ref in refs:
            by_view.setdefault(ref.view, []).append(ref)
        self.views: list[ViewReader] = []
        self.writer: Any = None  # the server keeps its JSON writer of this plan here
        self._row_names: list[tuple[tuple[str, ...], bytes]] = []  # by view: its join keys, and its row keys' code
        keys: dict[str, JoinKey] = {}
        places: dict[tuple[str, str], tuple[Feature, int, int]] = {}
        for view_id, wanted in by_view.items():
            stored = online.view(view_id)
            features = [_stored_feature(stored.definition.features, ref) for ref in wanted]
            places |= {(view_id, feature.name): (feature, len(self.views), i) for i, feature in enumerate(features)}
            for key in stored.definition.join_keys:
                if keys.setdefault(key.name, key).dtype != key.dtype:
                    raise RequestError(
                        f"join key {key.name!r} has two types in the views asked for",
                        where=view_id,
                        expected=str(keys[key.name].dtype),
                        got=str(key.dtype),
                        remedy="give the key one type in all entities, or ask for the views one by one",
                    )
            self._row_names.append((stored.definition.key_names, stored.code.encode()))
            ttl_us = online.registry.feature_view(view_id).ttl_us
            self.views.append(_reader_of(stored)(stored, ttl_us, features, counts.view(view_id)))
            self.views[-1].doubtful = online.is_doubtful(view_id)
        based = [i for i, view in enumerate(self.views) if view.bases]
        self.bases = {view: len(self.views) + n for n, view in enumerate(based)}  # where the bases of views are
        self._row_names += [(self._row_names[i][0], self._row_names[i][1] + BASE) for i in based]
        self.join_keys = tuple(keys.values())
        self._encoders = {key.name: text_encoder(key) for key in self.join_keys}
        self._known_keys = {key.name for view in online.registry.feature_views for key in view.join_keys}
        self.columns = tuple(
            Column(name, *places[ref.view, ref.feature])
            for name, ref in zip(column_names(refs, request.full_feature_names, keys), refs, strict=True)
        )

    def row_keys(self, entities: dict[str, list[Any]]) -> tuple[int, list[bytes]]:
        """The number of entities, and the keys to fetch: EPOCH, then view by view a row for each entity.

        Behind them come the bases of lifetime windows, of the views that have any.
        """
        if entities.keys() != self._encoders.keys():
            self._check_names(entities)
        encoded = {name: encode(entities[name]) for name, encode in self._encoders.items()}
        (count, *others) = set(map(len, encoded.values()))
        if others:
            raise RequestError(
                "the lists of entities have different lengths",
                where="entities",
                expected="one value of every join key for each entity",
                got=", ".join(f"{name}: {len(column)}" for name, column in encoded.items()),
                remedy="repeat a key that is the same for all entities",
            )
        if count * len(self.columns) > MAX_VALUES:
            raise RequestError(
                "the request asks for too many values at once",
                where="entities",
                expected=f"at most {MAX_VALUES:,} values: entities × features",
                got=f"{count:,} × {len(self.columns):,}",
                remedy="split the entities over several requests",
            )
        keys = [EPOCH]
        for key_names, code in self._row_names:
            keys += row_keys(code, [encoded[name] for name in key_names])
        return count, keys

    def _check_names(self, entities: Iterable[str]) -> None:
        """Missing and unknown join keys are errors; one that these features do not need is left alone, as in Feast."""
        expected = ", ".join(f"{key.name} ({key.dtype})" for key in self.join_keys)
        got = cut(", ".join(map(cut, islice(entities, MANY_NAMES)))) or "none"
        for name in entities:
            if name not in self._encoders and name not in self._known_keys:
                nearest = nearest_name(name, self._known_keys)
                raise RequestError(
                    f"{shown(name)} is not a join key",
                    where=f"entities.{cut(name)}",
                    expected=expected,
                    got=got,
                    remedy=f"did you mean {nearest!r}?" if nearest else f"leave {shown(name)} out",
                )
        missing = [name for name in self._encoders if name not in set(entities)]
        if missing:
            raise RequestError(
                f"join key {missing[0]!r} is missing",
                where="entities",
                expected=expected,
                got=got,
                remedy=f"send a list of {missing[0]}, one value for each entity",
            )


class OnlineFeatures(msgspec.Struct):
    """The answer to one request: the rows of each view of the plan, and the entities as they were sent."""

    plan: Plan
    count: int
    entities: dict[str, list[Any]]
    rows: list[list[bytes | None]]
    now_us: int
    _columns: dict[int, ViewColumns] = {}

    def view(self, view: int) -> ViewColumns:
        """What one of the plan's views holds for the entities."""
        columns = self._columns.get(view)
        if columns is None:
            reader = self.plan.views[view]
            unknown = self._null_keys(reader.online.definition) if reader.stream else ()
            bases = [self.rows[self.plan.bases[view]]] if reader.bases else []
            try:
                columns = self._columns[view] = reader.read(self.rows[view], self.now_us, unknown, *bases)
            except DamagedValue as error:
                raise error.of(self._key(view, error.place)) from None
        return columns

    def times(self, view: int) -> list[datetime]:
        """The event timestamps of one of the plan's views; 1970 where there is none."""
        event_us = self.view(view).event_us
        try:
            return to_datetimes(event_us)
        except OverflowError:
            place = next(i for i, us in enumerate(event_us) if not YEARS_US[0] <= us <= YEARS_US[1])
            found = damaged(self.plan.views[view].view_id, "a stored event timestamp", f"{event_us[place]} µs")
            raise found.of(self._key(view, place)) from None

    def _key(self, view: int, place: int) -> str:
        """An entity as a person reads it, by the join keys of a view."""
        names = self.plan.views[view].online.definition.key_names
        return ", ".join(f"{name}={self.entities[name][place]}" for name in names)

    def _null_keys(self, view: FeatureView) -> set[int]:
        """The entities with a null in a join key of a view: no event can be theirs."""
        columns = [self.entities[name] for name in view.key_names]
        return {i for column in columns if None in column for i, value in enumerate(column) if value is None}

    def column(self, column: Column) -> tuple[list[Any], list[str], Sequence[int]]:
        """Python values, statuses and event timestamps (microseconds, 0 for none) of one column of the plan."""
        view = self.view(column.view)
        stored: Sequence[Any] = view.columns[column.position]
        convert = from_stored(column.feature.dtype)
        statuses = view.statuses(column.position)
        try:
            if statuses is None:
                values = list(stored) if convert is None else [convert(value) for value in stored]
                return values, [PRESENT] * self.count, view.event_us
            pairs = zip(stored, statuses, strict=True)
            if convert is None:
                values = [value if status is PRESENT else None for value, status in pairs]
            else:
                values = [convert(value) if status is PRESENT else None for value, status in pairs]
        except UNDECODABLE:
            raise self._undecodable(column, stored, statuses) from None
        return values, statuses, view.event_us

    def _undecodable(self, column: Column, stored: Sequence[Any], statuses: Sequence[str] | None) -> DamagedValue:
        """The error for the first of a column's values that cannot be made of its bytes."""
        convert = from_stored(column.feature.dtype)
        for place, value in enumerate(stored):
            try:
                if convert is not None and (statuses is None or statuses[place] is PRESENT):
                    convert(value)
            except UNDECODABLE as error:
                view = self.plan.views[column.view].online.definition
                found = damaged(view.id, f"a stored {column.feature.name}", str(error))
                return found.of(self._key(column.view, place))
        raise AssertionError("every value can be made")


class Loaded(msgspec.Struct):
    """The online registry of one epoch, and the plans made with it."""

    epoch: bytes | None
    online: OnlineRegistry
    plans: dict[Any, Plan] = {}


class FeatureReader:
    """Answers requests from what Redis holds, whatever the definitions are at that moment.

    `now_us` is the clock. `loaded` is None until the first request. Threads may share a reader.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.now_us = now_us
        self.counts = Counts()
        self.loaded: Loaded | None = None
        self.refused: FeatureStoreError | None = None  # why stream views are not read
        self.on_load: Callable[[OnlineRegistry], None] = lambda online: None
        self._connection = 0

    def load(self, replies: Sequence[bytes | None]) -> Loaded:
        """Take up the online registry from the values of RELOAD_KEYS; NotSynced when there is none."""
        epoch, stored = replies
        loaded = self.loaded
        if loaded is not None and epoch == loaded.epoch:
            return loaded
        online = registry_of(epoch, stored)
        self.loaded = loaded = Loaded(epoch, online)
        self.counts.reloads += 1
        self.on_load(online)
        return loaded

    def forget(self) -> None:
        """Load the online registry again before the next answer: after a reconnect it may be another store's."""
        self.loaded = None
        self._connection += 1

    def read(self, request: GetOnlineFeatures) -> Steps:
        """Yields keys to fetch, or None for a reload, until it returns the answer."""
        for _ in range(ATTEMPTS):
            loaded, connection = self.loaded, self._connection
            if loaded is None:
                yield None
                continue
            try:
                plan = self._plan(loaded, request)
                count, keys = plan.row_keys(request.entities)
            except FeatureStoreError:
                # The definitions may have changed since they were loaded: an error is true only of those in force.
                if (yield [EPOCH]) == [loaded.epoch] and connection == self._connection:
                    raise
            else:
                replies = yield keys
                if replies[0] == loaded.epoch and connection == self._connection:
                    return self._answer(request, plan, count, replies)
            if self.loaded is loaded:
                self.loaded = None
        raise OnlineStoreUnavailable(
            "the online registry keeps changing", got="another version at each attempt", remedy="try again"
        )

    def _plan(self, loaded: Loaded, request: GetOnlineFeatures) -> Plan:
        features = request.features
        name = (request.feature_service, tuple(features) if features else None, request.full_feature_names)
        plan = loaded.plans.get(name)
        if plan is None:
            if len(loaded.plans) >= MAX_PLANS:
                loaded.plans.clear()
            plan = loaded.plans[name] = Plan(loaded.online, request, self.counts)
        return plan

    def _answer(
        self, request: GetOnlineFeatures, plan: Plan, count: int, replies: list[bytes | None]
    ) -> OnlineFeatures:
        if self.refused is not None and any(view.stream for view in plan.views):
            raise self.refused.with_traceback(None)
        self.counts.entities += count
        blocks = len(plan.views) + len(plan.bases)
        rows = [replies[start : start + count] for start in range(1, 1 + count * blocks, count or 1)]
        return OnlineFeatures(plan, count, request.entities, rows or [[] for _ in range(blocks)], self.now_us())


def _resolve(online: OnlineRegistry, request: GetOnlineFeatures) -> Sequence[FeatureRef]:
    if request.feature_service and request.features:
        raise RequestError(
            "both features and a feature service are asked for",
            where="feature_service",
            expected="`features` or `feature_service`",
            got=f"{len(request.features)} features and {shown(request.feature_service)}",
            remedy="leave one of them out",
        )
    if not request.feature_service and not request.features:
        raise RequestError(
            "no features are asked for",
            where="features",
            expected="`features`, a list of `view:feature`, or `feature_service`, a name",
            got="neither",
        )
    return online.registry.resolve(request.feature_service or request.features or ())


def _stored_feature(stored: Sequence[Feature], ref: FeatureRef) -> Feature:
    for feature in stored:
        if feature.name == ref.feature:
            return feature
    raise NotSynced(
        f"feature {ref.feature!r} of {ref.view!r} has no values online yet",
        where=ref.text,
        remedy=f"run `features publish {ref.view}` and `features sync {ref.view}`",
    )


def _reader_of(stored: OnlineView) -> type[ViewReader]:
    if stored.definition.stream is None:
        return ViewReader
    from .stream import StreamViewReader  # NumPy is loaded only where a stream view is read

    return StreamViewReader
