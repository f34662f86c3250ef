"""What the last `features verify` of each view found, kept in Redis beside the registry: `/metrics` and status tell it.

Light on purpose: the HTTP server reads it.
"""

import msgspec

from ..errors import UNREADABLE, OnlineStoreError
from ..layout.keys import VERIFIED


class LastVerified(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of `keys` keys of a view at an instant: `different` keys differed, `unexplained` of them wrongly."""

    instant_us: int
    keys: int
    different: int
    unexplained: int


def verified_key(view_id: str) -> bytes:
    return VERIFIED + view_id.encode()


def decode_verified(stored: bytes | None) -> LastVerified | None:
    """The value of `verified_key`; None for a view that was never verified."""
    try:
        return None if stored is None else msgspec.json.decode(stored, type=LastVerified)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the result of the last `features verify` cannot be read", where=VERIFIED.decode() + "<view>",
            got=str(error), remedy="run `features verify` with the version of feature-warehouse that serves",
        ) from None  # fmt: skip
