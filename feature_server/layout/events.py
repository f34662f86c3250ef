"""How the live events of a stream view lie in Redis: an event record is a packed row of a pseudo view.

`record_view` gives that view; `layout.row.RowDecoder` of its features gives the bytes, `docs/redis_layout.md` the value
of a key. The offline table of a stream view (`definitions.facts.event_view`) has the same columns, strings and event
ids as they are.
"""

import msgspec

from ..definitions.aggregates import Part, is_count, is_of_argument, plan_parts
from ..definitions.facts import Feature, FeatureView, holds_pii
from ..definitions.stream import Aggregate, StreamPlan, needs
from ..dtypes import FLOAT_WIDTHS, DType

CREATED, EVENT_ID, COUNTS, EVENT = "created_timestamp", "event_id", "counts", "event_timestamp"
FIRST_ARGUMENT = 3  # where the plan's arguments begin among the pseudo view's features
# The bits of a record's `counts`. In a view's format 1 only the first occurs.
COUNTED = 1  # the model's filters take the event
HAS_BASE = 2  # the key had a base when the record was written with it
LENGTH_BYTES = 4  # of the length before each record, where records differ in width
GRACE_US = 3_600_000_000  # how long events stay after the last window has passed them, and how far ahead one may be
_DIGEST = DType("uint64")


def plan_of(view: FeatureView) -> StreamPlan:
    assert view.stream is not None, f"{view.id} has no stream"
    return view.stream


def record_view(view: FeatureView) -> FeatureView:
    """The pseudo view whose packed rows are the records of a stream view's events."""
    plan = plan_of(view)
    digests = digested(plan)
    dtypes = {CREATED: DType("timestamptz"), EVENT_ID: DType("uint64"), COUNTS: DType("uint8")}
    dtypes |= {a.name: _DIGEST if i in digests else a.dtype for i, a in enumerate(plan.arguments)}
    features = tuple(Feature(name=name, dtype=dtype) for name, dtype in dtypes.items())
    return msgspec.structs.replace(
        view, event_timestamp=EVENT, created_timestamp=CREATED, features=features, stream=None, ttl_us=None
    )


def digested(plan: StreamPlan) -> frozenset[int]:
    """The string arguments that are only told apart, by count(distinct): a digest stands for each."""
    told_apart, needed = set[int](), {*plain_arguments(plan)}
    for aggregate in plan.aggregates:
        (told_apart if aggregate.function == "count_distinct" else needed).update(aggregate.arguments)
    return frozenset(i for i in told_apart - needed if plan.arguments[i].dtype.kind == "string")


def plain_arguments(plan: StreamPlan) -> tuple[int, ...]:
    """The arguments of the latest event that outputs read."""
    return needs(plan, [output.feature for output in plan.outputs]).latest


def arguments_of(aggregate: Aggregate) -> tuple[int, ...]:
    """The arguments that an aggregate reads, its filter among them."""
    return aggregate.arguments if aggregate.filter is None else (*aggregate.arguments, aggregate.filter)


def same_records(one: FeatureView, other: FeatureView) -> bool:
    """Whether the events of two definitions of a view lie in Redis alike, so that one reads what the other wrote.

    The bases of lifetime windows are alike when they have the same states in the same order: the arguments are the same
    where fingerprints are.
    """
    if one.stream is None or other.stream is None or one.fingerprint != other.fingerprint:
        return False
    if plan_parts(one.stream) != plan_parts(other.stream) or holds_pii(one) != holds_pii(other):
        return False
    mine, theirs = record_view(one), record_view(other)
    layouts = [[(feature.name, feature.dtype) for feature in view.features] for view in (mine, theirs)]
    return mine.join_keys == theirs.join_keys and layouts[0] == layouts[1]


def window_us(view: FeatureView) -> int | None:
    """How long after its time an event matters to a read, unless it is the latest; None for ever, as for a lifetime."""
    return None if any(frame.preceding_us is None for frame in plan_of(view).frames) else bounded_us(view)


def retention_us(view: FeatureView) -> int | None:
    """How long after its latest event a key matters; None for ever, as for a lifetime or a plain column without ttl."""
    return None if view.ttl_us is None and plain_arguments(plan_of(view)) else window_us(view)


LATENESS_US = 7 * 86_400_000_000  # how much later than its window a pushed event may come and be counted at once


def part_features(plan: StreamPlan) -> tuple[tuple[Part, tuple[Feature, ...]], ...]:
    """The features of a base that hold each state: one; of arg_min and arg_max the value and what it is chosen by."""
    found = []
    for n, part in enumerate(plan_parts(plan)):
        dtypes = [plan.arguments[i].dtype for i in part.arguments]
        if is_count(part):
            dtypes = [DType("int64")]
        elif not is_of_argument(part):
            dtypes = [_sum_type(dtypes[0])]
        names = [f"p{n}", f"p{n}_by"]
        found.append((part, tuple(Feature(name=name, dtype=of) for name, of in zip(names, dtypes, strict=False))))
    return tuple(found)


def base_view(view: FeatureView) -> FeatureView:
    """The pseudo view whose packed rows are the bases of a stream view with lifetime windows."""
    features = tuple(feature for _, found in part_features(plan_of(view)) for feature in found)
    return msgspec.structs.replace(
        view, event_timestamp="cut_", created_timestamp=None, features=features, stream=None, ttl_us=None
    )


def bounded_us(view: FeatureView) -> int:
    """How long after its time an event matters to a read but for lifetime windows, unless it is the latest."""
    plan = plan_of(view)
    return max(plan.longest_us or 0, view.ttl_us or 0, *(frame.delay_us for frame in plan.frames))


def cut_off_us(view: FeatureView, now_us: int) -> int:
    """The cut-off of bases that are written now."""
    return now_us - bounded_us(view) - LATENESS_US


def _sum_type(dtype: DType) -> DType:
    return DType("float64") if dtype.kind in FLOAT_WIDTHS else DType("decimal", precision=38, scale=dtype.scale or 0)
