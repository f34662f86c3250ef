"""What a project defines, as frozen facts: entities, feature views, feature services.

They are built from dbt's manifest (`manifest`), looked up in a `registry.Registry`, and written as JSON.
"""

import re
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..dtypes import DType
from .stream import StreamPlan

MICROSECONDS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
LONGEST_DAYS = 1_000_000  # of a duration: an instant and that together are one that Redis and Arrow can hold
_DURATION = re.compile(r"([1-9][0-9]*)([smhdw])")


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as `15m`, `6h` or `30d`; ValueError for anything else, and for a longer one."""
    found = _DURATION.fullmatch(text)
    if not found or len(text) > 20 or int(found[1]) * MICROSECONDS[found[2]] > LONGEST_DAYS * MICROSECONDS["d"]:
        raise ValueError(f"{text!r} is not a duration such as 30s, 15m, 6h, 30d or 2w, of at most {LONGEST_DAYS}d")
    return int(found[1]) * MICROSECONDS[found[2]]


def duration_us(value: Any) -> int | None:
    """The same of any value; None where it is no duration."""
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None


def format_duration(microseconds: int) -> str:
    """The shortest text that `parse_duration` reads back, e.g. `30d`."""
    for unit in ("w", "d", "h", "m"):
        if microseconds % MICROSECONDS[unit] == 0 and (unit != "w" or microseconds % (4 * MICROSECONDS["w"]) == 0):
            return f"{microseconds // MICROSECONDS[unit]}{unit}"
    return f"{microseconds // MICROSECONDS['s']}s"


class Freshness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How old what is known of a view may get, in microseconds; one of the two is given, `warn_us` the shorter."""

    warn_us: int | None = None
    error_us: int | None = None

    def __str__(self) -> str:
        limits = (("warn", self.warn_us), ("error", self.error_us))
        return ", ".join(f"{name} after {format_duration(us)}" for name, us in limits if us is not None)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for a definition: a dbt group's or exposure's owner."""

    name: str
    email: str | None = None
    group: str | None = None


NO_JOIN_KEYS = ("self", "features", "full_feature_names")  # other arguments of a client's `get`, which has a key's name


class JoinKey(msgspec.Struct, frozen=True):
    """A column that identifies an entity."""

    name: str
    dtype: DType


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """A thing features are about, e.g. customer, with the columns that identify one."""

    name: str
    join_keys: tuple[JoinKey, ...]
    description: str = ""
    path: str = ""


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a feature view. `pii` is set, and true, where its values tell of a person."""

    name: str
    dtype: DType
    description: str = ""
    tags: tuple[str, ...] = ()
    pii: bool | UnsetType = UNSET


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """A dbt model whose rows are a history of feature values.

    `name` is the model's name and `version` dbt's version (None when the model has none); `latest` says whether plain
    `name` means this version. `join_keys` are those of all its entities, in the order declared. `ttl_us` is the ttl in
    microseconds. `relation` is the warehouse relation, quoted (`"db"."schema"."name"`), `identifier` its last part.
    `stream` is the compiled model of a view over live events, None for a batch view.
    `fingerprint` changes when the meaning of a stored row changes: the join keys, the timestamp columns or the
    features' names and types. `meaning` is that of its model (`models.Model`); unset where dbt's SQL was not compiled.
    `deprecation_date`, in ISO 8601, is from when on the view should be read no more. `freshness` is what is promised.
    `known_after_us` is how long after its event time a row of a view without created timestamps is known, by what its
    sources declare. `access` is dbt's, where it is not the default: `private` or `public`.
    """

    name: str
    version: str | None = None
    latest: bool = True
    entities: tuple[str, ...]
    join_keys: tuple[JoinKey, ...]
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    ttl_us: int | None = None
    refresh: str | None = None
    online: bool = True
    stream: StreamPlan | None = None
    features: tuple[Feature, ...]
    description: str = ""
    owner: Owner | None = None
    tags: tuple[str, ...] = ()
    relation: str = ""
    identifier: str = ""
    unique_id: str = ""
    path: str = ""
    fingerprint: str = ""
    meaning: str | UnsetType = UNSET
    deprecation_date: str | UnsetType = UNSET
    freshness: Freshness | UnsetType = UNSET
    known_after_us: int | UnsetType = UNSET
    access: str | UnsetType = UNSET

    @property
    def id(self) -> str:
        """`name`, or `name@v2` for a versioned model: unique in a registry, and how stores name the view."""
        return self.name if self.version is None else f"{self.name}@v{self.version}"

    @property
    def ttl(self) -> str | None:
        return None if self.ttl_us is None else format_duration(self.ttl_us)

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.join_keys)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def pii_names(self) -> tuple[str, ...]:
        """The names of the features that tell of a person."""
        return tuple(feature.name for feature in self.features if feature.pii)


class FeatureRef(msgspec.Struct, frozen=True):
    """A feature of one view, by the view's `id` and the feature's name; `text` is how the user wrote it."""

    view: str
    feature: str
    text: str

    def __str__(self) -> str:
        return self.text


class FeatureService(msgspec.Struct, frozen=True, kw_only=True):
    """The features that one ML model reads, in the order it reads them.

    `consistent` is `run` where the batch views of one cadence among these are published all of a run, or none.
    """

    name: str
    features: tuple[FeatureRef, ...]
    description: str = ""
    owner: Owner | None = None
    tags: tuple[str, ...] = ()
    path: str = ""
    consistent: str | UnsetType = UNSET


def fingerprint(view: FeatureView) -> str:
    """16 hex digits that change when a stored row of the view changes its meaning.

    They cover the id, the join keys, the timestamp columns, the features' names, types and order, and what the model's
    SQL means. A row of a stream view is an event, so for it they cover the arguments in place of the features and of
    the SQL: what is computed from the same arguments needs no new rows.
    """
    meaning: tuple[Any, ...] = (
        view.id,
        [(key.name, str(key.dtype)) for key in view.join_keys],
        (view.event_timestamp, view.created_timestamp),
        [(feature.name, str(feature.dtype)) for feature in view.features],
    )
    if view.meaning:
        meaning = (*meaning, view.meaning)
    if (plan := view.stream) is not None:
        arguments = [(argument.name, str(argument.dtype)) for argument in plan.arguments]
        meaning = (*meaning[:2], plan.source, str(plan.event_id), arguments, plan.row_sql)
    return blake2b(msgspec.json.encode(meaning), digest_size=8).hexdigest()


EVENT_ID, COUNTS = "event_id", "counts"


def event_view(view: FeatureView) -> FeatureView:
    """The view whose rows are the versions of a stream view's events: its offline table's columns.

    It has the stream view's id, fingerprint and plan; its features are the event id, whether the model's filters let
    the event count, and the plan's arguments. A view without a stream is itself.
    """
    if (plan := view.stream) is None:
        return view
    return msgspec.structs.replace(
        view,
        event_timestamp="event_timestamp",
        created_timestamp="created_timestamp",
        features=(
            Feature(name=EVENT_ID, dtype=plan.event_id),
            Feature(name=COUNTS, dtype=DType("bool")),
            *(Feature(name=argument.name, dtype=argument.dtype, pii=argument.pii) for argument in plan.arguments),
        ),
    )


def holds_pii(view: FeatureView) -> bool:
    """Whether something of a view is pii: a feature, or what is kept of the events of a stream view."""
    return bool(view.pii_names or event_view(view).pii_names)


def always_known(view: FeatureView) -> tuple[str, ...]:
    """The columns of a view's offline table, besides the event timestamp, that no row may lack."""
    return view.key_names if view.stream is None else (*view.key_names, "created_timestamp", EVENT_ID)
