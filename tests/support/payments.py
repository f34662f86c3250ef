"""A card payment as a client pushes it and as a producer writes it."""

from __future__ import annotations

import msgspec

from tests.support.live_project import NOW


def event(number: int) -> dict[str, bytes]:
    """A payment as a producer puts it in the stream."""
    columns = {"payment_id": number, "customer": 3, "merchant": "m", "amount": 5, "paid_at": NOW, "ingested_at": NOW}
    return {"event": msgspec.json.encode(columns)}


EVENT = {"payment_id": 7, "customer": 3, "merchant": "m", "amount": 5, "paid_at": NOW, "ingested_at": NOW}
