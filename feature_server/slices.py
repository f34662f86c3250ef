"""A large JSON body, a slice at a time: no step over it takes long, however many values it holds.

`Scan` goes over the bytes a block at a time, with NumPy. It takes the content of the lists of an object, and of the
objects in it, out of the body, as `Slices` that are decoded when they are read; what is left is small.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import RequestError

BLOCK = 1 << 16  # bytes looked at in one step, and about those of one slice
PART = 4 * BLOCK  # bytes of the items that are taken together
MAX_LISTS = 10_000
LISTS_TOGETHER = 50  # begun in one step
MAX_REST = 30_000  # commas and brackets outside of lists
MAX_REST_BYTES = 2 << 20
_QUOTE, _BACKSLASH, _COMMA, _OPEN, _OPEN_LIST, _CLOSE = range(1, 7)
_KINDS = np.zeros(256, np.uint8)
for _character, _kind in zip(b'"\\,{[}]', (1, 2, 3, 4, 5, 6, 6), strict=True):
    _KINDS[_character] = _kind
_STEPS = np.array([0, 0, 0, 0, 1, 1, -1], np.int32)
_OF_LISTS = (2, 3)  # how deep their items are: in the outermost object, and in an object there
_PLACE = re.compile(r"\(byte (\d+)\)")
Positions = npt.NDArray[np.int64]


class NotJSON(msgspec.DecodeError):
    """A list of a body that is not JSON."""


class MalformedBody(RequestError):
    """A request body that is not JSON."""

    status = 400


def malformed(error: Exception) -> MalformedBody:
    """The error for a body that could not be decoded because of this one."""
    got = {UnicodeDecodeError: "bytes that are not UTF-8", RecursionError: "brackets nested too deeply"}
    return MalformedBody(
        "the body is not JSON", where="$", expected="a JSON object", got=got.get(type(error), str(error)),
        remedy="send a JSON object, in UTF-8",
    )  # fmt: skip


class Slices:
    """The items of one list, still as JSON."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._spans: list[tuple[int, int, int]] = []  # from and to which byte, and how many items
        self._count = 0
        self.longest = 0  # bytes, of which no item has more

    def __len__(self) -> int:
        return self._count

    def add(self, start: int, stop: int, count: int) -> None:
        self._spans.append((start, stop, count))
        self._count += count
        self.longest = max(self.longest, stop - start)

    def within(self, size: int) -> int:
        """`size`, or fewer items where so many are more than PART bytes, taking each to be as long as the others."""
        length = sum(stop - start for start, stop, _ in self._spans)
        return min(size, max(1, PART * self._count // max(1, length)))

    def parts(self, size: int, decode: Callable[[bytes], list[Any]] = msgspec.json.decode) -> Iterator[list[Any]]:
        """Its items, `size` at a time. Raises NotJSON, and what `decode` raises else."""
        waiting, body = list[Any](), memoryview(self._body)
        for start, stop, count in self._spans:
            try:
                found = decode(b"".join((b"[", body[start:stop], b"]")))
            except msgspec.DecodeError as error:
                if isinstance(error, msgspec.ValidationError):
                    raise
                raise NotJSON(_moved(str(error), start - 1)) from None
            if len(found) != count:
                raise NotJSON(f"JSON is malformed: an item is missing (byte {stop})")
            waiting += found
            del found
            while len(waiting) >= size:
                yield waiting[:size]
                del waiting[:size]
        if waiting:
            yield waiting


class Scan:
    """The lists of a body, and the `rest`: the body in which each is `["0"]`, `["1"]`, … by its place in `lists`."""

    def __init__(self, body: bytes) -> None:
        self.lists: list[Slices] = []
        self.rest = b""
        self._body, self._bytes = body, np.frombuffer(body, np.uint8)
        self._kept: list[bytes] = []  # of the rest
        self._end = 0  # of what is in it, or left out of it
        self._rest = self._rest_bytes = 0  # commas and brackets of it, and its bytes
        self._depth = 0
        self._in_string = self._escaped = False
        self._open: tuple[int, int] | None = None  # in which list this is: its depth, and from where no slice has it

    def steps(self) -> Iterator[None]:
        """Look at the whole body, a block at a time. RequestError where too much of it is not in lists."""
        for start in range(0, len(self._body), BLOCK):
            yield from self._look(*self._structure(start, self._bytes[start : start + BLOCK]))
            if self._open is None:
                self._keep(start + BLOCK)
            if len(self.lists) > MAX_LISTS or self._rest > MAX_REST or self._rest_bytes > MAX_REST_BYTES:
                raise RequestError(
                    "the body is large, and not by its lists of values",
                    where="$",
                    expected=f"at most {MAX_LISTS:,} lists, and {MAX_REST:,} values and {MAX_REST_BYTES:,} bytes "
                    "outside of them",
                    remedy="GET /openapi.json describes the body",
                )
            yield
        if self._open is None:  # else it is no JSON, whatever that list holds
            self._keep(len(self._body))
        self.rest = b"".join(self._kept)

    def _keep(self, end: int) -> None:
        """Take the body up to there into the rest."""
        self._kept.append(self._body[self._end : end])
        self._rest_bytes += len(self._kept[-1])
        self._end = min(end, len(self._body))

    def _structure(self, start: int, block: npt.NDArray[np.uint8]) -> tuple[Positions, npt.NDArray[np.uint8]]:
        """Where the commas and brackets outside of strings are, and what each is."""
        kinds = _KINDS.take(block)
        at = np.flatnonzero(kinds.view(np.bool_))
        kind = kinds.take(at)
        backslashes = at[kind == _BACKSLASH]
        quotes = kind == _QUOTE
        if len(backslashes) or self._escaped:
            escaped = np.zeros(len(block) + 1, np.bool_)
            escaped[0] = self._escaped
            if len(backslashes):
                order = np.arange(len(backslashes))
                first = np.diff(backslashes, prepend=-2) != 1
                runs = np.maximum.accumulate(np.where(first, order, 0))  # where the run of backslashes begins
                shift = (backslashes[runs] == 0) & self._escaped
                escaped[backslashes[(order - runs + shift) % 2 == 0] + 1] = True
            self._escaped = bool(escaped[-1])
            quotes &= ~escaped[at]
        if self._in_string or quotes.any():
            inside = np.cumsum(quotes, dtype=np.int32) + self._in_string & 1
            if len(inside):
                self._in_string = bool(inside[-1])
            found = (kind >= _COMMA) & (inside == 0)
            at, kind = at[found], kind[found]
        return at + start, kind

    def _look(self, at: Positions, kind: npt.NDArray[np.uint8]) -> Iterator[None]:
        """Take up the lists that begin, go on or end in a block."""
        depths = self._depth + np.cumsum(_STEPS.take(kind), dtype=np.int32)
        if len(depths):
            self._depth = int(depths[-1])
        begins = np.flatnonzero((kind == _OPEN_LIST) & (depths >= _OF_LISTS[0]) & (depths <= _OF_LISTS[1]))
        commas = {depth: np.flatnonzero((kind == _COMMA) & (depths == depth)) for depth in _OF_LISTS}
        ends = {depth: np.flatnonzero(depths < depth) for depth in _OF_LISTS}
        place = 0
        while len(self.lists) <= MAX_LISTS:
            if len(self.lists) % LISTS_TOGETHER == 0:
                yield
            if self._open is None:
                n = begins.searchsorted(place)
                if n == len(begins):
                    self._rest += len(at) - place
                    return
                begin = int(begins[n])
                self._rest += begin - place
                start = int(at[begin]) + 1
                self._open = (int(depths[begin]), start)
                self._keep(start)
                self._kept.append(b'"%d"' % len(self.lists))
                self.lists.append(Slices(self._body))
                place = begin + 1
            depth, start = self._open
            n = ends[depth].searchsorted(place)
            end = int(ends[depth][n]) if n < len(ends[depth]) else None
            mine = commas[depth]
            mine = mine[mine.searchsorted(place) : None if end is None else mine.searchsorted(end)]
            if end is None:
                if len(mine):
                    last = int(at[mine[-1]])
                    self.lists[-1].add(start, last, len(mine))
                    self._open = (depth, last + 1)
                return
            stop = int(at[end])
            if len(mine) or len(self.lists[-1]) or self._body[start:stop].strip():
                self.lists[-1].add(start, stop, len(mine) + 1)
            self._end, self._open, place = stop, None, end


def _moved(reason: str, offset: int) -> str:
    """A reason that names a byte of a slice, as it names that of the body."""
    return _PLACE.sub(lambda at: f"(byte {int(at[1]) + offset})", reason)
