"""What a leak test found, as text."""

from collections.abc import Iterator, Mapping

from .compare import Compared
from .run import Compare, Found, LeakTest


def lines(test: LeakTest) -> Iterator[str]:
    """A line a view, what differs below it, and how many there are of each verdict."""
    for view in test.views:
        yield from _view(view)
    counts = dict.fromkeys(("leaks", "clean", "untestable", "nothing compared"), 0)
    for view in test.views:
        counts[view.verdict] += 1
    yield ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _view(view: Found) -> Iterator[str]:
    rows = sum(each.found.rows + each.found.gone for each in view.pairs)
    instants = f"{len(view.pairs)} pair{'s' if len(view.pairs) != 1 else ''} of instants"
    guessed = {each.found.by for each in view.pairs if each.found.by}
    by = "as whole rows, as nothing says what its keys are"
    if view.keys or guessed:
        by = f"by {', '.join(view.keys or min(guessed))}" + ("" if view.keys else ", which no two rows share")
    yield f"{view.view}: {view.verdict}; {rows:,} rows compared at {instants}, {by}"
    for each in view.pairs:
        yield from (f"  {line}" for line in _pair(view, each))
    yield from (f"  {reason}" for reason in view.reasons)


def _pair(view: Found, each: Compare) -> Iterator[str]:
    found: Compared = each.found
    if found.same:
        return
    same = ", of the same events" if each.replayed else ""
    yield f"as of {each.first} and as of {each.later}{same}: rows with {view.known_at} by the first instant"
    for column in found.columns:
        if not column.example:
            yield f"  {column.column}: {_value(column.first)}, later {_value(column.later)}"
            continue
        yield (
            f"  {column.column}: {column.share:.2%} of rows ({column.rows:,}) differ;"
            f" {_key(column.example)}: {_value(column.first)}, later {_value(column.later)}"
        )
    if found.appeared:
        yield f"  {found.appeared:,} rows appear only later; {_key(found.appeared_example or {})}"
    if found.gone:
        yield f"  {found.gone:,} rows are gone later; {_key(found.gone_example or {})}"
    if not found.by:
        yield "  --keys says by which columns to tell rows apart, and then which of the others differ"
    if found.repeated:
        yield f"  {found.repeated:,} rows share their keys with another"


def _key(example: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in example.items())


def _value(text: str | None) -> str:
    return "null" if text is None else text
