"""How a freshness promise stands: the one rule, for `features status` and for the feature server.

What is known of a view reaches to its newest event or to the instant that its last good run spoke of, whichever is
later: a night without events is no lateness while runs are good. An event of the future says nothing.

Light on purpose: the feature server imports it.
"""

from typing import Literal

import msgspec

from ..definitions.facts import Freshness

State = Literal["pass", "warn", "error"]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a promise stands; `age_us` is how old what is known is, None where nothing is. `good_us` is the instant up to
    which runs are good to their end, None where none is known."""

    state: State
    age_us: int | None
    good_us: int | None


def stands(
    promise: Freshness, *, now_us: int, newest_us: int | None, run_us: int | None, waiting_us: int | None = None
) -> Standing:
    """`newest_us` is the newest event over all keys that readers see, `run_us` the instant that the last good run which
    readers see spoke of, `waiting_us` since when pushed events wait to land: a run lacks those."""
    good_us = run_us if run_us is None or waiting_us is None else min(run_us, waiting_us)
    newest_us = None if newest_us is None or newest_us > now_us else newest_us
    known_us = max((us for us in (newest_us, good_us) if us is not None), default=None)
    age_us = None if known_us is None else max(now_us - known_us, 0)
    return Standing(state=state_of(promise, age_us), age_us=age_us, good_us=good_us)


def state_of(promise: Freshness, age_us: int | None) -> State:
    """As dbt judges sources: broken when it is older than the limit. Of nothing known the worst that has a limit."""
    states: tuple[tuple[State, int | None], ...] = (("error", promise.error_us), ("warn", promise.warn_us))
    for state, limit_us in states:
        if limit_us is not None and (age_us is None or age_us > limit_us):
            return state
    return "pass"
