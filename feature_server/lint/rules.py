"""What makes a feature view's SQL leak what was not known yet, or give other rows when it is run again."""

from collections.abc import Iterator

import msgspec
from sqlglot import exp

from ..compiler.model import unrepeatable
from ..queries.parts import defined
from ..queries.times import is_floor, is_time_of
from ..written.rendering import CLOCK, RUN

TIMES = (
    exp.CurrentTimestamp,
    exp.CurrentDate,
    exp.CurrentTime,
    exp.CurrentDatetime,
    exp.Localtime,
    exp.Localtimestamp,
)
_RANDOM_NAMES = {"random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "setseed", "nextval", "currval"}
_NEIGHBOURS = (exp.Lag, exp.Lead)
_NUMBERED = (exp.RowNumber, exp.Rank, exp.DenseRank)  # which rows are before: of no frame, and none behind counts
_OF_ALL = (exp.PercentRank, exp.CumeDist, exp.Ntile)  # by all rows of the partition, whatever the frame
_RANDOM = (exp.Rand, exp.Uuid, exp.TableSample)


class Rule(msgspec.Struct, frozen=True):
    """A rule by its name: why it matters, and how to write it instead. A check `warns` of what publish would refuse."""

    name: str
    why: str
    instead: str
    warns: bool = False


PRESENT = Rule(
    "present_time",
    "a row of the past would be reckoned from the day it is built on, and another build gives other values",
    "the row's own event time, or {{ as_of() }}, the instant that the build speaks of",
)
RANDOM = Rule(
    "random", "each build gives other values, so training and serving read different ones",
    "a value of the row, such as hash(…) of its keys, where rows are to be told apart or sampled",
)  # fmt: skip
AHEAD = Rule(
    "look_ahead", "the row's value is made from later rows, which nobody knew at its time",
    "a frame that ends at the current row, over (partition by … order by … rows between … and current row), or lag",
)  # fmt: skip
UNSTABLE = Rule(
    "unstable_order",
    "of rows alike in what they are ordered by chance says which is taken, so the next build gives other values",
    "an order that, with what rows are parted by, has the columns of a unique or grain test, or such a test of these",
)
CURRENT = Rule(
    "current_state",
    "a row of the past gets what is so today, which was not so, or not known, at its time",
    "what was known by then: a history with a time, joined where it is before the row's; or a feature view of its own",
)
UNKNOWN = Rule(
    "known_time",
    "a row would count from its event time on, though nobody knew it yet: training sees what serving cannot",
    "created_timestamp: a column made of when the source's rows landed, or of their event time + available_after",
)
UNTESTED = Rule(
    "no_grain_test", "publish refuses rows of one key and the same times: a test tells of them in the build",
    "data_tests: [{feature_warehouse.grain: {arguments: {columns: [its keys, event_timestamp, created_timestamp]}}}], "
    "of the package that `features init` writes; without it dbt_utils.unique_combination_of_columns of these columns",
    warns=True,
)  # fmt: skip
UNREADABLE = Rule(
    "unreadable", "what is not understood cannot be said to be right: none of the other rules was held against it",
    "DuckDB's SQL, by Jinja that needs no dbt (run `dbt deps` first); `features check` takes the SQL that dbt compiles",
)  # fmt: skip
RULES = (PRESENT, RANDOM, AHEAD, UNSTABLE, CURRENT, UNKNOWN, UNTESTED, UNREADABLE)
Found = tuple[Rule, exp.Expr]


def broken(tree: exp.Expr) -> Iterator[Found]:
    """The rules that a query breaks, each with the expression that does."""
    for node in tree.walk():
        for look in (_unrepeatable, _ahead):
            if (rule := look(node)) is not None:
                yield rule, node


def _unrepeatable(node: exp.Expr) -> Rule | None:
    if isinstance(node, _RANDOM):
        return RANDOM
    if isinstance(node, TIMES):
        return PRESENT
    if isinstance(node, exp.Literal) and node.is_string and (told := _of_run(node.name)) is not None:
        return told
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    if name and (told := _of_run(f"{name}()")) is not None:
        return told
    if name in _RANDOM_NAMES:
        return RANDOM
    if name == "age" and len(node.expressions) == 1:  # from today on
        return PRESENT
    return None if unrepeatable(node) is None else PRESENT


def _of_run(text: str) -> Rule | None:
    """The rule that a text breaks by what Jinja wrote into it: when the run began, or its own id."""
    return PRESENT if str(CLOCK) in text else RANDOM if str(RUN) in text else None


def _ahead(node: exp.Expr) -> Rule | None:
    """Of a window function whose rows may be later ones: in an order that descends these are the preceding ones."""
    if not isinstance(node, exp.Window) or node.arg_key == "windows":
        return None
    function, window = _function(node), defined(node)
    order, frame = window.args.get("order"), window.args.get("spec")
    backwards = order is not None and _descends(order.expressions[0])
    if isinstance(function, _NEIGHBOURS):
        other_way = isinstance(function.args.get("offset"), exp.Neg)
        return AHEAD if (isinstance(function, exp.Lead) != backwards) != other_way else None
    if isinstance(function, _NUMBERED):
        return None
    parts = window.args.get("partition_by") or ()
    if order is None and any(is_time_of(part, ()) and not is_floor(part) for part in parts):
        return None  # rows of one time
    if isinstance(function, _OF_ALL) or order is None:
        return AHEAD
    if frame is None:  # from the first row to the current one
        return AHEAD if backwards else None
    later = "preceding" if backwards else "following"
    sides = ((frame.args.get(f"{side}_side"), frame.args.get(side)) for side in ("start", "end"))
    return AHEAD if any(str(side).lower() == later and not _is_zero(length) for side, length in sides) else None


def is_numbered_backwards(node: exp.Expr) -> bool:
    """Whether a window function gives the place of a row counted from the last on."""
    if not isinstance(node, exp.Window) or node.arg_key == "windows" or not isinstance(_function(node), _NUMBERED):
        return False
    order = defined(node).args.get("order")
    return (
        order is not None and _descends(order.expressions[0]) and is_time_of(_turned(order.expressions[0].this)[0], ())
    )


def _descends(ordered: exp.Expr) -> bool:
    """Whether an order is from what is later to what is earlier."""
    return bool(ordered.args.get("desc")) != _turned(ordered.this)[1]


def _turned(by: exp.Expr) -> tuple[exp.Expr, bool]:
    """What is in an order, and whether it is turned round: negated, or taken from what is the same for all."""
    turned = False
    while True:
        if isinstance(by, exp.Paren | exp.Cast | exp.TimeToUnix | exp.Extract):
            by = by.expression if isinstance(by, exp.Extract) else by.this
        elif isinstance(by, exp.Anonymous) and by.name.lower().startswith("epoch") and by.expressions:
            by = by.expressions[0]
        elif isinstance(by, exp.Neg):
            by, turned = by.this, not turned
        elif isinstance(by, exp.Sub) and by.left.find(exp.Column) is None:
            by, turned = by.right, not turned
        elif isinstance(by, exp.Mul) and isinstance(by.right.unnest(), exp.Neg):
            by, turned = by.left, not turned
        elif isinstance(by, exp.Mul) and isinstance(by.left.unnest(), exp.Neg):
            by, turned = by.right, not turned
        else:
            return by, turned


def _function(window: exp.Window) -> exp.Expr:
    found = window.this
    while isinstance(found, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        found = found.this
    return found


def _is_zero(length: exp.Expr | str | None) -> bool:
    return isinstance(length, exp.Literal) and length.this == "0"
