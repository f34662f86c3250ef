"""The number of an event id: it stands for the id in Redis, and puts events of one key and one time in an order.

An integer is its own number, as two's complement in 64 bits; a text or UUID has the digest of its text. Events lie by
(event time, created timestamp, number), the number unsigned: of events with equal times that with the larger one is
the later.
"""

from hashlib import blake2b
from typing import Any

import pyarrow as pa

from .arrow import one_chunk
from .dtypes import INTEGER_WIDTHS, DType


def event_id_number(value: object, dtype: DType) -> int:
    if dtype.kind in INTEGER_WIDTHS:
        return int(value) % 2**64  # type: ignore[call-overload]
    return digest(str(value))


def event_id_numbers(ids: Any, dtype: DType) -> pa.Array:
    """As `event_id_number`, of a column: uint64."""
    ids = one_chunk(ids)
    if dtype.kind == "uint64":
        return ids
    if dtype.kind in INTEGER_WIDTHS:
        return ids.cast(pa.int64()).view(pa.uint64())
    return digests(ids if pa.types.is_string(ids.type) else ids.cast(pa.string()))


def digest(text: str) -> int:
    """The first 8 bytes of BLAKE2b of a text's UTF-8, as a little-endian integer."""
    return int.from_bytes(blake2b(text.encode(), digest_size=64).digest()[:8], "little")


def digests(texts: Any) -> pa.Array:
    """As `digest`, of an Arrow array of strings: uint64."""
    coded = texts.dictionary_encode()
    numbers = pa.array([digest(text) for text in coded.dictionary.to_pylist()], pa.uint64())
    return numbers.take(coded.indices)
