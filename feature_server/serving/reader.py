"""A request for online features → the rows to fetch → values, statuses and event timestamps.

No input or output happens here: `FeatureReader.read` is a generator that yields what it needs from Redis and is sent
the replies. `serving.drive` drives it, sync for the client, async for the server and the async client. A server reads
many entities in parts, so that other requests have their turns.
"""

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..definitions.facts import FeatureView
from ..errors import AccessDenied, DamagedValue, FeatureStoreError, OnlineStoreRefused
from ..layout.keys import NAMES, Names
from ..layout.row import UNDECODABLE, damaged, from_stored
from ..online.registry import Evicted, OnlineRegistry, Patience, registry_of
from ..protocol import GetOnlineFeatures
from ..times import YEARS_US
from .counts import Counts
from .plan import Column, InParts, Plan
from .rows import ViewColumns, to_datetimes
from .statuses import PRESENT

MAX_PLANS = 1_000
# Keys are yielded and their values sent, or what `Apart.denied` gives thrown; none of them: others may have
# their turns. None instead: fetch `names.reload` and give them to `FeatureReader.load`.
Steps = Generator["list[bytes] | None", Any, "OnlineFeatures"]


class Apart(list[bytes]):
    """Keys that Redis may refuse: fetched by a command of their own, which nobody else's keys fail with.

    `feature` is the first of those in rows that tell of a person.
    """

    def __init__(self, keys: Sequence[bytes], feature: str) -> None:
        super().__init__(keys)
        self.feature = feature

    def denied(self, error: OnlineStoreRefused, user: str | None) -> FeatureStoreError:
        """What the refusal means to who asked."""
        if not (error.got or "").startswith("NOPERM"):
            return error
        return AccessDenied(
            f"{self.feature!r} lies in Redis among what tells of a person (pii), which this user may not read",
            where=self.feature, expected="a user of Redis with the rights that `features redis-acl reader-pii` prints",
            got=f"user {user or 'default'!r}",
            remedy="leave that feature out, or set FEATURES_REDIS_URL to such a user",
        )  # fmt: skip


class OnlineFeatures(msgspec.Struct):
    """The answer to one request: the rows of each view of the plan, and the entities as they were sent."""

    plan: Plan
    count: int
    entities: dict[str, list[Any]]
    rows: list[list[bytes | None]]
    now_us: int
    _columns: dict[int, ViewColumns] = {}

    def parts(self) -> "list[OnlineFeatures]":
        """The answers of which each is written in a short time."""
        slices = self.plan.parts(self.rows)
        return [self] if len(slices) == 1 else list(map(self._part, slices))

    def _part(self, part: slice) -> "OnlineFeatures":
        entities = {name: column[part] for name, column in self.entities.items()}
        rows = [each[part] for each in self.rows]
        return OnlineFeatures(self.plan, part.stop - part.start, entities, rows, self.now_us)

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

    def __init__(self, now_us: Callable[[], int], names: Names = NAMES) -> None:
        self.now_us, self.names = now_us, names
        self.counts = Counts()
        self.loaded: Loaded | None = None
        self.refused: FeatureStoreError | None = None  # why stream views are not read
        self.on_load: Callable[[OnlineRegistry], None] = lambda online: None
        self.connection = 0

    def load(self, replies: Sequence[bytes | None], evicted: Evicted | None = None) -> Loaded:
        """Take up the online registry from the values of `names.reload`; NotSynced when there is none, KeysEvicted
        where one of them is None and Redis, asked then, has evicted keys."""
        epoch, stored = replies
        loaded = self.loaded
        if loaded is not None and epoch == loaded.epoch:
            return loaded
        return self.take(epoch, registry_of(epoch, stored, evicted, self.names))

    def take(self, epoch: bytes | None, online: OnlineRegistry) -> Loaded:
        """Take up the online registry of an epoch."""
        self.loaded = loaded = Loaded(epoch, online)
        self.counts.reloads += 1
        self.on_load(online)
        return loaded

    def forget(self) -> None:
        """Load the online registry again before the next answer: after a reconnect it may be another store's."""
        self.loaded = None
        self.connection += 1

    def read(self, request: GetOnlineFeatures, *, now_us: int | None = None, most: int | None = None) -> Steps:
        """Yields keys to fetch, or None for a reload, until it returns the answer, as of `now_us` or else the clock.

        Given `most`, raises InParts for more entities, or for more than are read together.
        """
        patience = Patience()
        while True:
            patience.begin()
            loaded, connection = self.loaded, self.connection
            if loaded is None:
                yield None
                continue
            try:
                plan = yield from self._plan(loaded, request)
                count = plan.check(request.entities)
                if most is not None and count > min(most, plan.together):
                    raise InParts(plan)
                keys = plan.row_keys(request.entities, self.names.epoch)
                replies = yield (keys if plan.pii is None else Apart(keys, plan.pii))
            except FeatureStoreError:
                # The definitions may have changed since they were loaded: an error is true only of those in force.
                if (yield [self.names.epoch]) == [loaded.epoch] and connection == self.connection:
                    raise
            else:
                if replies[0] == loaded.epoch and connection == self.connection:
                    return self._answer(request, plan, count, replies, self.now_us() if now_us is None else now_us)
            if self.loaded is loaded:
                self.loaded = None

    def uses(self, plan: Plan, request: GetOnlineFeatures) -> bool:
        """Whether the request would be answered by this plan."""
        return self.loaded is not None and self.loaded.plans.get(_asked(request)) is plan

    def _plan(self, loaded: Loaded, request: GetOnlineFeatures) -> Generator[list[bytes], Any, Plan]:
        name = _asked(request)
        plan = loaded.plans.get(name)
        if plan is None:
            plan = Plan()
            for _ in plan.steps(loaded.online, request, self.counts):
                yield []
            if len(loaded.plans) >= MAX_PLANS:
                loaded.plans.clear()
            plan = loaded.plans.setdefault(name, plan)
        return plan

    def _answer(
        self, request: GetOnlineFeatures, plan: Plan, count: int, replies: list[bytes | None], now_us: int
    ) -> OnlineFeatures:
        if self.refused is not None and any(view.stream for view in plan.views):
            raise self.refused.with_traceback(None)
        self.counts.entities += count
        blocks = len(plan.views) + len(plan.bases)
        rows = [replies[start : start + count] for start in range(1, 1 + count * blocks, count or 1)]
        return OnlineFeatures(plan, count, request.entities, rows or [[] for _ in range(blocks)], now_us)


def _asked(request: GetOnlineFeatures) -> tuple[Any, ...]:
    """What is the same in all requests of one plan."""
    features = request.features
    return request.feature_service, tuple(features) if features else None, request.full_feature_names
