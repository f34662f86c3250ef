"""Request bodies: read whole within a limit, and decoded; whatever a client sends, its fault is told as a 4xx."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive

from ..errors import UNREADABLE, FeatureStoreError, RequestError, cut
from ..protocol import GetOnlineFeatures
from ..serving.plan import MOST_TOGETHER
from ..slices import BLOCK, Scan, Slices, malformed

MAX_BODY_BYTES = 8 << 20
LARGE = 128 << 10  # bytes from which a body is decoded in slices
MAX_HELD_BYTES = 256 << 20  # of the large bodies of all requests of a worker, from their first byte to their answer
MAX_FEATURES = 100_000  # of one read
NAMES_TOGETHER = 1_000  # lists of join keys that are taken up in one turn
MAX_ITEM_BYTES = 256 << 10  # of one join key or name of a feature, of which all is made at once
_decode = msgspec.json.Decoder(GetOnlineFeatures).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_EXPECTED = '{"features": ["view:feature"] or "feature_service": "name", "entities": {"join_key": [values]}}'
T = TypeVar("T")


class BodyTooLarge(RequestError):
    """A request body beyond MAX_BODY_BYTES."""

    status = 413


class TooManyBodies(FeatureStoreError):
    """A large body while there are MAX_HELD_BYTES of others."""

    status = 503
    retry_after_seconds = 1


class Room:
    """What a worker holds of large bodies: however many clients send some, small ones find memory."""

    def __init__(self) -> None:
        self.held = 0


class Held:
    """What one request holds of that."""

    def __init__(self, room: Room) -> None:
        self._room, self._size = room, 0

    def grow(self, size: int) -> None:
        """To so many bytes; TooManyBodies where there is no room for them."""
        if size <= LARGE:
            return
        if self._room.held - self._size + size > MAX_HELD_BYTES:
            raise TooManyBodies(
                "this server has large bodies of too many other requests", expected=f"{MAX_HELD_BYTES:,} bytes in all",
                remedy="send it again; with more workers (--workers) there is room for more",
            )  # fmt: skip
        self._room.held += size - self._size
        self._size = size

    def let_go(self) -> None:
        self._room.held -= self._size
        self._size = 0


def decode_body(decode: Callable[[bytes], T], body: bytes, expected: str) -> T:
    """MalformedBody where the body is not JSON, RequestError where it is not what `expected` shows."""
    try:
        return decode(body)
    except UNREADABLE as error:
        raise _refused(error, expected) from None


def _refused(error: Exception, expected: str, within: str = "$") -> RequestError:
    if isinstance(error, msgspec.ValidationError):
        what, _, where = str(error).partition(" - at ")
        place = within + (where.strip("`") or "$")[1:]
        return RequestError(
            cut(what), where=cut(place), expected=expected, remedy="GET /openapi.json describes the body"
        )
    return malformed(error)


async def scan_body(body: bytes) -> Scan:
    """Others have their turns meanwhile."""
    scan = Scan(body)
    for _ in scan.steps():
        await asyncio.sleep(0)
    return scan


def decode_read(body: bytes) -> GetOnlineFeatures:
    return decode_body(_decode, body, _EXPECTED)


async def decode_large_read(body: bytes) -> GetOnlineFeatures:
    """A read whose entities are Slices, for `parts_of`."""
    scan = await scan_body(body)
    request = decode_body(_decode, scan.rest, _EXPECTED)
    if request.features is not None:
        request.features = await _features(scan.lists[int(request.features[0])])
    for number, (name, (place,)) in enumerate(request.entities.items()):
        if number % NAMES_TOGETHER == 0:
            await asyncio.sleep(0)
        request.entities[name] = keys = scan.lists[int(place)]  # type: ignore[assignment]
        _check_longest(keys, "a join key", f"entities.{cut(name)}")
    return request


def _check_longest(column: Slices, what: str, where: str) -> None:
    if column.longest > MAX_ITEM_BYTES + BLOCK:  # others may lie beside it in its block
        raise RequestError(
            f"{what} is too long", where=where, expected=f"at most {MAX_ITEM_BYTES:,} bytes",
            got=f"{column.longest - BLOCK:,} bytes or more",
        )  # fmt: skip


async def _features(column: Slices) -> list[str]:
    features: list[str] = []
    _check_longest(column, "the name of a feature", "features")
    if len(column) > MAX_FEATURES:
        raise RequestError(
            "the request asks for too many features at once", where="features", expected=f"at most {MAX_FEATURES:,}",
            got=f"{len(column):,}", remedy="split them over several requests",
        )  # fmt: skip
    try:
        for part in column.parts(MOST_TOGETHER, _decode_names):
            features += part
            await asyncio.sleep(0)
    except UNREADABLE as error:
        raise _refused(error, _EXPECTED, "$.features") from None
    return features


def parts_of(columns: Sequence[Sequence[Any] | Slices], size: int) -> Iterator[tuple[list[Any], ...]]:
    """Columns of one length, `size` items at a time, or fewer where they are long; those of Slices are let go then."""
    size = min([size, *(column.within(size) for column in columns if isinstance(column, Slices))])
    parts = [column.parts(size) if isinstance(column, Slices) else _parts(column, size) for column in columns]
    try:
        yield from zip(*parts, strict=True)
    except UNREADABLE as error:
        raise _refused(error, _EXPECTED) from None


def _parts(column: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(column), size):
        yield list(column[start : start + size])


async def read_body(receive: Receive, held: Held) -> bytes | None:
    """The whole body; None when the client has gone."""
    parts, size = [], 0
    while (message := await receive())["type"] == "http.request":
        parts.append(message["body"])
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(
                "the body is too large",
                where="body",
                expected=f"at most {MAX_BODY_BYTES:,} bytes",
                got=f"{size:,} bytes or more",
                remedy="split it over several requests",
            )
        held.grow(size)
        if not message.get("more_body"):
            return b"".join(parts)
    return None
