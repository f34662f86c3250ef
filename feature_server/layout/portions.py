"""Much is written a little at a time: Redis answers nobody meanwhile, and ends a connection that sends it 1 GB."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

PORTION_BYTES = 16 << 20
Item = TypeVar("Item")


def portions(
    items: Iterable[Item], size: Callable[[Item], int], most: int, most_bytes: int | None = None
) -> Iterator[list[Item]]:
    """Items in their order, at most `most` and, unless one is larger, `most_bytes` at a time, else PORTION_BYTES.

    `size` is in bytes.
    """
    portion, total = list[Item](), 0
    for item in items:
        more = size(item)
        if portion and (len(portion) == most or total + more > (most_bytes or PORTION_BYTES)):
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += more
    if portion:
        yield portion
