"""How requests for the same features are answered: from which rows, and how many entities at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice, pairwise, starmap
from typing import Any

import msgspec

from ..definitions.deprecation import deprecated_views
from ..definitions.facts import Feature, FeatureRef, JoinKey
from ..definitions.registry import column_names
from ..dtypes import DType
from ..errors import NotSynced, RequestError, cut, nearest_name, shown
from ..extras import needed
from ..layout.keys import BASE, row_keys, text_encoder
from ..layout.parts import is_pii_code
from ..layout.row import from_stored
from ..online.registry import OnlineRegistry, OnlineView
from ..protocol import GetOnlineFeatures
from .counts import Counts
from .rows import ViewReader

MAX_VALUES = 1_000_000  # entities × features of one request
# How much is read together: what each feature of an entity costs, and each of its rows beside; and entities at most.
TOGETHER, A_VALUE, A_TEXT, A_CONVERTED, A_ROW = 16_000, 1, 2, 10, 10
MOST_TOGETHER, FEW_TOGETHER = 2_000, 100  # the latter of stream views
# How many bytes of rows are written together, where rows are as long as their texts and lists, or their histories.
LONG_ROWS, LONG_HISTORIES = 64 << 10, 512 << 10
A_STEP = 100  # views and features that are planned together
FEW_VIEWS = 16  # that are written together
MANY_NAMES = 20  # of those sent, an error tells no more


class Column(msgspec.Struct, frozen=True):
    """One column of an answer: a feature's name and type, which of the plan's views holds it and as its how-manieth."""

    name: str
    feature: Feature
    view: int
    position: int


class InParts(Exception):
    """Many entities are asked for: a server reads `together` at a time."""

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan


class Plan:
    """How to answer every request for the same features while the online registry stays as it is.

    It is made by `steps`, of which none takes long.
    """

    def steps(self, online: OnlineRegistry, request: GetOnlineFeatures, counts: Counts) -> Iterator[None]:
        if len(request.features or ()) > A_STEP:
            yield
        refs, planned = _resolve(online, request), A_STEP  # a step of its own, unless what is asked for is little
        by_view: dict[str, list[FeatureRef]] = {}
        for ref in refs:
            by_view.setdefault(ref.view, []).append(ref)
        self.views: list[ViewReader] = []
        self.writer: Any = None  # the server keeps its JSON writer of this plan here
        self.online, self.refs, self.allowed = (
            online,
            refs,
            set[str](),
        )  # the last: ids of keys of access that may read them all
        self.pii: str | None = None  # the first feature of a row that tells of a person, if any is read
        self._row_names: list[tuple[tuple[str, ...], bytes]] = []  # by view: its join keys, and its row keys' code
        keys: dict[str, JoinKey] = {}
        places: dict[tuple[str, str], tuple[Feature, int, int]] = {}
        definitions = {view.id: view for view in online.registry.feature_views}
        self.service, self.view_ids = request.feature_service, tuple(by_view)
        self.deprecated = deprecated_views(definitions[view_id] for view_id in by_view)
        for view_id, wanted in by_view.items():
            planned += 1 + len(wanted)
            if planned > A_STEP and len(refs) > A_STEP:
                planned = 0
                yield
            stored = online.view(view_id)
            known = {feature.name: feature for feature in stored.definition.features}
            features = [_stored_feature(known, ref) for ref in wanted]
            _add_keys(keys, stored)
            for part, held in _parts(stored, features):
                places |= {(view_id, feature.name): (feature, len(self.views), i) for i, feature in enumerate(held)}
                self._row_names.append((part.definition.key_names, part.code.encode()))
                self.views.append(_reader_of(part)(part, definitions[view_id].ttl_us, held, counts.view(view_id)))
                self.views[-1].doubtful = online.is_doubtful(view_id)
                if self.pii is None and is_pii_code(part.code):
                    self.pii = f"{view_id}:{held[0].name}"
        if len(refs) > A_STEP:
            yield
        based = [i for i, view in enumerate(self.views) if view.bases]
        self.bases = {view: len(self.views) + n for n, view in enumerate(based)}  # where the bases of views are
        self._row_names += [(self._row_names[i][0], self._row_names[i][1] + BASE) for i in based]
        streams, rows = any(view.stream for view in self.views), len(self._row_names)
        cost = A_ROW * rows + sum(_cost(feature.dtype) for view in self.views for feature in view.features)
        self.together = max(1, min(FEW_TOGETHER // rows if streams else MOST_TOGETHER, TOGETHER // cost))
        self._most_bytes: int | None = LONG_HISTORIES if streams else LONG_ROWS
        if not streams and not any(view.layout.variable for view in self.views):
            self._most_bytes = None
        self.short = self._most_bytes is None and len(self.views) <= FEW_VIEWS  # whether any answer is written at once
        self.join_keys = tuple(keys.values())
        self._encoders = {key.name: text_encoder(key) for key in self.join_keys}
        self._known_keys = {key.name for view in online.registry.feature_views for key in view.join_keys}
        self.columns = tuple(
            Column(name, *places[ref.view, ref.feature])
            for name, ref in zip(column_names(refs, request.full_feature_names, keys), refs, strict=True)
        )

    def check(self, entities: Mapping[str, Sized]) -> int:
        """The number of entities; RequestError where their columns are not those of the plan, or are too long."""
        if entities.keys() != self._encoders.keys():
            self._check_names(entities)
        (count, *others) = {len(entities[name]) for name in self._encoders}
        if others:
            raise RequestError(
                "the lists of entities have different lengths",
                where="entities",
                expected="one value of every join key for each entity",
                got=", ".join(f"{name}: {len(entities[name])}" for name in self._encoders),
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
        return count

    def row_keys(self, entities: Mapping[str, Sequence[Any]], first: bytes) -> list[bytes]:
        """The keys to fetch: the `first`, then view by view a row for each entity.

        Behind them come the bases of lifetime windows, of the views that have any.
        """
        encoded = {name: encode(entities[name]) for name, encode in self._encoders.items()}
        keys = [first]
        for key_names, code in self._row_names:
            keys += row_keys(code, [encoded[name] for name in key_names])
        return keys

    def entity_texts(self, entities: Mapping[str, Sequence[Any]]) -> Iterator[str]:
        """Each entity as people write it, `customer_id=42|merchant_id=7`: names sorted, values as in row keys."""
        names = sorted(self._encoders)
        for parts in zip(*(self._encoders[name](entities[name]) for name in names), strict=True):
            pairs = zip(names, parts, strict=True)
            yield "|".join(f"{name}={'' if part is None else part}" for name, part in pairs)

    def parts(self, rows: Sequence[Sequence[bytes | None]]) -> list[slice]:
        """Which entities are written together, given their rows by view."""
        count = len(rows[0])
        if self._most_bytes is None or sum(sum(map(len, filter(None, each))) for each in rows) <= self._most_bytes:
            return [slice(0, count)]
        starts, size = [0], 0
        for i, each in enumerate(zip(*rows, strict=True)):
            own = sum(map(len, filter(None, each)))
            size += own
            if size > self._most_bytes and i > starts[-1]:
                starts.append(i)
                size = own
        return list(starmap(slice, pairwise([*starts, count])))

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


def _cost(dtype: DType) -> int:
    if dtype.kind == "string":
        return A_TEXT
    return A_VALUE if dtype.is_timestamp or from_stored(dtype) is None else A_CONVERTED


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


def _stored_feature(stored: Mapping[str, Feature], ref: FeatureRef) -> Feature:
    if ref.feature not in stored:
        raise NotSynced(
            f"feature {ref.feature!r} of {ref.view!r} has no values online yet",
            where=ref.text,
            remedy=f"run `features publish {ref.view}` and `features sync {ref.view}`",
        )
    return stored[ref.feature]


def _add_keys(keys: dict[str, JoinKey], stored: OnlineView) -> None:
    for key in stored.definition.join_keys:
        if keys.setdefault(key.name, key).dtype != key.dtype:
            raise RequestError(
                f"join key {key.name!r} has two types in the views asked for",
                where=stored.definition.id,
                expected=str(keys[key.name].dtype),
                got=str(key.dtype),
                remedy="give the key one type in all entities, or ask for the views one by one",
            )


def _parts(stored: OnlineView, wanted: Sequence[Feature]) -> Iterator[tuple[OnlineView, Sequence[Feature]]]:
    """The parts of a view's rows that hold some of the features wanted, and which."""
    parts = stored.parts
    if len(parts) == 1:
        yield parts[0], wanted
        return
    for part in parts:
        names = set(part.definition.feature_names)
        if held := [feature for feature in wanted if feature.name in names]:
            yield part, held


def _reader_of(stored: OnlineView) -> type[ViewReader]:
    if stored.definition.stream is None:
        return ViewReader
    with needed(f"features of stream view {stored.definition.name!r}"):
        from .stream import StreamViewReader  # NumPy is loaded only where a stream view is read

    return StreamViewReader
