"""An answer in pieces: columns that were written part by part, and values that are too long to be written at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

PIECE = 1 << 17  # bytes of an answer that are sent together
Writer = Callable[[Sequence[Any], Sequence[int] | None], bytes]
Result = tuple[bytes | list[bytes], bytes, bytes]  # values, statuses and event timestamps as JSON without brackets
Lengthy = dict[tuple[int, int], list[bytes]]  # the long values of one entity, by view and position


def in_pieces(slices: Iterator[bytes], write: Writer, pieces: list[bytes], *, is_list: bool) -> Iterator[None]:
    """Write one value, given slices of it as stored values of their own; with a pause after each."""
    opening, between, closing = (b"[", b",", b"]") if is_list else (b'"', b"", b'"')
    pieces.append(opening)
    for part in slices:
        if len(pieces) > 1 and between:
            pieces.append(between)
        pieces.append(write([part], None)[2:-2])
        yield
    pieces.append(closing)


def joined(head: bytes, results: list[list[Result]]) -> Iterator[bytes]:
    """The body of an HTTP answer; what is written of the results is let go."""
    results.reverse()
    waiting, size = [head], len(head)
    while results:
        column = results.pop()
        for i, name in enumerate((b'{"values":[', b'],"statuses":[', b'],"event_timestamps":[')):
            waiting.append(name)
            for number, part in enumerate(column):
                if number:
                    waiting.append(b",")
                written = part[i]
                for piece in (written,) if isinstance(written, bytes) else written:
                    waiting.append(piece)
                    size += len(piece) + 1
                    if size > PIECE:
                        yield b"".join(waiting)
                        waiting, size = [], 0
        waiting.append(b"]}," if results else b"]}]}")
    yield b"".join(waiting)
