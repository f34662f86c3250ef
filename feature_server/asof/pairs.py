"""Which instants two builds are compared at, and the builds that takes."""

from collections.abc import Callable, Sequence
from typing import Any

from .scratch import LANDED, Asking, Build, Pair

_SHARE = 0.8  # of all rows have landed by the first instant of a pair, unless it is given


def chosen(
    asking: Asking, ask: Callable[[str], list[tuple[Any, ...]]], landings: Sequence[str]
) -> tuple[tuple[int, ...], int | None]:
    """The first instants and the later one, in microseconds; none where no row says when it landed.

    `landings` are tables with a column LANDED. N pairs have N steps of equally many rows before their first instant.
    """
    if asking.first_us and asking.later_us is not None:
        return asking.first_us, asking.later_us
    if not landings:
        return asking.first_us, asking.later_us
    every = " union all ".join(f"select {LANDED} as landed from {table}" for table in landings)
    later = asking.later_us
    if later is None:
        later = ask(f"select epoch_us(max(landed)) from ({every})")[0][0]
    if asking.first_us or later is None:
        return asking.first_us, later
    shares = [_SHARE * (step + 1) / asking.pairs for step in range(asking.pairs)]
    landed = f"select landed from ({every}) where landed < make_timestamptz({later})"
    found = ask(f"select epoch_us(unnest(quantile_disc(landed, {shares}))) from ({landed})")
    return tuple(sorted({us for (us,) in found if us is not None})), later


def builds_of(firsts: Sequence[int], later: int, models: Sequence[str], replayed: Sequence[str]) -> list[Pair]:
    """The builds of each pair; all pairs share the later one."""
    every = tuple(models)
    end = Build(name="later", as_of_us=later, events_by_us=later, backwards=True, models=every)
    return [
        Pair(
            first=Build(name=f"first_{number}", as_of_us=us, events_by_us=us, models=every),
            later=end,
            replay=Build(
                name=f"replay_{number}", as_of_us=later, events_by_us=us, backwards=True, models=tuple(replayed)
            )
            if replayed
            else None,
        )
        for number, us in enumerate(firsts)
    ]
