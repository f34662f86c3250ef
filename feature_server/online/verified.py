"""What the last `features verify` of each view found, kept in Redis beside the registry: `/metrics` and status tell it.

Light on purpose: the HTTP server reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..errors import UNREADABLE, OnlineStoreError
from ..layout.keys import VERIFIED

if TYPE_CHECKING:
    from .store import OnlineStore


class LastVerified(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of `keys` keys of a view at an instant: `different` keys differed, `unexplained` of them wrongly."""

    instant_us: int
    keys: int
    different: int
    unexplained: int


def verified_key(view_id: str) -> bytes:
    return VERIFIED + view_id.encode()


def keep_verified(online: OnlineStore, view_id: str, found: LastVerified) -> None:
    """Put a result in the place of the view's last one."""
    from .store import redis_errors

    with redis_errors():
        online.client.set(verified_key(view_id), msgspec.json.encode(found))


def read_verified(online: OnlineStore, views: Sequence[str]) -> dict[str, LastVerified]:
    """The last result of each of these views that was ever verified."""
    from .store import redis_errors

    with redis_errors():
        stored = online.client.mget([verified_key(view_id) for view_id in views]) if views else []
    found = {view_id: decode_verified(value) for view_id, value in zip(views, stored, strict=True)}
    return {view_id: last for view_id, last in found.items() if last is not None}


def forget_verified(online: OnlineStore, view_id: str) -> None:
    """Drop the result of a view that is gone."""
    from .store import redis_errors

    with redis_errors():
        online.client.delete(verified_key(view_id))


def decode_verified(stored: bytes | None) -> LastVerified | None:
    """The value of `verified_key`; None for a view that was never verified."""
    try:
        return None if stored is None else msgspec.json.decode(stored, type=LastVerified)
    except UNREADABLE as error:
        raise OnlineStoreError(
            "the result of the last `features verify` cannot be read", where=VERIFIED.decode() + "<view>",
            got=str(error), remedy="run `features verify` with the version of feature-warehouse that serves",
        ) from None  # fmt: skip
