"""The frame of a window function → Frame."""

from collections.abc import Callable

from sqlglot import exp

from ..definitions.stream import Frame
from .refusals import Refusals

LONGEST_US = 90 * 86_400_000_000
Length = Callable[[exp.Expr], "int | None"]  # microseconds of an interval; None if it has no fixed length
_RANGE = "`range between interval 1 hour preceding and current row`"


def read_frame(window: exp.Window, length: Length, refusals: Refusals) -> Frame | None:
    """The frame of a window function over event time; None, with a refusal, when it cannot be kept in real time."""
    spec = window.args.get("spec")
    if spec is None:
        refusals.add(window, "a window without a frame", f"name the frame, e.g. {_RANGE}")
        return None
    if str(spec.args.get("kind")).upper() != "RANGE":
        refusals.add(window, "a frame that counts rows", f"a frame of time, e.g. {_RANGE}")
        return None
    if spec.args.get("exclude"):
        refusals.add(window, "a frame with EXCLUDE", "leave EXCLUDE out")
        return None
    start, start_side = spec.args.get("start"), str(spec.args.get("start_side") or "").upper()
    end, end_side = spec.args.get("end"), str(spec.args.get("end_side") or "").upper()
    if "FOLLOWING" in (start_side, end_side):
        refusals.add(window, "a frame that looks ahead of the row", f"end at `current row`, e.g. {_RANGE}")
        return None
    preceding = None if _is(start, "UNBOUNDED") else _microseconds(start, length, refusals, window)
    delay = 0 if end is None or _is(end, "CURRENT ROW") else _microseconds(end, length, refusals, window)
    if delay is None or (preceding is None and not _is(start, "UNBOUNDED")):
        return None
    if preceding is not None and preceding > LONGEST_US:
        refusals.add(window, "a frame longer than 90 days", "at most 90 days, or `unbounded preceding` for a lifetime")
        return None
    if preceding is not None and preceding < delay:
        refusals.add(window, "a frame that ends before it starts", f"the longer interval first, e.g. {_RANGE}")
        return None
    return Frame(preceding, delay)


def _microseconds(bound: object, length: Length, refusals: Refusals, window: exp.Window) -> int | None:
    if _is(bound, "CURRENT ROW"):
        return 0
    found = length(bound) if isinstance(bound, exp.Expr) else None
    if found is None:
        refusals.add(
            window, "a frame bound that is not a fixed length of time", "an interval of seconds, minutes, hours or days"
        )
    return found


def _is(bound: object, word: str) -> bool:
    return (bound if isinstance(bound, str) else getattr(bound, "name", "")).upper() == word
