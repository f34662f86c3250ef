"""Large events are written a few at a time: Redis ends a connection that sends it 1 GB at once."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

PORTION_BYTES = 16 << 20
Item = TypeVar("Item")


def portions(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Items in their order, at most `most` and, unless one is larger, PORTION_BYTES at a time; `size` is in bytes."""
    portion, total = list[Item](), 0
    for item in items:
        more = size(item)
        if portion and (len(portion) == most or total + more > PORTION_BYTES):
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += more
    if portion:
        yield portion
