"""Request bodies: read whole within a limit, and decoded; whatever a client sends, its fault is told as a 4xx."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.types import Receive

from ..errors import UNREADABLE, RequestError, cut

MAX_BODY_BYTES = 8 << 20
T = TypeVar("T")


class BodyTooLarge(RequestError):
    """A request body beyond MAX_BODY_BYTES."""

    status = 413


class MalformedBody(RequestError):
    """A request body that is not JSON."""

    status = 400


def decode_body(decode: Callable[[bytes], T], body: bytes, expected: str) -> T:
    """MalformedBody where the body is not JSON, RequestError where it is not what `expected` shows."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        raise RequestError(
            cut(what),
            where=cut(where.strip("`")) or "$",
            expected=expected,
            remedy="GET /openapi.json describes the body",
        ) from None
    except UNREADABLE as error:
        got = {UnicodeDecodeError: "bytes that are not UTF-8", RecursionError: "brackets nested too deeply"}
        raise MalformedBody(
            "the body is not JSON", where="$", expected="a JSON object", got=got.get(type(error), str(error)),
            remedy="send a JSON object, in UTF-8",
        ) from None  # fmt: skip


async def read_body(receive: Receive) -> bytes | None:
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
        if not message.get("more_body"):
            return b"".join(parts)
    return None
